"""The project's own files, as git and its settings list them."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from support import ROOT


@cache
def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, those that are new included."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *patterns],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        pytest.skip("not a checkout", allow_module_level=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def setting(name: str) -> str:
    """Return a piece of the extension's metadata, which the index reads as a literal."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (value,) = re.findall(rf'^set\(EXTENSION_{name} "([^"$]+)"\)$', text, re.MULTILINE)
    return value
