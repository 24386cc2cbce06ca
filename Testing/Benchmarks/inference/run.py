"""Runs the measurements one after another, each in a fresh process, and keeps what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference import machine
from inference.tasks import BenchmarkSettings, Task, network_name, plan
from MoBUncertaintyLib.base.errors import Cancelled, OutputError, UserError

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
FILE = "measurements.jsonl"
PREPARATION = ("cases", "network")
GROUPS = {
    "cases": "Making CTs",
    "network": "Making networks",
    "system": "Systems",
    "interactive": "Region",
}
"""What is shown of each kind of measurement while it runs."""

Step = Callable[[str, int, int, "float | None"], None]


def run(
    folder: Path,
    settings: BenchmarkSettings,
    step: Step = lambda group, done, total, left: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure what is missing, and write the report.

    Args:
        folder: Everything is written there; measurements that are there already are kept.
        settings: What is measured.
        step: Told of the group of measurements, how many of it are done and in total, and the seconds left in all.
        cancelled: Asked all the time; the measurement under way is then given up.

    Returns:
        The content of `benchmark.json`.

    Raises:
        OutputError: The folder holds something else or cannot be written.
        UserError: There is no such device or network, or a CT or a network cannot be made.
        Cancelled: `cancelled` said so; finished measurements stay.
    """
    from inference.networks import find_network
    from inference.report import write_report
    from MoBUncertaintyLib.inference.devices import select_device

    select_device(settings.device)
    for name in settings.networks:
        if name != "large":
            find_network(name)
    tasks = plan(settings)
    try:
        store = Store(folder)
        measure(tasks, folder, store, step, cancelled)
        return write_report(folder, settings, store.of(tasks), machine.describe(ROOT))
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{folder} cannot be written ({reason}); choose another folder.") from error


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
        stated = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "revision": machine.revision(ROOT)}
        entry = {"key": task.key, "task": asdict(task), **stated, **outcome}
        self.entries[task.key] = entry
        # What a run that was killed has left of its last line must not swallow this one.
        whole = self.path.read_bytes()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if not whole or whole.endswith(b"\n") else "\n") + json.dumps(entry) + "\n")

    def of(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """The entries of these tasks, in their order."""
        return [self.entries[task.key] for task in tasks if task.key in self.entries]


def measure(tasks: Sequence[Task], folder: Path, store: Store, step: Step, cancelled: Callable[[], bool]) -> None:
    """Run the tasks that the store has no result of; see `run`."""
    done, total = Counter(), Counter(_group(task) for task in tasks)
    began, waiting = time.monotonic(), [task for task in tasks if not store.is_done(task) or _is_gone(task, folder)]
    ahead = sum(task.weight for task in waiting)
    worked = 0.0
    for task in tasks:
        group = _group(task)
        left = (time.monotonic() - began) / worked * (ahead - worked) if worked else None
        step(group, done[group], total[group], left)
        if task in waiting:
            outcome = in_child(task, folder, cancelled)
            if task.kind in PREPARATION and "failed" in outcome:
                raise UserError(f"{task.title} could not be made: {outcome['failed']}")
            store.add(task, outcome)
            worked += task.weight
        done[group] += 1
        step(group, done[group], total[group], None)


def in_child(task: Task, folder: Path, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Run one task: its `result`, or why it `failed`, in a sentence; what it printed stays in `logs`.

    Raises:
        Cancelled: `cancelled` said so.
    """
    (folder / "logs").mkdir(exist_ok=True)
    log = folder / "logs" / f"{task.key}.txt"
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder.resolve(), ignore_cleanup_errors=True) as scratch:
        request, answer = (Path(scratch) / name for name in ("task.json", "result.json"))
        told = asdict(task) | {"folder": str(folder.resolve()), "scratch": scratch}
        request.write_text(json.dumps(told), encoding="utf-8")
        command = [sys.executable, "-m", "inference.child", str(request), str(answer)]
        with log.open("w", encoding="utf-8") as file, _stopped_at_the_end(command, file, task, folder) as process:
            while process.poll() is None:
                if cancelled():
                    raise Cancelled("The benchmark was cancelled; finished measurements are kept.")
                time.sleep(0.05)
        if process.returncode == 0 and answer.exists():
            return {"result": json.loads(answer.read_text(encoding="utf-8"))}
    if process.returncode == -getattr(signal, "SIGKILL", 9):
        return {"failed": "The system ended it, most probably because the memory did not suffice."}
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"failed": lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit code {process.returncode}"}


def environment(folder: Path, threads: int | None) -> dict[str, str]:
    """What a measurement's process finds in its environment: this checkout's packages before installed ones, as many
    threads as asked for, in nnU-Net too, and a place for nnU-Net's planning."""
    paths = [BENCHMARKS, ROOT / "MoBUncertainty", ROOT / "training"]
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }
    found |= {
        f"nnUNet_{part}": str(folder.resolve() / "planning" / part) for part in ("raw", "preprocessed", "results")
    }
    if threads:
        found |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc")}
    return found


@contextmanager
def _stopped_at_the_end(command: list[str], log: Any, task: Task, folder: Path) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the block. Ctrl-C in the terminal is for us, who then end it."""
    process = subprocess.Popen(
        command,
        env=environment(folder, task.options.get("threads")),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _group(task: Task) -> str:
    network = "" if task.network is None or task.kind == "network" else f", {network_name(task.network)}"
    return GROUPS[task.kind] + network


def _is_gone(task: Task, folder: Path) -> bool:
    """Whether a CT or a network that was made has been removed since."""
    if task.kind == "cases":
        from inference.cases import case_file

        return not case_file(folder, task.size).exists()
    return task.kind == "network" and not (folder / "networks" / network_name(task.network) / "about.json").exists()
