"""The module itself on the desktop, with the real worker in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from slicer_host.host import Desktop, open_module
from support import MODULE_FOLDER

DEMO_MODEL = "PhantomPancreas"


def open_panel() -> Desktop:
    """Open MoB Uncertainty; its worker runs in this Python, where Slicer has PythonSlicer."""
    desktop = open_module("MoBUncertainty", MODULE_FOLDER)
    from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

    desktop.logic.client.close()
    desktop.logic.client = WorkerClient(sys.executable, dict(os.environ))
    return desktop


def load_demo(desktop: Desktop):
    """Click on the link that loads the demo CT, and choose the demo model; returns the CT."""
    desktop.ui.sampleLabel.linkActivated.emit("demo")
    desktop.process()
    desktop.ui.modelSelector.currentText = DEMO_MODEL
    return desktop.ui.ctSelector.currentNode()


def apply(desktop: Desktop, seconds: float = 240.0) -> None:
    """Press Apply and wait until it is Apply again."""
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: not running(desktop), seconds=seconds)


def running(desktop: Desktop) -> bool:
    """Whether the worker segments or exports."""
    return "Cancel" in (desktop.ui.applyButton.text, desktop.ui.exportButton.text)


def worker_processes() -> list[int]:
    """The workers that this process has started (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if parent == os.getpid() and (b"MoBUncertaintyLib.worker" in command or b"fake_worker" in command):
            found.append(int(folder.name))
    return found
