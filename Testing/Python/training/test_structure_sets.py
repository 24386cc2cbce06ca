"""Patients' DICOM folders with contours become images, label maps and `labelled.json`."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.data.datasets import folder_cases
from mob_training.data.structure_sets import convert, parse_names
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.reader import read_image
from support.dicom_files import write_series
from support.dicom_study import write_structures
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case

NAMES = {"pancreas": ["pancreas", "bauchspeichel"], "kidney_l": ["kidneyl", "leftkidney"]}


def write_patient(folder: Path, names: dict[str, str]) -> np.ndarray:
    """A CT and its contours, called as `names` say; returns the label map."""
    case = fake_case(spacing=(1.5, 2.0, 3.0), labels=(PANCREAS, LEFT_KIDNEY))
    (folder / "CT" / "1").mkdir(parents=True)
    (folder / "RT").mkdir()
    write_series(folder / "CT" / "1", case.image)
    read = read_image(folder / "CT" / "1")
    labels = sitk.GetImageFromArray(case.prediction.segmentation)
    labels.CopyInformation(case.image)
    labels = sitk.Resample(labels, read.image, sitk.Transform(), sitk.sitkNearestNeighbor)
    drawn = [
        dataclasses.replace(label, name=names[label.name]) for label in (PANCREAS, LEFT_KIDNEY) if label.name in names
    ]
    write_structures(folder / "RT" / "contours.dcm", read.files, labels, drawn)
    voxels = sitk.GetArrayFromImage(labels)
    return (voxels == PANCREAS.value) + 2 * (voxels == LEFT_KIDNEY.value)


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patients")
    write_patient(folder / "ada", {PANCREAS.name: "Bauch-Speichel", LEFT_KIDNEY.name: "Left Kidney"})
    write_patient(folder / "bob", {PANCREAS.name: "PANCREAS"})
    write_patient(folder / "cas", {LEFT_KIDNEY.name: "something else"})
    write_patient(folder / "dan", {PANCREAS.name: "pancreas"})
    shutil.copyfile(folder / "dan" / "RT" / "contours.dcm", folder / "dan" / "more.dcm")
    write_patient(folder / "eve", {PANCREAS.name: "pancreas"})
    shutil.rmtree(folder / "eve" / "CT")
    return folder


def test_patients_become_images_and_label_maps(patients, tmp_path):
    voxels = write_patient(tmp_path / "same", {PANCREAS.name: "pancreas"})
    left_out = convert(patients, tmp_path / "new", NAMES)
    assert list(left_out) == ["cas", "dan", "eve"]
    ada, bob = (sitk.ReadImage(str(tmp_path / "new" / "labels" / f"{name}.nii.gz")) for name in ("ada", "bob"))
    assert np.array_equal(sitk.GetArrayFromImage(ada), voxels)
    assert np.array_equal(sitk.GetArrayFromImage(bob), voxels * (voxels == 1))
    image = read_image(tmp_path / "new" / "images" / "ada.nii.gz").image
    assert np.array_equal(
        sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(read_image(patients / "ada" / "CT" / "1").image)
    )


def test_an_organ_without_contours_is_missing(patients, tmp_path):
    convert(patients, tmp_path / "new", NAMES)
    assert json.loads((tmp_path / "new" / "labelled.json").read_text()) == {"bob": ["pancreas"]}
    cases = folder_cases(tmp_path / "new", {name: [value] for value, name in enumerate(NAMES, start=1)}).cases
    assert {case.name: set(case.missing) for case in cases} == {"ada": set(), "bob": {2}}


def test_the_command_says_what_comes_next(patients, tmp_path):
    options = ("--label", "pancreas=Bauchspeichel", "--label", "kidney_l=Left Kidney")
    done = CliRunner().invoke(app, ["rtstruct", str(patients), str(tmp_path / "new"), *options])
    assert "--label pancreas=1 --label kidney_l=2" in done.output
    assert (tmp_path / "new" / "labels" / "ada.nii.gz").exists()


def test_two_regions_of_one_label_are_refused(patients, tmp_path):
    convert(patients, tmp_path / "new", {"abdomen": ["leftkidney", "bauchspeichel"]})
    assert not (tmp_path / "new" / "labels" / "ada.nii.gz").exists()


@pytest.mark.parametrize("entries", [["a", "a"], ["a=b", "c=B"], ["background"], ["=b"], [" "]])
def test_names_that_are_not_unique_are_refused(entries):
    with pytest.raises(SettingsError):
        parse_names(entries)


def test_labels_have_their_own_name_and_others():
    assert parse_names(["Parotid_L", "Cord=Spinal Cord,spinal-cord,CORD"]) == {
        "Parotid_L": ["parotidl"],
        "Cord": ["cord", "spinalcord"],
    }


def test_a_folder_without_patients_and_one_that_exists_are_refused(patients, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError):
        convert(tmp_path / "empty", tmp_path / "new", NAMES)
    with pytest.raises(SettingsError):
        convert(patients, patients, NAMES)
