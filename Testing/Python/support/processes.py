"""Whether processes are gone, for the tests of the worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SOON = 60.0  # a second where nothing else computes
"""Seconds within which all must be gone, on however busy a machine."""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], bool], seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
