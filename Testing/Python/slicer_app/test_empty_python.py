"""Installing into an empty Python, by pip and Slicer's own `slicer.packaging`, from wheels that the test makes."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import packaging
import pytest

from support import MODULE_FOLDER, TESTS

pytestmark = pytest.mark.skipif("SLICER_SOURCE" not in os.environ, reason="Slicer's sources hold slicer.packaging")

Install = Callable[..., dict]


def wheel(folder: Path, name: str, *needs: str, version: str = "1.0", extras: tuple[str, ...] = ()) -> None:
    """Write a wheel that holds nothing but what it needs."""
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    lines = [*(f"Provides-Extra: {extra}" for extra in extras), *(f"Requires-Dist: {need}" for need in needs)]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", head + "".join(f"{line}\n" for line in lines))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Installs what is wanted into a Python that has Slicer's kept packages and nothing else."""
    index, wanted, python = tmp_path / "index", tmp_path / "wanted", tmp_path / "python"
    for folder in (index, wanted):
        folder.mkdir()
    venv.create(python, with_pip=False)
    program = python / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    library = tmp_path / "library"  # of what Slicer has, and no more of this test's own Python
    library.mkdir()
    (library / "packaging").symlink_to(Path(packaging.__file__).parent, target_is_directory=True)
    for name in ("numpy", "torch"):
        info = library / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    def run(*lines: str) -> dict:
        for kind in ("", "-export", "-dicom", "-openvino", "-pytorch"):
            (wanted / f"requirements{kind}.txt").write_text("" if kind else "\n".join(lines))
        pip = [sys.executable, "-m", "pip", "--python", program, "--disable-pip-version-check"]
        folder = Path(os.environ["SLICER_SOURCE"]) / "Base" / "Python" / "slicer"
        path = os.pathsep.join(map(str, (library, MODULE_FOLDER)))
        environment = {
            "PYTHONPATH": path,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(index),
            "PIP_CONFIG_FILE": os.devnull,
        }
        done = subprocess.run(
            [program, TESTS / "support" / "installation_side.py", folder, wanted, *pip],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "FACTS" in done.stdout, done.stderr
        return json.loads(done.stdout.partition("FACTS ")[2])

    run.index = index
    return run


def test_what_packages_need_is_installed_at_the_first_apply_and_what_slicer_has_stays(install):
    wheel(install.index, "outer", "inner[extra]>=1", "numpy>=1")
    wheel(install.index, "inner", "behind; extra == 'extra'", "never; extra == 'other'", extras=("extra", "other"))
    wheel(install.index, "behind")
    wheel(install.index, "numpy", version="2.0")
    answers = install("outer")
    assert answers == {"missing": [["outer"], []], "raised": None, "asked": answers["asked"], "started": [1]}
    assert len(answers["asked"]) == 1


@pytest.mark.slow
def test_what_slicer_has_is_not_replaced_for_another_package(install):
    wheel(install.index, "outer", "numpy>=2")
    wheel(install.index, "numpy", version="2.0")
    assert install("outer")["raised"].startswith("These Python packages could not be installed: outer;")


@pytest.mark.slow
def test_two_packages_that_exclude_each_other_are_refused(install):
    wheel(install.index, "one", "shared<2")
    wheel(install.index, "two", "shared>=2")
    for version in ("1.0", "2.0"):
        wheel(install.index, "shared", version=version)
    assert "could not be installed: one, two" in install("one", "two")["raised"]
