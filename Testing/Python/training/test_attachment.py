"""A new covariance head for a trained model: what stays, what is new, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mob_training.evaluation.score_files import describe_run
from mob_training.training import attachment
from mob_training.training.attachment import REPLACED, attach_head, correlate_head, starting_length
from mob_training.training.settings import Attachment, Files
from MoBUncertaintyLib.base.errors import SettingsError, UserError
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.network.backbone import planned_network
from MoBUncertaintyLib.network.export import export, is_half
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.tiny import make_ct, make_model
from support.tiny_training import NAME, make_workspace

SHORT = Attachment(Covariance.DIAGONAL, epochs=1, iterations=2, device="cpu")


def prepared(folder: Path, model: Model, patch: pytest.MonkeyPatch) -> Path:
    """A workspace whose cases are preprocessed; returns their raw folder."""
    workspace = make_workspace(folder / "work", patch)
    raw = workspace / "raw" / NAME
    patch.setattr(attachment, "DATASET", NAME)
    patch.setattr(attachment, "_prepare", lambda *_: (model.plans | {"dataset_name": NAME}, raw))
    return raw


def files_of(model: Model, folder: Path, workspace: str = "work") -> Files:
    return Files(model.path, folder, folder / workspace, folder / "out.zip")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "plain")


@pytest.mark.parametrize("kind", [Covariance.DETERMINISTIC, Covariance.MIXTURE_OF_BASES])
def test_the_segmentation_stays_and_the_noise_is_local(
    kind: Covariance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_model(tmp_path / "trained", covariance=CovarianceSpec(kind, rank=2))
    model = export(trained.path, tmp_path / "model.zip", half=True, training=dict.fromkeys(REPLACED, 1))
    raw = prepared(tmp_path, model, monkeypatch)
    torch.manual_seed(0)
    fitted_to = []
    made = attach_head(files_of(model, tmp_path), SHORT, lambda *paths: fitted_to.append(paths) or 0.25)
    card = made.card
    ((headed, read),) = fitted_to
    assert load_model(headed).card.covariance == replace(card.covariance, shared_fraction=0.0)
    assert card.covariance.shared_fraction == 0.25 and read == raw
    assert (card.covariance.kind, card.covariance.scope) == (Covariance.DIAGONAL, Scope.LOCAL)
    assert (card.name, card.licence, card.labels) == (model.card.name, model.card.licence, model.card.labels)
    assert describe_run(made, raw)["model"] == "Diagonal (local)"
    assert card.training["covariance_head"] and not card.scores and made.digest != model.digest
    assert set(REPLACED) <= set(model.card.training) and not set(REPLACED) & set(card.training)
    before, after = (
        Predictor(each, PredictionSettings(device="cpu", engine="torch", precision="float32")).predict(make_ct())
        for each in (model, made)
    )
    old, new = (each.state_dict(0) for each in (model, made))
    kept = [name for name in old if name.startswith("backbone.") and "seg_layers" not in name]
    assert kept and all(torch.equal(old[name], new[name]) for name in kept)
    # A temperature, and the old noise, change how overlapping tiles are blended, nothing else.
    assert np.mean(before.segmentation == after.segmentation) > 0.998
    assert after.correlation_mm is not None
    assert is_half(made.state_dict(0)) and set(made.state_dict(0)) == set(planned_network(made).state_dict())


def test_the_noise_is_of_a_whole_tile_if_asked(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such noise has no length, and a volume shares no fraction of it."""
    prepared(tmp_path, model, monkeypatch)
    options = replace(SHORT, covariance=Covariance.LOW_RANK, scope=Scope.TILE)
    made = attach_head(files_of(model, tmp_path), options, lambda *_: pytest.fail("nothing can be shared"))
    assert made.card.covariance == CovarianceSpec(Covariance.LOW_RANK, scope=Scope.TILE, keep_probability=True)


def test_a_kept_head_says_the_same_of_each_voxel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probability and variance are equal bit for bit; what was learned of a length before goes."""
    learned = CovarianceSpec(rank=2, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0), learn_length=True)
    model = make_model(tmp_path / "trained", covariance=learned)
    raw = prepared(tmp_path, model, monkeypatch)
    fitted_to = []
    made = correlate_head(files_of(model, tmp_path), SHORT, lambda *paths: fitted_to.append(paths) or 0.25)
    spec = made.card.covariance
    ((plain, read),) = fitted_to
    assert load_model(plain).card.covariance == replace(spec, shared_fraction=0.0) and read == raw
    assert (spec.scope, spec.learn_length, spec.shared_fraction) == (Scope.LOCAL, False, 0.25)
    assert spec.length_mm is not None and min(spec.length_mm) > 0
    assert describe_run(made, raw)["model"] == "Mixture-of-Bases (local)"
    assert made.card == replace(model.card, covariance=spec, training=made.card.training, files=made.card.files)
    settings = PredictionSettings(device="cpu", engine="torch", precision="float32")
    before, after = (Predictor(each, settings).predict(make_ct((24, 24, 24))) for each in (model, made))
    assert np.array_equal(before.probability, after.probability) and np.array_equal(before.variance, after.variance)
    assert after.correlation_mm is not None


def test_a_model_without_a_head_has_none_to_keep(model: Model, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        correlate_head(files_of(model, tmp_path), SHORT)


def test_a_shipped_model_is_taken_by_its_name(tmp_path: Path) -> None:
    """It is found, so what is refused is the folder of the cases."""
    for name, sentence in (("HippocampusAnterior", "images/"), ("Nowhere", "HippocampusAnterior")):
        files = Files(Path(name), tmp_path / "none", tmp_path / "work", tmp_path / "made")
        with pytest.raises(UserError) as error:
            attach_head(files, Attachment())
        assert sentence in str(error.value)
        assert not (tmp_path / "made").exists()


def test_what_cannot_have_a_head_is_refused_before_anything_is_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = replace(model, card=replace(model.card, configuration="3d_lowres"))
    monkeypatch.setattr(attachment, "loaded", lambda _: planned)
    with pytest.raises(SettingsError):
        attach_head(files_of(model, tmp_path), SHORT)
    monkeypatch.undo()
    with pytest.raises(SettingsError):
        attach_head(files_of(model, tmp_path), SHORT)
    assert not (tmp_path / "work").exists()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "other.txt").touch()
    with pytest.raises(SettingsError):
        attach_head(files_of(model, tmp_path), SHORT)
    with pytest.raises(SettingsError):
        attach_head(files_of(model, tmp_path, "new"), replace(SHORT, covariance=Covariance.LOW_RANK, scope=Scope.VOXEL))
    assert not (tmp_path / "out.zip").exists() and not (tmp_path / "new").exists()


def test_the_field_begins_at_a_few_voxels_and_never_below_one() -> None:
    assert starting_length((10.0, 1.5, 1.5)) == (10.0, 6.0, 6.0)
    assert starting_length((1.0, 1.0, 1.0)) == (4.0, 4.0, 4.0)
