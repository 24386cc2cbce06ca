"""One measurement in a process of its own: `python -m inference.child TASK.json RESULT.json`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()


def main() -> None:
    task_file, result_file = map(Path, sys.argv[1:])
    task = json.loads(task_file.read_text(encoding="utf-8"))
    threads = task["options"].get("threads")
    if threads:
        import torch

        torch.set_num_threads(threads)
    result = MEASUREMENTS[task["kind"]](Path(task["folder"]), task) | _memory()
    result_file.write_text(json.dumps(result, default=float), encoding="utf-8")


def _cases(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    import SimpleITK as sitk

    from inference.cases import make_case

    image = sitk.ReadImage(str(make_case(folder, tuple(task["size"]))))
    return {"size": image.GetSize(), "spacing_mm": image.GetSpacing()}


def _network(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    from inference.networks import make_network

    return make_network(folder, task["network"])


def _system(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Cold and warm runs of one system; importing and loading the model apart."""
    from inference.cases import case_file

    options, system = task["options"], task["system"]
    stock = system == "a"
    # Ours loads nnU-Net too, for its preprocessing; both import all they need before the clock of the first run.
    if stock:
        from inference.networks import stock_folder
        from inference.stock import StockSystem
    else:
        from inference.networks import open_model
        from inference.ours import OurSystem
    from inference.measure import repeated

    imported = time.perf_counter() - BEGAN
    start = time.perf_counter()
    if stock:
        measured = StockSystem(stock_folder(folder, task["network"]), options["device"])
    else:
        model = open_model(folder, task["network"])
        measured = OurSystem(system, model, options["device"], options["samples"], options["scene"])
    loaded = time.perf_counter() - start
    ct, output = case_file(folder, tuple(task["size"])), Path(task["scratch"]) / "output"
    runs = repeated(lambda: measured.run(ct, output), options["repeats"], options["limit"])
    load = loaded if stock else loaded + measured.load_seconds
    return {"import_s": imported, "load_s": load, **runs, **measured.describe()}


MEASUREMENTS = {"cases": _cases, "network": _network, "system": _system}


def _memory() -> dict[str, Any]:
    """Peak memory of the process and, where one was used, of the GPU, bytes."""
    from inference.measure import peak_memory

    memory: dict[str, Any] = {"peak_bytes": peak_memory()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        memory |= {"gpu_peak_bytes": torch.cuda.max_memory_allocated(), "gpu": torch.cuda.get_device_name()}
    return memory


if __name__ == "__main__":
    main()
