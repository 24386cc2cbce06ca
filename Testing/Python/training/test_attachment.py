"""A covariance head for a model that has none: what stays, what is new, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mob_training.training import attachment
from mob_training.training.attachment import attach_head, starting_length
from mob_training.training.settings import Schedule
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.prediction import PredictionSettings
from support.tiny import make_ct, make_model
from support.tiny_training import NAME, make_workspace

SHORT = Schedule(epochs=1, iterations=2, validation_iterations=2)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "plain")


def test_the_segmentation_stays_and_the_noise_is_local(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path / "work", monkeypatch)
    monkeypatch.setattr(attachment, "DATASET", NAME)
    plans = model.plans | {"dataset_name": NAME}
    monkeypatch.setattr(attachment, "_prepare", lambda *_: plans)
    monkeypatch.setattr(attachment, "_own", lambda *_: None)
    torch.manual_seed(0)
    made = attach_head(
        model.path, tmp_path, workspace, tmp_path / "headed.zip", schedule=SHORT, device="cpu", kind=Covariance.DIAGONAL
    )
    card = made.card
    assert (card.covariance.kind, card.covariance.scope) == (Covariance.DIAGONAL, Scope.LOCAL)
    assert (card.name, card.licence, card.labels) == (model.card.name, model.card.licence, model.card.labels)
    assert card.training["covariance_head"] and not card.scores and made.digest != model.digest
    before, after = (
        Predictor(each, PredictionSettings(device="cpu", engine="torch", precision="float32")).predict(make_ct())
        for each in (model, made)
    )
    # A temperature changes how overlapping tiles are blended, nothing else.
    assert np.mean(before.segmentation == after.segmentation) > 0.999
    assert after.variance.max() > before.variance.max()


def test_what_cannot_have_a_head_is_refused_before_anything_is_written(model: Model, tmp_path: Path) -> None:
    headed = make_model(tmp_path / "headed", covariance=CovarianceSpec.of_kind(Covariance.DIAGONAL))
    with pytest.raises(SettingsError, match="has a covariance already"):
        attach_head(headed.path, tmp_path, tmp_path / "work", tmp_path / "out.zip")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "other.txt").touch()
    with pytest.raises(SettingsError, match="was not made for this model and these cases; give a new folder"):
        attach_head(model.path, tmp_path, tmp_path / "work", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_the_field_begins_at_a_few_voxels_and_never_below_one() -> None:
    assert starting_length((10.0, 1.5, 1.5)) == (10.0, 6.0, 6.0)
    assert starting_length((1.0, 1.0, 1.0)) == (4.0, 4.0, 4.0)
