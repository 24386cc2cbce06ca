"""The images at a path: one, or those of a folder, under names of their own."""

from pathlib import Path

import pytest

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.inputs import Input, list_inputs


def make(folder: Path, *names: str) -> None:
    """Files that look as if they were images; nothing but their first bytes is read. A slice is `.dcm`."""
    for path in map(folder.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.suffix == ".dcm" or path.name == "DICOMDIR" else b"image")


def problems(folder: Path) -> dict[str, bool]:
    """Whether something is wrong with each entry of a folder, by the names of their results folders."""
    inputs = list_inputs(folder)
    assert len({entry.name for entry in inputs}) == len(inputs)
    return {entry.name: bool(entry.problem) for entry in inputs}


def test_folder_lists_its_volumes_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.nrrd", "a.nii.gz", ".hidden.nii.gz", "notes.txt")
    assert list(problems(tmp_path).items()) == [("a", False), ("b", False), ("notes.txt", True)]
    assert list_inputs(tmp_path / "b.nrrd") == [Input(tmp_path / "b.nrrd", "", "")]


def test_the_number_of_nnunets_only_channel_is_no_part_of_a_name(tmp_path: Path) -> None:
    # b has two channels, c would be there twice
    make(tmp_path, *(f"{name}.nii.gz" for name in ("a_0000", "b_0000", "b_0001", "c", "c_0000")))
    assert {entry.entry: entry.name for entry in list_inputs(tmp_path)} == {
        "a_0000.nii.gz": "a",
        "b_0000.nii.gz": "b_0000",
        "b_0001.nii.gz": "b_0001",
        "c.nii.gz": "c.nii.gz",
        "c_0000.nii.gz": "c_0000.nii.gz",
    }


def test_folder_of_dicom_folders_lists_them(tmp_path: Path) -> None:
    make(tmp_path, "one/0.dcm", "one/1.dcm", "two/0.dcm")
    (tmp_path / "empty").mkdir()
    empty, *others = list_inputs(tmp_path)
    assert empty.problem and not empty.is_case
    assert others == [Input(tmp_path / name, name, name) for name in ("one", "two")]
    assert list_inputs(tmp_path / "one") == [Input(tmp_path / "one", "", "")]
    for name in ("empty", "nowhere"):
        with pytest.raises(ImageError):
            list_inputs(tmp_path / name)
    (tmp_path / "prediction.json").write_text('{"schema": "mob-uncertainty results"}')
    with pytest.raises(ImageError):
        list_inputs(tmp_path)


def test_folder_with_a_dicom_directory_file_lists_its_series(tmp_path: Path) -> None:
    make(tmp_path, "one/0.dcm", "DICOMDIR")
    assert problems(tmp_path) == {"one": False}


def test_dicom_files_that_lie_beside_other_images_are_named(tmp_path: Path) -> None:
    make(tmp_path, "0.dcm", "report.pdf")
    assert list_inputs(tmp_path) == [Input(tmp_path, "", "")]
    make(tmp_path, "a.nii.gz")
    assert problems(tmp_path) == {"a": False, "report.pdf": True, tmp_path.name: True}


def test_results_folders_have_names_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "a.mha", "b.c.nrrd", "d.nrrd.nii", "d.nrrd", "a/a.nii.gz", "e/a.mha")
    assert set(problems(tmp_path)) == {"a", "a.mha", "a.nii.gz", "b.c", "d.nrrd.nii", "d", "e"}


def test_results_in_the_folder_of_the_images_are_no_images(tmp_path: Path) -> None:
    make(tmp_path, "a.nii.gz", "out/a/b.nii.gz")
    assert [entry.name for entry in list_inputs(tmp_path, tmp_path / "out")] == ["a"]
