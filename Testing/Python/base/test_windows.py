"""What Windows does otherwise, simulated: files that another program has opened, read-only copies, paths of 260."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from MoBUncertaintyLib.base import publishing
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.publishing import Lock, reserve, sweep, write_file
from support.publishing import KIND, fill

LONGEST_PATH = 259


class Opened:
    """Another program that has opened files: for so many calls of the system it keeps us from them.

    Args:
        times: Calls that fail.
        name: Only of paths that end so.
    """

    def __init__(self, times: float, name: str = "") -> None:
        self.left, self._name = times, name

    def within(self, act: Callable) -> Callable:
        def called(path: Any, *rest: Any, **options: Any) -> Any:
            if self.left and str(path).endswith(self._name):
                self.left -= 1
                raise PermissionError(13, "The process cannot access the file because it is being used by another")
            return act(path, *rest, **options)

        return called


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(publishing, "BUSY", PermissionError)
    monkeypatch.setattr(publishing, "BUSY_S", 0.5)
    return monkeypatch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["rename", "replace", "open"])
def test_what_a_scanner_has_opened_is_tried_again(tmp_path: Path, windows: pytest.MonkeyPatch, call: str) -> None:
    out = fill(tmp_path / "out", "earlier")
    scanner = Opened(3)
    windows.setattr(os, call, scanner.within(getattr(os, call)))
    if call == "replace":
        write_file(tmp_path / "table.csv", lambda path: path.write_text("new"))
        assert (tmp_path / "table.csv").read_text() == "new"
    else:
        with KIND.reserve(out, overwrite=True) as place, place.writing() as partial:
            fill(partial, "new")
        assert (out / "map.nii.gz").read_text() == "new"
    assert scanner.left == 0
    assert set(names(tmp_path)) <= {"out", "table.csv"}


def test_what_stays_open_leaves_all_as_it_was(tmp_path: Path, windows: pytest.MonkeyPatch) -> None:
    out = fill(tmp_path / "out", "earlier")
    windows.setattr(os, "rename", Opened(1e9, "out").within(os.rename))
    before = time.monotonic()
    with (
        pytest.raises(OutputError),
        KIND.reserve(out, overwrite=True) as place,
        place.writing() as partial,
    ):
        fill(partial, "new")
    assert 0.5 < time.monotonic() - before < 5
    assert (out / "map.nii.gz").read_text() == "earlier"
    assert names(tmp_path) == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="of other systems")
def test_elsewhere_a_refusal_is_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Opened(1)
    monkeypatch.setattr(os, "replace", refusal.within(os.replace))
    with pytest.raises(PermissionError):
        write_file(tmp_path / "table.csv", lambda path: path.write_text("new"))
    assert names(tmp_path) == []


def test_a_lock_that_its_holder_is_removing_is_waited_for(tmp_path: Path, windows: pytest.MonkeyPatch) -> None:
    windows.setattr(os, "open", Opened(3, "lock").within(os.open))
    lock = Lock(tmp_path / ".out.mob-lock")
    assert lock.acquire()
    lock.release()


def test_a_copy_that_is_read_only_is_synced_and_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_RDWR and Path(path).exists() and not Path(path).stat().st_mode & stat.S_IWUSR:
            raise PermissionError(13, "Permission denied")  # root is not asked
        return real(path, flags, *rest, **options)

    real = os.open
    monkeypatch.setattr(os, "open", open_)
    with reserve(tmp_path / "model") as place:
        place.partial.mkdir()
        (place.partial / "weights").write_text("")
        (place.partial / "weights").chmod(0o444)
        place.publish_new()
    assert stat.S_IMODE((tmp_path / "model" / "weights").stat().st_mode) == 0o444


@pytest.mark.parametrize("name", ["out", "n" * 32, "n" * 46, "n" * 100, "臓" * 33])
def test_hidden_names_take_little_of_a_path(tmp_path: Path, name: str) -> None:
    with reserve(tmp_path / name) as place:
        hidden = [place.partial.name, *names(tmp_path), publishing._hidden(place.target, "old").name]
    assert len(hidden) == 3
    assert all(len(each) <= max(len(name) + 14, 46) for each in hidden)
    assert all(len(each.encode()) <= 46 for each in hidden)


def test_what_fits_under_a_long_name_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results whose longest path is as long as Windows takes it, of a patient with a long name."""
    name = "Mustermann_Erika_1964-08-12_CT_Abdomen_portal_venous"
    length = LONGEST_PATH - len("/prediction.json") - 1 - len(name) - len(str(tmp_path)) - 1
    deep = tmp_path / ("d" * length)
    deep.mkdir()

    def within(act: Callable) -> Callable:
        def called(path: Any, *rest: Any, **options: Any) -> Any:
            if len(str(path)) > LONGEST_PATH:
                raise FileNotFoundError(2, "The system cannot find the path specified")
            return act(path, *rest, **options)

        return called

    for call in ("open", "mkdir", "rename", "stat"):
        monkeypatch.setattr(os, call, within(getattr(os, call)))
    for content in ("earlier", "new"):
        with KIND.reserve(deep / name, overwrite=True) as place, place.writing() as partial:
            fill(partial, content)
    assert len(str(deep / name / "prediction.json")) == LONGEST_PATH
    assert names(deep) == [name]


def test_what_a_shortened_name_was_is_put_back_by_the_next_run_alone(tmp_path: Path) -> None:
    name = "n" * 60
    partial, old = (publishing._hidden(tmp_path / name, ending) for ending in ("tmp", "old"))
    partial.mkdir()
    fill(old, "earlier")
    sweep(tmp_path)
    assert names(tmp_path) == [old.name]
    with pytest.raises(OutputError), KIND.reserve(tmp_path / name):
        pass
    assert names(tmp_path) == [name]
