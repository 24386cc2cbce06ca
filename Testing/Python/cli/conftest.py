"""A CT to segment, a model for it, and results to review."""

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from support import tiny
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case, source_of, write_results


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a CT and its results."""
    folder = tmp_path_factory.mktemp("case")
    case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
    sitk.WriteImage(case.image, str(folder / "ct.nii.gz"))
    write_results(folder / "results", case, source_of(folder / "ct.nii.gz"))
    return folder


@pytest.fixture
def place(made, tmp_path) -> Path:
    """The same in a folder of the test's own; the CT stays where it was."""
    shutil.copytree(made / "results", tmp_path / "results")
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_exported_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    sitk.WriteImage(tiny.make_ct((32, 36, 40)), path)  # the organ, and little around it
    return path
