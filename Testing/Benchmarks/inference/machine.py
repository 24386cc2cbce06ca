"""What the measurements were made on and with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import MoBUncertaintyLib

PACKAGES = ("torch", "openvino", "nnunetv2", "SimpleITK", "numpy", "scipy", "slicer-core")
CPU_INFO = Path("/proc/cpuinfo")


def describe(root: Path) -> dict[str, Any]:
    """Processor, memory, system, load of the last minute, versions, and the state of the checkout at `root`."""
    versions = {"mob-uncertainty": MoBUncertaintyLib.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    info = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        # Those that matter for speed.
        "instructions": sorted(set(info.split()) & {"avx512_bf16", "amx_bf16", "amx_tile", "avx512f"}),
        "load": psutil.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
        "revision": revision(root),
    }


def revision(root: Path) -> str | None:
    """The commit of a checkout, with a + where files differ from it; None where there is no git or no repository."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
