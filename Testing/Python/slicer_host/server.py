"""Processes that find Slicer's core and Qt imported: forks of a server that holds no application yet."""

import faulthandler
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

SERVER = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
PACKAGES = ["hypothesis", "isal.igzip", "matplotlib.figure", "nibabel", "PIL.ImageDraw", "psutil", "pydicom"]
PACKAGES += ["scipy.linalg", "scipy.ndimage", "scipy.sparse.csgraph", "SimpleITK"]
"""What the tests and the core import, but for torch."""
if hasattr(os, "fork"):
    SERVER.set_forkserver_preload(["pytest", "slicer_host.host", *PACKAGES])


def start(target: Callable[..., Any], *arguments: Any, output: Path, environment: Mapping[str, str]) -> BaseProcess:
    """Call a function in a process of its own; what it and its children print goes to a file.

    Args:
        target: At the top of its module, which imports neither Slicer nor torch.
        *arguments: Its own; they are pickled.
        output: Made anew, in a folder that the caller removes. The process's temporary files go there, too: it ends
            without the clean-up that Python does at its end.
        environment: All of the process's variables.
    """
    process = SERVER.Process(target=_run, args=(target, arguments, output, dict(environment)), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # else the server finds nothing of ours
        process.start()
    return process


def said(output: Path) -> str:
    """What was printed, without the list of hundreds of extension modules that Python prints after a crash."""
    return output.read_text(encoding="utf-8", errors="replace").partition("\nExtension modules: ")[0]


def _run(target: Callable[..., Any], arguments: tuple, output: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = os.environ["TMPDIR"] = str(output.parent)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    faulthandler.enable()
    gc.freeze()  # what the server has imported stays: no collection needs to look through it
    target(*arguments)
