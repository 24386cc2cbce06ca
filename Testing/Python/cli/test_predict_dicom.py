"""`mob-uncertainty predict --format`: DICOM objects beside the results."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import Result
from highdicom.seg import segread

from MoBUncertaintyLib.output.results_folder import read_results
from support.command_line import run
from support.dicom_files import write_slices


def predict(source: Path, model: Path, output: Path, *formats: str, force: bool = False) -> Result:
    options = ["--force"] * force + [word for name in formats for word in ("--format", name)]
    return run("predict", source, "--model", model, "--output", output, "--no-scene", "--overlap", "0", *options)


@pytest.fixture
def voxels(ct: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(ct))[:12]


def test_objects_of_the_prediction(model: Path, ct: Path, tmp_path: Path) -> None:
    write_slices(tmp_path / "cts" / "a", sitk.GetArrayFromImage(sitk.ReadImage(ct)))
    formats = ("dicom-seg", "dicom-seg-fractional", "parametric-map")
    done = predict(tmp_path / "cts" / "a", model, tmp_path / "out", *formats)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert record["files"].keys() >= {"segmentation.dcm", "probability.dcm", "variance.dcm"}
    predicted = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out" / "segmentation.nii.gz"))
    volume = segread(tmp_path / "out" / "segmentation.dcm").get_volume(combine_segments=True)
    assert (volume.array > 0).sum() == (predicted > 0).sum() > 0
    segment = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm").SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    # In a folder, results without the objects that are wanted now are not done.
    assert predict(tmp_path / "cts", model, tmp_path / "all").exit_code == 0
    again = predict(tmp_path / "cts", model, tmp_path / "all", "dicom_seg")
    assert again.exit_code == 2 and "contains earlier results" in again.stderr


def test_an_mr_image_for_a_model_of_ct_is_predicted_only_if_forced(model: Path, voxels, tmp_path: Path) -> None:
    def as_mr(dataset: pydicom.Dataset) -> None:
        dataset.Modality = "MR"

    cohort = tmp_path / "cohort"
    write_slices(cohort / "mr", voxels, {-1: as_mr})
    write_slices(cohort / "ct", voxels)
    refused = predict(cohort / "mr", model, tmp_path / "out")
    said = "an MR image, but the model takes a CT; choose another image or model, or use --force to predict this one"
    assert refused.exit_code == 2 and refused.stderr.count(said) == 1 and "Predicting" not in refused.stderr
    assert not (tmp_path / "out").exists()
    some = predict(cohort, model, tmp_path / "all")
    assert some.exit_code == 2 and "1 of 2 cases failed: mr." in some.stderr
    assert (tmp_path / "all" / "ct" / "prediction.json").exists() and not (tmp_path / "all" / "mr").exists()
    done = predict(cohort / "mr", model, tmp_path / "out", force=True)
    assert done.exit_code == 0, done.output
    warning = "The image is an MR image, but the model takes a CT; choose another image or model."
    assert done.stderr.count(warning) == 1 and warning in done.stderr.partition("Predicting")[0]
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert record["warnings"].count(warning) == 1 and record["suitability"]["level"] == "not usable"
    assert record["suitability"]["reasons"][0] == "t" + warning[1:-1]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dicom-seg", "did not come from DICOM; leave out its --format."),
        ("dicom-sr", "no format 'dicom-sr' here; choose from dicom-seg, dicom-seg-binary, dicom-seg-fractional"),
    ],
    ids=["of a file", "a report before a review"],
)
def test_what_cannot_be_written_is_refused_before_the_work(model: Path, ct: Path, tmp_path: Path, name, sentence):
    done = predict(ct, model, tmp_path / "out", name)
    assert done.exit_code == 2 and sentence in done.stderr
    assert "Predicting" not in done.stderr and not (tmp_path / "out").exists()


def test_slices_that_do_not_fit_cost_the_object_alone(model: Path, voxels, tmp_path: Path) -> None:
    """Unevenly spaced slices can be read as a volume, but it does not lie on them."""

    def move(dataset: pydicom.Dataset) -> None:
        dataset.ImagePositionPatient[2] += 1.0

    write_slices(tmp_path / "ct", voxels, {11: move})
    done = predict(tmp_path / "ct", model, tmp_path / "out", "dicom-seg")
    assert done.exit_code == 2, done.output
    assert "The DICOM segmentation was not written: The volume does not lie on the slices" in done.stderr
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert any("was not written" in warning for warning in record["warnings"])


def test_an_odd_header_costs_nothing_and_a_page_that_cannot_be_made_only_itself(
    model: Path, voxels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once this was an "unexpected error" after an hour of computing, and no folder."""

    def fail(*_: object) -> None:
        raise ValueError("no such page")

    def odd(dataset: pydicom.Dataset) -> None:
        dataset.PatientSex, dataset.StudyTime = "U", "12:30:00"
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]

    monkeypatch.setattr("MoBUncertaintyLib.output.results_folder.write_review_page", fail)
    with pytest.warns(UserWarning, match="Invalid value"):  # pydicom's, of what is written here
        write_slices(tmp_path / "ct", voxels, {-1: odd})
    done = predict(tmp_path / "ct", model, tmp_path / "out", "dicom-seg")
    assert done.exit_code == 2, done.output
    assert "The review page was not written: It could not be made for this case (no such page)" in done.stderr
    assert "have invalid values for StudyTime, PatientSex" in done.stderr
    assert pydicom.dcmread(tmp_path / "out" / "segmentation.dcm").SpecificCharacterSet == "ISO_IR 192"
    assert read_results(tmp_path / "out").prediction.warnings[-1].startswith("The review page was not written")
