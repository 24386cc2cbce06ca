"""Whether processes are gone, for the tests of the worker."""

import time
from collections.abc import Callable

import psutil

SOON = 60.0  # a second where nothing else computes
"""Seconds within which all must be gone, on however busy a machine."""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
