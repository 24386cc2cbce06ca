"""Marks of tests that need what not every machine has."""

import ctypes.util
import importlib.util
import os
import shutil
import sys

import pytest

needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows lacks such signals, links, pipes and scripts")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc and names that are no text")
needs_full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
needs_slicer = pytest.mark.skipif(not importlib.util.find_spec("slicer"), reason="slicer-core is not installed")
needs_views = pytest.mark.skipif(not importlib.util.find_spec("trame_slicer"), reason="trame-slicer is not installed")
needs_mesa = pytest.mark.skipif(
    not any(map(ctypes.util.find_library, ("OSMesa", "EGL"))), reason="no OSMesa or EGL library to draw off screen"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium (on Debian: apt install chromium-headless-shell)")
