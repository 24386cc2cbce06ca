"""Call functions that need Slicer's core from tests that have imported torch."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from slicer_host import server


def in_slicer(module: str, function: str, *arguments: Any) -> tuple[Any, str]:
    """Call a function of a module of `support` in a process of its own.

    Returns:
        Its result and what it printed.

    Raises:
        AssertionError: There is no result; with the end of what was printed.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        process = server.start(_call, sender, module, function, arguments, output=output, environment=os.environ)
        sender.close()
        try:
            result = receiver.recv()
        except EOFError:
            process.join()
            raise AssertionError(server.said(output)[-3000:]) from None
        process.join()
        return result, server.said(output)


def make_temporary_folder() -> str:
    """Make a folder as programs do that remove it at their end, and return its path."""
    return tempfile.mkdtemp()


def _call(sender: Connection, module: str, function: str, arguments: tuple) -> None:
    sender.send(getattr(importlib.import_module(f"support.{module}"), function)(*arguments))
