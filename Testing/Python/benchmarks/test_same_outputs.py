"""The comparison of what two checkouts write: it finds what differs, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import same_outputs


def write_outputs(folder: Path, value: int = 1, when: str = "2026-05-31T14:30:00+02:00") -> Path:
    """A run's folder with a file of each kind that is compared in its own way."""
    folder.mkdir()
    voxels = np.zeros((2, 3, 4), np.uint8)
    voxels[1, 1, 1] = value
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / "map.nii.gz"))
    Image.fromarray(voxels[1]).save(folder / "map.png")
    (folder / "prediction.json").write_text(json.dumps({"volume": value, "time": when, "seconds": 1.5}))
    (folder / "log.txt").write_text(f"{folder.resolve()}/a is written\n{value} ml\ntime 4.2 s (read 0.0)\n{when}\n")
    (folder / "raw.bin").write_bytes(bytes([value]))
    return folder


def test_runs_that_differ_in_time_and_place_alone_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = write_outputs(tmp_path / "first")
    second = write_outputs(tmp_path / "second", when="2027-01-01T00:00:00+00:00")
    assert same_outputs.compare(first, second) == 0
    assert "5 and 5 files compared, 0 differences" in capsys.readouterr().out


def test_each_file_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = write_outputs(tmp_path / "first"), write_outputs(tmp_path / "second", value=2)
    (second / "more.txt").write_text("x")
    assert same_outputs.compare(first, second) == 1
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines[:-1]]
    assert names == ["/log.txt", "/map.nii.gz", "/map.png", "/more.txt", "/prediction.json/volume", "/raw.bin"]
    assert lines[0].endswith("'1 ml' before, '2 ml' after")


def test_commands_have_names_of_their_own_but_for_those_that_run_again() -> None:
    names = [name for name, _ in same_outputs.commands()]
    assert len(names) > 90
    assert {name for name in names if names.count(name) > 1} == {"cohort", "twice"}
