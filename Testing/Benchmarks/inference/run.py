"""Runs the measurements one after another, each in a fresh process, and keeps what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference import machine
from inference.cases import case_file
from inference.tasks import BenchmarkSettings, Task, network_name, plan
from MoBUncertaintyLib.base.errors import OutputError, UserError

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
FILE = "measurements.jsonl"


def run(folder: Path, settings: BenchmarkSettings) -> dict[str, Any]:
    """Measure what is missing, and write the report.

    Args:
        folder: Everything is written there; measurements that are there already are kept.
        settings: What is measured.

    Returns:
        The content of `benchmark.json`.

    Raises:
        OutputError: The folder holds something else.
        UserError: There is no such device or network, or a CT or a network cannot be made.
    """
    from inference.networks import find_network
    from inference.report import write_report
    from MoBUncertaintyLib.inference.devices import select_device

    select_device(settings.device)
    for name in settings.networks:
        if name != "large":
            find_network(name)
    tasks, store = plan(settings), Store(folder)
    for number, task in enumerate(tasks, 1):
        if store.is_done(task) and not _is_gone(task, folder):
            continue
        print(f"{number} of {len(tasks)}: {task.title}", file=sys.stderr, flush=True)
        outcome = in_child(task, folder)
        if task.kind in ("cases", "network") and "failed" in outcome:
            raise UserError(f"{task.title} could not be made: {outcome['failed']}")
        store.add(task, outcome)
    return write_report(folder, settings, store.of(tasks), machine.describe(ROOT))


class Store:
    """The measurements of a folder, one JSON line each; a line that was cut short is as if it were not there.

    Args:
        folder: Made if there is none.

    Raises:
        OutputError: The folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        if folder.is_dir() and any(folder.iterdir()) and not self.path.exists():
            raise OutputError(f"{folder} contains files other than a benchmark; choose a new or empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self.entries: dict[str, dict[str, Any]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                self.entries[entry["key"]] = entry
            except (ValueError, TypeError, KeyError):
                continue

    def is_done(self, task: Task) -> bool:
        """Whether the task was measured with success."""
        return "result" in self.entries.get(task.key, {})

    def add(self, task: Task, outcome: dict[str, Any]) -> None:
        """Keep the outcome of a task: its `result`, or why it `failed`."""
        about = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "revision": machine.revision(ROOT)}
        entry = {"key": task.key, "task": asdict(task), **about, **outcome}
        self.entries[task.key] = entry
        # What a run that was killed has left of its last line must not swallow this one.
        whole = self.path.read_bytes()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if not whole or whole.endswith(b"\n") else "\n") + json.dumps(entry) + "\n")

    def of(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """The entries of these tasks, in their order."""
        return [self.entries[task.key] for task in tasks if task.key in self.entries]


def in_child(task: Task, folder: Path) -> dict[str, Any]:
    """Run one task: its `result`, or why it `failed`, in a sentence; what it printed stays in `logs`."""
    (folder / "logs").mkdir(exist_ok=True)
    log = folder / "logs" / f"{task.key}.txt"
    with (
        tempfile.TemporaryDirectory(prefix="scratch-", dir=folder.resolve(), ignore_cleanup_errors=True) as scratch,
        log.open("w", encoding="utf-8") as file,
    ):
        request, answer = (Path(scratch) / name for name in ("task.json", "result.json"))
        request.write_text(json.dumps(asdict(task) | {"folder": str(folder.resolve()), "scratch": scratch}))
        command = [sys.executable, "-m", "inference.child", str(request), str(answer)]
        variables = environment(folder, task.options.get("threads"))
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            process.kill()  # after Ctrl-C
        if code == 0 and answer.exists():
            return {"result": json.loads(answer.read_text(encoding="utf-8"))}
    if code == -getattr(signal, "SIGKILL", 9):
        return {"failed": "The system ended it, most probably because the memory did not suffice."}
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"failed": lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit code {code}"}


def environment(folder: Path, threads: int | None) -> dict[str, str]:
    """What a measurement's process finds in its environment: this checkout's packages before installed ones, as many
    threads as asked for, in nnU-Net too, and a place for nnU-Net's planning."""
    paths = [BENCHMARKS, ROOT / "MoBUncertainty", ROOT / "training"]
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }
    variables |= {
        f"nnUNet_{part}": str(folder.resolve() / "planning" / part) for part in ("raw", "preprocessed", "results")
    }
    if threads:
        variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc")}
    return variables


def _is_gone(task: Task, folder: Path) -> bool:
    """Whether a CT or a network that was made has been removed since."""
    if task.kind == "cases":
        return not case_file(folder, task.size).exists()
    return task.kind == "network" and not (folder / "networks" / network_name(task.network) / "about.json").exists()
