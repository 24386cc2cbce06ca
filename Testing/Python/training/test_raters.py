"""Evaluation against several raters: which segmentations stand for a model, and that they are scored."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.evaluation import held_out
from mob_training.evaluation.raters import generalised_energy_distance
from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.model.covariance import Covariance
from support.fake_scores import FakeModel, evaluate, write_dataset

RATERS = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "raw", "Read", cases=2)


@pytest.fixture
def raters(dataset: Path, tmp_path: Path) -> Path:
    """Each rater draws the truth a voxel further to one side."""
    for path in (dataset / "labelsTs").glob("*.nii.gz"):
        truth = sitk.ReadImage(str(path))
        place = tmp_path / "cohort" / path.name.removesuffix(".nii.gz") / "raters"
        place.mkdir(parents=True)
        for number in range(1, RATERS + 1):
            mask = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(truth), number, axis=2))
            mask.CopyInformation(truth)
            sitk.WriteImage(mask, str(place / f"part_1_{number}.nii.gz"))
    return tmp_path / "cohort"


def test_a_deterministic_model_is_its_segmentation(dataset, raters, monkeypatch):
    monkeypatch.setattr(held_out, "draw_volumes", lambda *_: pytest.fail("there is nothing to draw"))
    for case in evaluate(FakeModel(Covariance.DETERMINISTIC), dataset, raters=raters).cases.values():
        assert case["raters.ged"] == case["raters.ged_segmentation"] > 0


def test_a_stochastic_model_is_what_is_drawn_from_it(dataset, raters, monkeypatch):
    def masks(case: str) -> list[np.ndarray]:
        return [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted((raters / case).rglob("*.nii.gz"))]

    drawn = [masks("case0")[0], masks("case0")[2]]
    monkeypatch.setattr(held_out, "draw_volumes", lambda *_: drawn)
    for name, case in evaluate(FakeModel(Covariance.DIAGONAL), dataset, raters=raters).cases.items():
        expected = generalised_energy_distance(drawn, masks(name))
        assert case["raters.ged"] == pytest.approx(expected)
        assert case["raters.ged"] != pytest.approx(case["raters.ged_segmentation"])


def test_raters_that_are_missing_or_on_another_grid_are_named(dataset, raters):
    model, place = FakeModel(Covariance.DETERMINISTIC), raters / "case1" / "raters"
    mask = sitk.ReadImage(str(place / "part_1_2.nii.gz"))
    mask.SetSpacing((9.0, 9.0, 9.0))
    sitk.WriteImage(mask, str(place / "part_1_2.nii.gz"))
    with pytest.raises(ImageError):
        evaluate(model, dataset, raters=raters)
    for path in place.iterdir():
        path.unlink()
    with pytest.raises(SettingsError):
        evaluate(model, dataset, raters=raters)
