"""The end of a connection on the computer that computes: a worker, its private folder, and their end.

Started by ssh (`mob-uncertainty worker`), it passes all that comes on to the worker, whose answers go straight back. It
ends with the worker and all files when the connection does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from MoBUncertaintyLib.base.publishing import make_private_folder, remove_private_folder
from MoBUncertaintyLib.worker.protocol import CHUNK, SCRATCH, Event, encode
from MoBUncertaintyLib.worker.server import FOR_ANOTHER_COMPUTER, take_pipes

SILENCE_S = 90.0
"""Seconds without a byte after which the other side counts as gone: a connection may be dead without being closed."""


def serve(arguments: Sequence[str] = ("-m", "MoBUncertaintyLib.worker", FOR_ANOTHER_COMPUTER)) -> NoReturn:
    """Compute for the application at the other end of stdin and stdout until the connection ends."""
    source, target = take_pipes()
    target.write(b"\n")  # the shell may have printed half a line before
    target.flush()
    folder = make_private_folder("MoBUncertainty")
    worker = subprocess.Popen(
        [sys.executable, "-u", *arguments],
        bufsize=0,  # so that closing it never waits for the thread that writes
        stdin=subprocess.PIPE,
        stdout=target,
        env=os.environ | {"PYTHONUTF8": "1", SCRATCH: str(folder)},
        start_new_session=True,
    )
    heard, closed, over = time.monotonic(), False, threading.Event()

    def pass_on() -> None:
        nonlocal heard, closed
        assert worker.stdin
        with suppress(OSError, ValueError):  # the worker has ended, or the connection
            while data := source.read1(CHUNK):
                heard = time.monotonic()
                while data:
                    data = data[worker.stdin.write(data) :]
            closed = True
        over.set()

    threading.Thread(target=pass_on, daemon=True).start()
    while not over.wait(0.5) and worker.poll() is None and time.monotonic() - heard < SILENCE_S:
        pass
    if not closed:
        with suppress(subprocess.TimeoutExpired, OSError):
            code = worker.wait(1.0)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            message = (
                f"The computing process on the other computer ended unexpectedly ({how}); see the details, and "
                "if it ran out of memory, choose a region of interest or another device."
            )
            event = {"event": Event.ERROR, "id": None, "code": "error", "message": message, "details": ""}
            target.write(encode(event))
            target.flush()
    if os.name == "posix":
        with suppress(OSError):
            os.killpg(worker.pid, signal.SIGKILL)
    elif worker.stdin:
        worker.stdin.close()  # which ends it, and its child processes
    with suppress(subprocess.TimeoutExpired):
        worker.wait(10.0)
    remove_private_folder(folder)
    os._exit(0)
