"""Names that ITK can open.

On Windows, Python's program lets ITK open names in the system's code page alone; files of other names are not there for
it (https://github.com/SimpleITK/SimpleITK/issues/795). They are read from a copy, and written in another place first.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ONLY_ASCII = sys.platform == "win32"
"""Whether ITK opens nothing else for certain."""


@contextmanager
def read_by_itk(file: Path) -> Iterator[str]:
    """Name a file so that ITK can read it.

    Raises:
        OSError: It cannot be copied.
    """
    with _place(file) as place:
        if place != file:
            shutil.copyfile(file, place)
        yield str(place)


@contextmanager
def written_by_itk(path: Path) -> Iterator[str]:
    """Name a file so that ITK can write it.

    Raises:
        OSError: It cannot be copied to its own name.
    """
    with _place(path) as place:
        yield str(place)
        if place != path:
            shutil.copyfile(place, path)


@contextmanager
def _place(path: Path) -> Iterator[Path]:
    if not ONLY_ASCII or str(path).isascii():
        yield path
        return
    with TemporaryDirectory(prefix="mob-uncertainty-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "file" + "".join(filter(str.isascii, path.suffixes)))
