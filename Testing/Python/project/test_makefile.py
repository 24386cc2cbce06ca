"""`make`: what it says while it installs, and that it fails when pip does."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT

PIP_SAYS = """Obtaining file:///project
  Preparing metadata (pyproject.toml): started
Collecting torch<3,>=2.3
  Downloading torch-2.6.0-cp312-cp312-manylinux1_x86_64.whl.metadata (28 kB)
Downloading torch-2.6.0-cp312-cp312-manylinux1_x86_64.whl (766.6 MB)
Downloading rich-14.0.0-py3-none-any.whl (243 kB)
Downloading typer-1.0.0-py3-none-any.whl (1.2 MB)
Installing collected packages: torch, rich, typer
Successfully installed torch-2.6.0
"""

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="needs make and a shell")


def make(folder: Path, pip: str) -> subprocess.CompletedProcess:
    """Install with a shell script in place of pip."""
    (folder / "pip").write_text(pip)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()  # so that no virtual environment is made
    command = ["make", "--no-print-directory", f"VENV={folder}", f"PIP=sh {folder}/pip", f"{folder}/.lint"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


def test_an_installation_names_large_downloads_and_its_last_long_step(tmp_path: Path) -> None:
    (tmp_path / "says.txt").write_text(PIP_SAYS)
    done = make(tmp_path, f"cat {tmp_path}/says.txt")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("Installing what pyproject.toml names")
    assert rest == [
        "Downloading torch-2.6.0-cp312-cp312-manylinux1_x86_64.whl (766.6 MB)",
        "Installing collected packages",
        "Installed.",
    ]
    assert (tmp_path / ".lint").exists()


def test_an_installation_that_fails_is_no_installation(tmp_path: Path) -> None:
    done = make(tmp_path, "echo 'ERROR: no network' >&2; exit 1")
    assert done.returncode != 0
    assert "ERROR: no network" in done.stderr
    assert "Installed." not in done.stdout
    assert not (tmp_path / ".lint").exists()


def set_address(folder: Path, to: str) -> subprocess.CompletedProcess:
    """Set it in a copy of two files that hold it."""
    for name in ("Makefile", "pyproject.toml", "CITATION.cff"):
        shutil.copyfile(ROOT / name, folder / name)
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=folder, check=True)
    return subprocess.run(["make", "address", f"TO={to}"], cwd=folder, capture_output=True, check=False)


def test_make_sets_the_address_of_the_project_everywhere(tmp_path: Path) -> None:
    assert set_address(tmp_path, "a-b/SlicerC.d").returncode == 0
    for name in ("pyproject.toml", "CITATION.cff"):
        before = re.findall(r"[\w.-]+/Slicer\w+", (ROOT / name).read_text(encoding="utf-8"))
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert before and text.count("a-b/SlicerC.d") == len(before) and before[0] not in text


@pytest.mark.parametrize("to", ["", "Somebody", "https://github.com/a/SlicerB", "a/B", "a/SlicerB; rm -rf ."])
def test_an_address_of_another_form_changes_nothing(tmp_path: Path, to: str) -> None:
    assert set_address(tmp_path, to).returncode != 0
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
