"""A power cut right after a run has ended: what it said is written is there, whole, on the disk itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from MoBUncertaintyLib.output.results_folder import read_results
from support import TESTS
from support.fake_case import fake_case

WRITE = """
import os, sys
from support.fake_case import fake_case, write_results
case = fake_case()
case.prediction.warnings.insert(0, sys.argv[2])
write_results(sys.argv[1], case, overwrite=True)
os._exit(0)
"""


def write(folder: Path, mark: str) -> None:
    subprocess.run([sys.executable, "-c", WRITE, str(folder), mark], cwd=TESTS, check=True)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a loop device")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def cut(tmp_path: Path) -> Callable:
    """Makes a file system in a file; `cut(work)` does the work there and gives what a power cut leaves of it."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("needs mkfs.ext4")
    image, copy = tmp_path / "disk.img", tmp_path / "copy.img"
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)

    @contextmanager
    def run(work: Callable[[Path], None]) -> Iterator[Path]:
        with mounted(image, tmp_path / "before") as disk:
            work(disk)
            shutil.copyfile(image, copy)  # what the system has not yet written to the disk is not in it
        with mounted(copy, tmp_path / "after") as disk:
            yield disk

    return run


@pytest.mark.parametrize("times", [1, 2], ids=["new", "overwritten"])
def test_results_are_whole_after_a_power_cut(cut: Callable, times: int) -> None:
    def work(disk: Path) -> None:
        for number in range(times):
            write(disk / "study" / "out", f"run {number}")

    with cut(work) as disk:
        found = read_results(disk / "study" / "out")
        assert found.prediction.warnings[0] == f"run {times - 1}"
        expected = fake_case().prediction.variance
        assert np.array_equal(found.prediction.variance, expected)
