"""What a killed process has left of writing a folder, cleaned up by whoever killed it."""

from pathlib import Path

import pytest

from MoBUncertaintyLib.folders import remove_leftovers


def made(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "report.html").write_text(content)
    return folder


@pytest.mark.parametrize("name", ["review", "[1] Ärzte & Söhne"])
def test_what_is_half_written_goes_and_all_else_stays(tmp_path, name):
    written = made(tmp_path / name, "earlier")
    others = [made(tmp_path / other, "other") for other in (".another.0123abcd.tmp", f".{name}.backup01.tmp", "x.tmp")]
    made(tmp_path / f".{name}.0123abcd.tmp", "half")
    remove_leftovers(written)
    assert sorted(tmp_path.iterdir()) == sorted([written, *others])
    assert (written / "report.html").read_text() == "earlier"


def test_earlier_folder_comes_back_if_nothing_has_taken_its_place(tmp_path):
    made(tmp_path / ".review.0123abcd.old", "earlier")
    made(tmp_path / ".review.0123abcd.tmp", "half")
    remove_leftovers(tmp_path / "review")
    assert [path.name for path in tmp_path.iterdir()] == ["review"]
    assert (tmp_path / "review" / "report.html").read_text() == "earlier"


def test_earlier_folder_goes_if_the_new_one_has_its_place(tmp_path):
    made(tmp_path / ".review.0123abcd.old", "earlier")
    made(tmp_path / "review", "new")
    remove_leftovers(tmp_path / "review")
    assert [path.name for path in tmp_path.iterdir()] == ["review"]
    assert (tmp_path / "review" / "report.html").read_text() == "new"


def test_without_any_folder_nothing_happens(tmp_path):
    remove_leftovers(tmp_path / "missing" / "review")
    assert list(tmp_path.iterdir()) == []
