"""What is joint, scored for a model and a case, and what evaluation writes."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from mob_training.data.partial_labels import write_labelled
from mob_training.evaluation import joint_scores as module
from mob_training.evaluation.bases import OrganTile
from mob_training.evaluation.directions import SHARED, shared_by_neighbours
from mob_training.evaluation.held_out import Evaluation, evaluate
from mob_training.evaluation.joint_scores import joint_scores
from mob_training.evaluation.metrics.volumes import LAGS
from mob_training.evaluation.score_files import read_runs, write_runs
from MoBUncertaintyLib.inference.draws import blended_gaussian
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import CovarianceSpec, Scope
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.tiny import DETERMINISTIC, PATCH, make_ct, make_dataset, make_model, write_raw


@pytest.fixture
def ct() -> sitk.Image:
    """One tile, on the network's grid."""
    return make_ct(PATCH)


def predictor_of(folder: Path, spec: CovarianceSpec, labels=("organ",), folds: int = 1) -> Predictor:
    model = make_model(folder, dataset=make_dataset(labels, orientation="RAS"), covariance=spec, folds=folds)
    return Predictor(model, PredictionSettings(device="cpu", precision="float32", body_box=False))


def blurred_truth(predictor: Predictor, ct: sitk.Image) -> np.ndarray:
    """A segmentation that differs from the model's a little."""
    return np.roll(predictor.predict(ct).segmentation, 1, axis=2)


@pytest.mark.parametrize("spec", [DETERMINISTIC, CovarianceSpec(rank=3, partitions=2)])
def test_without_covariance_the_joint_likelihood_is_the_voxels_nll(tmp_path, ct, spec):
    predictor = predictor_of(tmp_path / "m", spec)
    truth = blurred_truth(predictor, ct)
    scores, _ = joint_scores(predictor, ct, truth, samples=19)
    p = predictor.predict(ct, exact=True).probability[0].astype(float)
    expected = np.log(np.where(truth == 1, p, 1 - p)).sum()
    assert scores["log_likelihood"] == pytest.approx(expected, rel=2e-3)
    assert scores["gain"] == pytest.approx(0, abs=1e-3 * abs(expected))


def test_folds_are_a_mixture(tmp_path, ct):
    spec = CovarianceSpec(rank=3, partitions=2, scope=Scope.TILE)
    predictor = predictor_of(tmp_path / "m", spec, folds=2)
    truth = blurred_truth(predictor, ct)
    alone = []
    for fold in (0, 1):
        predictor.use(PredictionSettings(device="cpu", precision="float32", body_box=False, folds=(fold,)))
        alone.append(joint_scores(predictor, ct, truth, samples=19)[0]["log_likelihood"])
    predictor.use(PredictionSettings(device="cpu", precision="float32", body_box=False))
    both = joint_scores(predictor, ct, truth, samples=19)[0]["log_likelihood"]
    assert both == pytest.approx(np.logaddexp(*alone) - np.log(2), rel=1e-6)


def test_the_volume_is_that_of_samples_of_the_labels(tmp_path, ct, monkeypatch):
    """Mean and deviation of many: of the logits' samples, and then of the labels'."""
    spec = CovarianceSpec(rank=3, partitions=2, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0))
    predictor = predictor_of(tmp_path / "m", spec)
    seen = []
    monkeypatch.setattr(module, "volume_scores", lambda volumes, truth: seen.append((volumes, truth)) or {"crps": 0.0})
    monkeypatch.setattr(module, "joint_log_likelihood", lambda law: 0.0)  # takes long, and is tested by itself
    truth = blurred_truth(predictor, ct)
    joint_scores(predictor, ct, truth, samples=150)
    ((volumes, true),) = seen
    assert true == pytest.approx(np.count_nonzero(truth) * 27)
    p = blended_gaussian(predictor, ct).logits.rsample(400, torch.Generator().manual_seed(9))[:, 0].softmax(dim=1)[:, 1]
    expected = 27 * p.sum(dim=(1, 2, 3)).numpy()
    spread = np.hypot(expected.std(), 27 * np.sqrt(float((p * (1 - p)).sum(dim=(1, 2, 3)).mean())))
    assert np.mean(volumes) == pytest.approx(expected.mean(), abs=0.3 * spread)
    assert np.std(volumes) == pytest.approx(spread, rel=0.25)


def test_evaluation_writes_them_for_several_labels_and_another_spacing(tmp_path):
    """Per case and over all cases, in files and back."""
    labels = ("organ", "other")
    spec = CovarianceSpec(rank=3, partitions=2, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0))
    predictor = predictor_of(tmp_path / "m", spec, labels)
    cases = {}
    for seed in (0, 1):
        image = make_ct((12, 16, 18), spacing=(2.4, 3.3, 4.0), centre=(3 * seed, 0, 0))
        truth = sitk.GetImageFromArray(blurred_truth(predictor, image))
        truth.CopyInformation(image)
        cases[f"case{seed}"] = image, truth
    folder = write_raw(tmp_path / "Dataset001_Tiny", make_dataset(labels), cases)
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False)
    run = evaluate(predictor.model.path, folder, Evaluation(joint=True), settings)
    write_runs([run], tmp_path / "scores")
    (kept,) = read_runs([tmp_path / "scores"])
    for name in ("log_likelihood", "gain", "volume.crps", "volume.covered_90", "volume.width_50", "lengths.gap"):
        assert len(kept.per_case(f"joint.{name}")) == 2
    for name in ("stationary", "own"):
        for score in ("dice_1", "dice_3", "dice_5", "elsewhere_5"):
            assert all(0 < value <= 1 for value in kept.per_case(f"clicks.{name}.{score}").values())
    assert kept.mean("clicks.own.elsewhere_5") != kept.mean("clicks.stationary.elsewhere_5")
    assert kept.mean("joint.log_likelihood") < 0
    assert 0 < kept.mean("bases.share") < 1
    assert 1 <= kept.over_voxels("bases.used") <= spec.bases
    single = [
        shared_by_neighbours(OrganTile.of(predictor, image, sitk.GetArrayFromImage(truth)))
        for image, truth in cases.values()
    ]
    for part in SHARED:
        expected = np.sum([one[part] for one in single], axis=0)
        assert kept.over_voxels(f"shared.{part}") == pytest.approx(expected, rel=1e-4, abs=1e-4)
    path = folder / "labelsTs" / "case0.nii.gz"
    drawn = sitk.ReadImage(path)
    sitk.WriteImage(drawn * sitk.Cast(drawn != 2, drawn.GetPixelID()), path)
    write_labelled(folder, list(labels), {"case0": frozenset({2})})
    run = evaluate(predictor.model.path, folder, Evaluation(joint=True), settings)
    assert run.over_voxels("shared.errors") == pytest.approx(np.array(single[1]["errors"]), rel=1e-4, abs=1e-4)
    for name in ("errors", "samples"):
        assert len(kept.over_voxels(f"joint.variogram.{name}")) == LAGS
        assert kept.over_voxels(f"joint.variogram.{name}")[0] == 1
