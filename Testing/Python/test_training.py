"""The training commands from data to a model that predicts: once in small, and once, slowly, on a real CT."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.datasets import LabelledCase, Split, totalsegmentator_cases, write_dataset
from MoBUncertaintyLib.agreement import dice
from MoBUncertaintyLib.covariance import Covariance
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.model import load_model
from MoBUncertaintyLib.prediction import PredictionSettings, predict
from training_commands import run, train_and_export, write_cases

REAL_CT = Path(os.environ.get("MOB_REAL_CT", Path(__file__).parents[3] / "shared" / "data" / "real_ct"))


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
    scores_path = tmp_path / "scores.json"
    run("mob_training.cli", "evaluate", model.path, dataset, "--output", scores_path, "--device", "cpu")
    scores = json.loads(scores_path.read_text())
    assert scores["held_out_cases"] == len(json.loads((tmp_path / "scores_cases.json").read_text())) == 1
    assert scores["dice"]["mean"] > 0.8
    assert scores_path.with_suffix(".png").stat().st_size > 5_000


def test_one_seed_trains_one_model(tmp_path):
    """Same seed, same result on the CPU; another seed, another."""
    source = tmp_path / "source"
    write_cases(source, {f"case{i}": bright_ball(i) for i in range(4)})
    known = ["--workspace", tmp_path / "ws", "--dataset-id", 900]
    split = ["--validation", 1, "--test", 1]
    run("mob_training.cli", "labelled", source, "--label", "ball=4", "--name", "T", *known, *split)
    run("mob_training.cli", "plan", *known, "--processes", 1)
    losses = []
    for seed in (3, 3, 4):
        options = ["--epochs", 1, "--iterations", 2, "--device", "cpu", "--seed", seed]
        results = Path(run("mob_training.cli", "train", *known, *options))
        log = sorted((results / "fold_0").glob("training_log_*.txt"))[-1].read_text()
        losses.append([line.split("train_loss")[1] for line in log.splitlines() if "train_loss" in line])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


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
    assert prediction.segmentation.GetSize() == ct.GetSize()
    assert dice(prediction.segmentation, truth) >= 0.9


def test_split_is_disjoint_and_depends_on_the_seed_only():
    names = [f"c{i}" for i in range(20)]
    split = Split(validation=3, test=5, seed=1)
    parts = split.assign(names)
    assert parts == split.assign(names[::-1])
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert parts != Split(validation=3, test=5, seed=2).assign(names)


def test_split_of_too_few_cases_is_refused():
    with pytest.raises(SettingsError, match="too few"):
        Split(validation=3, test=5).assign(["a", "b"])


def test_damaged_cases_are_reported_and_the_rest_goes_on(tmp_path):
    image, label = bright_ball(0)
    for name in ("whole", "no_ct", "no_mask", "empty", "other_grid"):
        (tmp_path / name / "segmentations").mkdir(parents=True)
        sitk.WriteImage(image, str(tmp_path / name / "ct.nii.gz"))
        sitk.WriteImage(label, str(tmp_path / name / "segmentations" / "ball.nii.gz"))
    (tmp_path / "no_ct" / "ct.nii.gz").unlink()
    (tmp_path / "no_mask" / "segmentations" / "ball.nii.gz").unlink()
    sitk.WriteImage(label * 0, str(tmp_path / "empty" / "segmentations" / "ball.nii.gz"))
    label.SetSpacing((2, 2, 2))
    sitk.WriteImage(label, str(tmp_path / "other_grid" / "segmentations" / "ball.nii.gz"))
    reports: list[str] = []
    assert [case.name for case in totalsegmentator_cases(tmp_path, "ball", reports.append)] == ["whole"]
    assert {report.split(":")[0] for report in reports} == {"no_ct", "no_mask", "empty", "other_grid"}


def test_dataset_states_labels_orientation_and_split(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    image, label = bright_ball(0)
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    cases = (LabelledCase(f"c{i}", tmp_path / "image.nii.gz", label) for i in range(4))
    folder = write_dataset(cases, 7, "Balls", ["ball"], "CT", Split(validation=1, test=1), "here")
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "ball": 1}
    assert description["orientation"] == "RAS"
    assert description["numTraining"] == len(list((folder / "imagesTr").iterdir())) == 3
    assert len(list((folder / "labelsTs").iterdir())) == 1
    (split,) = json.loads((folder / "splits_final.json").read_text())
    assert not set(split["train"]) & set(split["val"])
