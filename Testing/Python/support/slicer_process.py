"""Call functions that need Slicer's core from tests that have imported torch."""

import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from slicer_host import server


def in_slicer(function: str, *arguments: Any) -> tuple[Any, str]:
    """Call a function of `slicer_side` in a process of its own.

    Returns:
        Its result and what it printed.

    Raises:
        AssertionError: There is no result; with the end of what was printed.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        process = server.start(_call, sender, function, arguments, output=output, environment=os.environ)
        sender.close()
        try:
            result = receiver.recv()
        except EOFError:
            process.join()
            raise AssertionError(server.said(output)[-3000:]) from None
        process.join()
        return result, server.said(output)


def _call(sender: Connection, function: str, arguments: tuple) -> None:
    from support import slicer_side

    sender.send(getattr(slicer_side, function)(*arguments))
