"""Runs the steps of the check, each in a process of its own, within the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference import machine
from inference.gpu.report import write_report
from inference.gpu.rows import FAILED, FILE, SKIPPED, Row, no_time, read, write
from inference.run import ROOT, Step, Store, in_child
from inference.tasks import Size, Task, network_name
from MoBUncertaintyLib.base.errors import Cancelled

BUDGET = 480.0
"""Seconds for everything."""
SAMPLES_ON_CPU = 8
"""K, if less than asked for: it is what takes longest there."""
GPU_SIZE, CPU_SIZE = (256, 256, 256), (64, 64, 64)
"""Voxels of the CT."""


@dataclass(frozen=True)
class Part:
    """A process of the check.

    Attributes:
        title: For people.
        task: What it does.
        needs: Seconds that it needs at least, roughly: it is not begun with less.
    """

    title: str
    task: Task
    needs: float


def run_check(
    folder: Path,
    networks: tuple[str, ...],
    device: str = "auto",
    samples: int = 30,
    threads: int | None = None,
    step: Step = lambda group, done, total, left: None,
    cancelled: Callable[[], bool] = lambda: False,
    budget: float = BUDGET,
) -> dict[str, Any]:
    """Check a machine, and write `gpu-check.json` and `gpu-check.md`.

    Args:
        folder: New, empty, or a benchmark's.
        networks: As for the benchmark; the large one is left out on a CPU.
        device: As for `predict`.
        samples: K.
        threads: Of the CPU; None: torch's own choice.
        step: Told how far it is, as by `inference.run`.
        cancelled: Asked all the time.
        budget: Seconds; what would pass them is skipped.

    Returns:
        The content of `gpu-check.json`.

    Raises:
        OutputError: The folder holds something else.
        UserError: There is no such device or network.
        Cancelled: `cancelled` said so.
    """
    from inference.networks import find_network
    from MoBUncertaintyLib.inference.devices import select_device

    where = select_device(device)
    for name in networks:
        if name != "large":
            find_network(name)
    Store(folder)
    rows = folder / FILE
    rows.write_text("", encoding="utf-8")
    start = time.time()
    until, broken = start + budget, set()
    gpu = where.type == "cuda"
    parts = plan(networks, str(where), gpu, samples, threads, GPU_SIZE if gpu else CPU_SIZE, until)
    for number, part in enumerate(parts):
        step("GPU check", number, len(parts), max(until - time.time(), 0.0))
        if part.task.network in broken or None in broken:
            continue
        if time.time() + part.needs > until:
            write(rows, Row(part.task.kind, part.title, SKIPPED, no_time(part.needs)))
            continue
        outcome = _within(part.task, folder, until, cancelled)
        if "result" not in outcome:
            late = outcome.get("late", False)
            why = "It was stopped when the time was over." if late else f"Its process failed: {outcome['failed']}"
            write(rows, Row(part.task.kind, part.title, SKIPPED if late else FAILED, why))
            if part.task.kind in ("cases", "network"):
                broken.add(part.task.network)
    step("GPU check", len(parts), len(parts), None)
    return write_report(folder, read(rows), machine.describe(ROOT), where, time.time() - start, budget)


def plan(
    networks: tuple[str, ...], device: str, gpu: bool, samples: int, threads: int | None, size: Size, until: float
) -> list[Part]:
    """The processes in their order: what matters most comes first."""
    used = [name for name in networks if gpu or name != "large"]
    drawn = samples if gpu else min(samples, SAMPLES_ON_CPU)
    common = {"device": device, "threads": threads, "samples": drawn, "repeats": 20 if gpu else 1}
    parts = [Part("the CT", Task("cases", size=size), 0.0)]
    parts += [Part(f"network {network_name(name)}", Task("network", name), 0.0) for name in used]

    for name in used:
        # A CPU would take minutes for whole predictions of the large network.
        groups = [("tiles", "samples")] if name == "large" else [("tiles", "samples", "predictions"), ("memory",)]
        for steps in groups:
            task = Task("gpu-check", name, size, options=common | {"steps": steps, "until": until})
            parts.append(Part(f"{network_name(name)}: {', '.join(steps)}", task, 25.0 if name == "large" else 10.0))
    return parts


def _within(task: Task, folder: Path, until: float, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Run a task; what is not done in time is ended (`late`)."""
    late = []

    def stop() -> bool:
        if cancelled():
            return True
        late.extend([True] * (time.time() > until))
        return bool(late)

    try:
        return in_child(task, folder, stop)
    except Cancelled:
        if not late:
            raise
        return {"late": True}
