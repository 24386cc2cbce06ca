"""The training commands from data to a model that predicts: once in small, and once, slowly, on a real CT."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.evaluation.score_files import read_runs
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import ROOT
from support.training_commands import run, train_and_export, write_cases

REAL_CT = Path(os.environ.get("MOB_REAL_CT", ROOT.parent / "shared" / "data" / "real_ct"))


def bright_ball(seed: int, size: int = 24) -> tuple[sitk.Image, sitk.Image]:
    """A noisy volume with one bright ball, and the ball's label map (value 4)."""
    rng = np.random.default_rng(seed)
    grid = np.indices((size,) * 3) - rng.uniform(size * 0.4, size * 0.6, (3, 1, 1, 1))
    ball = (grid**2).sum(axis=0) < (size / 4) ** 2
    images = sitk.GetImageFromArray((100 * ball + rng.normal(0, 10, ball.shape)).astype(np.float32))
    label = sitk.GetImageFromArray(np.where(ball, 4, 0).astype(np.uint8))
    for image in (images, label):
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return images, label


def test_commands_train_a_model_that_predicts(tmp_path):
    source = tmp_path / "source"
    write_cases(source, {f"case{i}": bright_ball(i) for i in range(5)})
    options = ["--covariance", "mixture-of-bases", "--rank", 4, "--epochs", 1, "--iterations", 5, "--partitions", 3]
    model = load_model(train_and_export(source, tmp_path, "ball=4", "MRI", 2, 25, options))
    assert model.card.covariance.kind is Covariance.MIXTURE_OF_BASES
    assert model.card.covariance.rank == 4
    assert model.card.orientation == "RAS"

    dataset = next((tmp_path / "ws" / "raw").iterdir())
    folder = tmp_path / "scores"
    run("mob_training.cli", "evaluate", model.path, dataset, "--output", folder, "--device", "cpu")
    scores = json.loads((folder / "scores.json").read_text())
    (found,) = read_runs([folder])
    assert scores["held_out_cases"] == len(found.cases) == 1
    assert scores["dice"]["mean"] == pytest.approx(found.mean("dice"), rel=1e-5)
    assert scores["dice"]["mean"] > 0.8
    assert scores["pooled"] == {name: score for name, score in found.pooled.items() if not isinstance(score, list)}
    assert any(isinstance(score, list) for score in found.pooled.values())  # of curves, which a card leaves out
    assert (folder / "error_caught.png").stat().st_size > 5_000


@pytest.mark.slow
@pytest.mark.skipif(not REAL_CT.exists(), reason=f"the real CT is not at {REAL_CT} (set MOB_REAL_CT)")
def test_overfits_the_liver_and_kidneys_of_a_real_ct(tmp_path):
    ct = sitk.ReadImage(str(REAL_CT / "ct_3mm.nii.gz"))
    organs = sitk.ReadImage(str(REAL_CT / "organs_3mm.nii.gz"))
    source = tmp_path / "source"
    write_cases(source, dict.fromkeys(("train", "validate", "test"), (ct, organs)))
    options = ["--epochs", 2, "--iterations", 30]
    model = load_model(train_and_export(source, tmp_path, "organ=2,3,5", "CT", 8, 40, options))
    prediction = predict(ct, model, PredictionSettings(device="cpu"))
    truth = sitk.Cast((organs == 2) + (organs == 3) + (organs == 5), sitk.sitkUInt8)
    assert prediction.shape == ct.GetSize()[::-1]
    assert dice(prediction.segmentation, sitk.GetArrayFromImage(truth)) >= 0.9
