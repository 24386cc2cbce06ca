"""Killed runs, flipped bits, mutants: nothing is lost, nothing passes for whole, no traceback and no hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import TESTS


def campaign(*options: str) -> str:
    """In a process of its own, which no other test has started threads in."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "support.fault_campaign", *options],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kind", ["killed", "flipped, read", "flipped, written", "mutants"])
def test_faults_are_survived(kind: str, tmp_path: Path) -> None:
    print(campaign("--only", kind, "--output", str(tmp_path)))
    assert (tmp_path / "faults.json").is_file()
