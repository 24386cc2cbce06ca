"""Bad input, as a table: what is tried, the sentence the user reads, and that nothing is left behind.

Each row runs `mob-uncertainty predict`. What can be mended ends with exit code 2, one sentence on stderr and no results
folder; what can be worked around ends well, with a warning.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import Result

from support import command_line
from support.bad_inputs import OF_LINUX, REFUSED, WORKED_AROUND, Change, Run, make_good, make_start
from support.marks import needs_linux


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def start(good: Run, tmp_path: Path) -> Run:
    return make_start(good, tmp_path)


def predict(run: Run) -> Result:
    arguments = ["predict", run.source, "--model", run.model, "--output", run.output, "--no-scene", "--device", "cpu"]
    return command_line.run(*arguments)


# --- images ----------------------------------------------------------------------------------------------------------


def left_behind(run: Run) -> set[Path]:
    return {path for path in run.scratch.rglob("*") if "model" not in path.parts and "raw" not in path.parts}


@pytest.mark.parametrize("name", [pytest.param(row, marks=needs_linux) if row in OF_LINUX else row for row in REFUSED])
def test_refused_with_one_sentence_and_nothing_left(start: Run, name: str) -> None:
    change, sentence = REFUSED[name]
    run = change(start)
    before = left_behind(run)
    done = predict(run)
    assert done.exit_code == 2, done.output
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(".") and len(last) < 1000
    assert sentence in last
    assert "Traceback" not in done.output
    assert not done.stdout
    assert not os.path.exists(run.output) or run.output.name == "thesis"
    assert left_behind(run) == before


@pytest.mark.parametrize(("change", "warning"), WORKED_AROUND.values(), ids=WORKED_AROUND.keys())
def test_worked_around_with_a_warning(start: Run, change: Change, warning: str) -> None:
    run = change(start)
    done = predict(run)
    assert done.exit_code == 0, done.output
    assert warning in done.stderr
    given = sitk.ReadImage(run.source)
    for name in ("segmentation", "probability", "variance"):
        made = sitk.ReadImage(run.output / f"{name}.nii.gz")
        assert made.GetSize() == given.GetSize()
        assert np.isfinite(sitk.GetArrayFromImage(made)).all()
    told = json.loads((run.output / "prediction.json").read_text())["warnings"]
    assert not warning or any(warning in sentence for sentence in told)


def test_good_run_that_the_table_spoils_ends_well(start: Run) -> None:
    done = predict(start)
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert all("doubtful region" in line for line in warnings), ("nothing is wrong with the input", warnings)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@needs_linux
def test_full_disk_is_named_and_nothing_is_left_on_it(start: Run, small_disk: Path) -> None:
    done = predict(replace(start, output=small_disk / "out"))
    assert done.exit_code == 2, done.output
    assert "is full; free some space or choose another folder." in done.stderr
    assert list(small_disk.iterdir()) == []
