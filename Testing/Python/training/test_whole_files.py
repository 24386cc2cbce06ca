"""A full disk leaves the file of an earlier run as it was, and nothing beside it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from mob_training.data.table1 import write_table
from mob_training.training.progress import add_progress, draw_progress
from MoBUncertaintyLib.files import publishing

EARLIER = "epoch\n0\n"
WRITERS: dict[str, Callable[[Path], object]] = {
    "table1.csv": lambda path: write_table([], path.parent),
    "progress.csv": lambda path: add_progress(path, {"epoch": 1}),
    "progress.png": lambda path: draw_progress([{"epoch": 1}], path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "sync_tree", full)
    path = tmp_path / name
    path.write_text(EARLIER)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[name](path)
    assert path.read_text() == EARLIER
    assert list(tmp_path.iterdir()) == [path]
