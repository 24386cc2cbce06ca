"""The CURVAS challenge: its metrics as the organisers' code computes them, and its data set's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.data.curvas import ORGANS, convert
from mob_training.data.datasets import folder_cases
from mob_training.data.phantom import make_phantom
from mob_training.evaluation.metrics.curvas import curvas_scores, expected_calibration_error, volume_crps
from MoBUncertaintyLib.base.errors import SettingsError
from support.training_commands import run


def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make an image, three raters who differ in the size of three organs, probabilities, and a segmentation."""
    z, y, x = np.indices((6, 14, 12)).astype(float)
    organs = ((2.5, 4, 4, 2.6, 3.5, 3.0), (3, 10, 7, 2.5, 3.2, 3.6), (3.5, 4, 9, 2.0, 2.8, 2.4))
    depth = [1 - np.sqrt(((z - a) / d) ** 2 + ((y - b) / e) ** 2 + ((x - c) / f) ** 2) for a, b, c, d, e, f in organs]
    raters = np.zeros((3, *z.shape), np.uint8)
    for rater, size in zip(raters, (0.0, 0.12, -0.1), strict=True):
        for value, one in enumerate(depth, 1):
            rater[one + size * (1 + 0.5 * np.sin(y + value)) > 0] = value
    logits = [8 * one + 1.2 * np.sin(z - x) + 0.6 * np.sin(x + 2 * y + value) for value, one in enumerate(depth, 1)]
    probability = np.exp(logits) / (1 + np.exp(logits).sum(axis=0))
    every = np.concatenate((1 - probability.sum(axis=0, keepdims=True), probability))
    image = np.where((np.abs(y - 7) < 6.5) & (np.abs(x - 6) < 5.5), 40.0, -1000.0)
    return image, raters, probability, every.argmax(axis=0)


def test_the_scores_are_those_of_the_organisers_code():
    """CURVAS_2024/evaluation_metrics/metrics.py of commit 86cfbeb5, with monai 1.6.1 and torchmetrics 1.9.0."""
    image, raters, probability, segmentation = phantom()
    found = curvas_scores(segmentation, probability, raters, image, 3 * 1.5 * 1.5, (1, 2, 3))
    dsc = [0.9437879323959351, 0.8722222447395325, 0.9833333492279053]
    crps = [79.80925933683456, 49.57555621884917, 26.005335470284077]
    ece = [0.06661751866340637, 0.05591263994574547, 0.06250226497650146]
    assert found["dsc"] == pytest.approx(np.mean(dsc), abs=1e-6)
    assert found["crps"] == pytest.approx(np.mean(crps), rel=1e-6)
    assert found["ece"] == pytest.approx(np.mean(ece), abs=1e-6)
    for value, expected in enumerate(zip(dsc, crps, strict=True), 1):
        one = curvas_scores(segmentation == value, probability[[value - 1]], raters == value, image, 6.75, (1,))
        assert (one["dsc"], one["crps"]) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_prediction_and_what_is_undefined():
    image, raters, _, _ = phantom()
    sure = np.stack([raters[0] == value for value in (1, 2, 3)]).astype(float)
    found = curvas_scores(raters[0], sure, [raters[0]] * 3, image, 1.0, (1, 2, 3))
    assert (found["dsc"], found["ece"]) == pytest.approx((1, 0))
    assert np.isnan(found["crps"])  # raters without any spread
    empty = np.zeros_like(raters[0])
    nothing = curvas_scores(empty, np.zeros((1, *empty.shape)), [empty] * 3, image, 1.0, (1,))
    assert np.isnan(nothing["dsc"])
    assert expected_calibration_error(np.full((1, 1, 1, 4), 0.75), np.array([[[1, 1, 1, 0]]])) == pytest.approx(0)


def test_a_volume_beyond_all_raters_costs_its_distance():
    """The distribution function is 1 or 0 between the raters and the prediction, as far as is integrated."""
    volumes = [90.0, 100.0, 110.0]
    far = volume_crps(1e6, volumes)
    assert far == pytest.approx(volume_crps(2e6, volumes))
    assert volume_crps(100.0, volumes) < volume_crps(108.0, volumes) < far


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two phantoms with the masks of three raters, in the data set's layout; the third case is not complete."""
    source = tmp_path / "training_set"
    for number in range(3):
        made = make_phantom(number, raters=3, spacing=(8.0, 8.0, 8.0))
        folder = source / f"UKCHLL{number:03d}"
        folder.mkdir(parents=True)
        sitk.WriteImage(made.ct, str(folder / "image.nii.gz"))
        for rater, pancreas in enumerate(made.raters, 1):
            kidney, liver = (sitk.GetArrayFromImage(made.labels[name]) for name in ("kidney_left", "liver"))
            label = np.where(liver, 3, np.where(kidney, 2, 0)).astype(np.uint8)
            label[sitk.GetArrayFromImage(pancreas) > 0] = 1
            stored = sitk.GetImageFromArray(label)
            stored.CopyInformation(made.ct)
            sitk.WriteImage(stored, str(folder / f"annotation_{rater}.nii.gz"))
    for path in (source / "UKCHLL002").glob("annotation_[23]*"):
        path.unlink()
    return source


def test_a_cohort_in_its_layout_is_converted(cohort, tmp_path):
    output = tmp_path / "converted"
    left_out = convert(cohort, output, report=lambda _: None)
    assert [one.name for one in left_out] == ["UKCHLL002"]
    labels = {organ: [value] for value, organ in enumerate(ORGANS, 1)}
    made = folder_cases(output, labels, report=lambda _: None)
    assert [case.name for case in made.cases] == ["UKCHLL000", "UKCHLL001"]
    assert not made.left_out
    for case in made.cases:
        maps = np.stack([_read(path) for path in sorted((cohort / case.name).glob("annotation_*"))])
        label = _read(output / "labels" / f"{case.name}.nii.gz")
        for value, organ in enumerate(ORGANS, 1):
            assert np.array_equal(label == value, (maps == value).sum(axis=0) >= 2)
            for rater, own in enumerate(maps, 1):
                mask = _read(output / case.name / "raters" / f"{organ}_{rater}.nii.gz")
                assert np.array_equal(mask > 0, own == value)
        copied = output / "images" / f"{case.name}.nii.gz"
        assert copied.read_bytes() == (cohort / case.name / "image.nii.gz").read_bytes()


def test_the_command_says_what_comes_next(cohort, tmp_path):
    said = run("mob_training.cli", "curvas", cohort, tmp_path / "converted")
    assert said.startswith("1 cases left out; next: mob-training labelled")
    assert "--label pancreas=1 --label kidney=2 --label liver=3" in said


def test_a_folder_without_cases_and_one_that_exists_are_refused(cohort, tmp_path):
    with pytest.raises(SettingsError):
        convert(tmp_path, tmp_path / "new")
    with pytest.raises(SettingsError):
        convert(cohort, cohort)


def _read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
