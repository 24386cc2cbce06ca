"""The steps of a check, as their processes carry them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inference.gpu.rows import Rows
from MoBUncertaintyLib.inference.devices import select_device
from MoBUncertaintyLib.model.folder import Model

LARGEST_TILE = 128
"""Voxels along an axis: float32 on the CPU, which all is compared with, takes seconds for that."""


def run_steps(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Carry out the steps that a task names; their rows are the result."""
    from inference.networks import open_model

    options = task["options"]
    device = select_device(options["device"])
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # some of PyTorch's functions want the number
        torch.cuda.set_device(device)
    model = open_model(folder, task["network"])
    for step in options["steps"]:
        STEPS[step](Rows(folder, step, options["until"]), model, device, folder, task)
    return {}


def _tiles(rows: Rows, model: Model, device: torch.device, folder: Path, task: dict[str, Any]) -> None:
    from inference.gpu.paths import check_paths

    options = task["options"]
    check_paths(
        rows,
        model,
        _tile(model, folder, task),
        device,
        options["samples"],
        options["repeats"],
        _trained(task),
    )


def _samples(rows: Rows, model: Model, device: torch.device, folder: Path, task: dict[str, Any]) -> None:
    from inference.gpu.paths import check_samples

    check_samples(rows, model, _tile(model, folder, task), device, task["options"]["samples"])


def _predictions(rows: Rows, model: Model, device: torch.device, folder: Path, task: dict[str, Any]) -> None:
    from inference.gpu.volumes import check_predictions

    check_predictions(rows, model, _ct(folder, task), device, _trained(task))


def _memory(rows: Rows, model: Model, device: torch.device, folder: Path, task: dict[str, Any]) -> None:
    from inference.gpu.volumes import check_ladder

    patch = model.plans["configurations"][model.card.configuration]["patch_size"]
    check_ladder(rows, model, device, tuple(int(n) for n in patch))


STEPS = {
    "tiles": _tiles,
    "samples": _samples,
    "predictions": _predictions,
    "memory": _memory,
}


def _tile(model: Model, folder: Path, task: dict[str, Any]) -> torch.Tensor:
    """The network's input (1, 1, *S) around the middle of the CT, no larger than a patch."""
    from MoBUncertaintyLib.inference.preprocessing import Preprocessor

    preprocessor = Preprocessor(model.plans, model.dataset, model.card.configuration, model.card.orientation)
    data = torch.from_numpy(preprocessor.prepare(_ct(folder, task)).data)
    for axis, size in enumerate(preprocessor.patch, start=1):
        size = min(size, LARGEST_TILE)
        short = max(size - data.shape[axis], 0)
        padding = [0, 0] * (3 - axis) + [short // 2, short - short // 2]
        data = torch.nn.functional.pad(data, padding)
        data = data.narrow(axis, (data.shape[axis] - size) // 2, size)
    return data[None].contiguous()


def _ct(folder: Path, task: dict[str, Any]) -> Any:
    import SimpleITK as sitk

    from inference.cases import case_file

    return sitk.ReadImage(str(case_file(folder, tuple(task["size"]))))


def _trained(task: dict[str, Any]) -> bool:
    """Random weights have probabilities of any kind, which are not held to bounds."""
    return task["network"] != "large"
