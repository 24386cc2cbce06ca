"""The comparison of what two checkouts write: it finds what differs, and only that."""

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
    assert "5 and 5 files compared, 0 with differences" in capsys.readouterr().out


def test_each_file_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = write_outputs(tmp_path / "first"), write_outputs(tmp_path / "second", value=2)
    (second / "more.txt").write_text("x")
    assert same_outputs.compare(first, second) == 1
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines[:-1]]
    files = ["/log.txt/text", "/map.nii.gz/voxels", "/map.png", "/more.txt", "/prediction.json/volume", "/raw.bin"]
    assert names == files
    assert lines[0].endswith("'1 ml' before, '2 ml' after")
    assert lines[1].endswith("1 of 24 values differ, by 1 at most")


def write_words(folder: Path, sentence: str, verdict: str, **entries: float) -> Path:
    """A run's folder with sentences, a verdict, and numbers in a page."""
    folder.mkdir()
    (folder / "regions.csv").write_text(f"verdict,comment,seconds\n{verdict},{sentence},{len(sentence)}\n")
    data = f'<script type="application/json">{json.dumps(entries)}</script>'
    page = f"<style>p {{ width: {len(sentence)}px }}</style><p>{sentence}</p>{data}"
    (folder / "page.html").write_text(page)
    return folder


def test_what_was_changed_on_purpose_is_counted_by_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = write_words(tmp_path / "1", "same", "accept", volume=2.0, margin=1.0)
    second = write_words(tmp_path / "2", "same", "accept", volume=2.0)
    changes = {"data/0/margin: only before": "there is no margin any more"}
    assert same_outputs.compare(first, second, changes=changes) == 0
    assert "1 meant: there is no margin any more" in capsys.readouterr().out
    third = write_words(tmp_path / "3", "same", "accept", volume=3.0)
    assert same_outputs.compare(first, third, changes=changes) == 1
