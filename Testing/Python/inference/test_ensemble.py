"""Several models predict together as nnU-Net's ensembles do, with the variance of the mixture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.base.errors import Cancelled, ModelError, SettingsError
from MoBUncertaintyLib.inference.maps.ensemble import Ensemble, predictor_of
from MoBUncertaintyLib.inference.predictor import Predictor, predict
from MoBUncertaintyLib.model.card import Pieces
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.results_folder import FOLDER, read_results, write_results
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.prediction import PredictionSettings, Progress
from support.command_line import run
from support.model_kinds import kind_dataset, kind_plans, make_kind, make_mr, stock

SETTINGS = PredictionSettings(device="cpu", precision="float32", engine="torch", tiling="full")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of two folds: on an image of one tile, at its spacing, they are mixed as an ensemble of two models is."""
    return make_kind(tmp_path_factory.mktemp("folds") / "model", kind_plans(), kind_dataset(), folds=(0, 1))


@pytest.fixture(scope="module")
def seeds(folds: Model) -> list[Model]:
    return [load_model(folds.path, folds=(fold,)) for fold in (0, 1)]


def test_the_mixture_is_that_of_folds(folds: Model, seeds: list[Model]) -> None:
    image = make_mr()
    expected, found = predict(image, folds, SETTINGS), Ensemble(seeds, SETTINGS).predict(image)
    assert np.asarray(found.probability) == pytest.approx(np.asarray(expected.probability), abs=2e-5)
    assert np.asarray(found.variance) == pytest.approx(np.asarray(expected.variance), abs=2e-5)
    assert np.asarray(found.variance).max() > 0.01, "they agree"
    assert (found.segmentation == expected.segmentation).mean() >= 0.9999
    assert found.labels == expected.labels and found.suitability == expected.suitability
    assert found.click_settings == expected.click_settings != folds.card.click_settings, "sized by what all have found"
    alone = np.asarray(predict(image, seeds[0], SETTINGS).variance)
    assert alone.max() == 0, "each is sure of itself"


def test_a_prediction_carries_what_its_model_calls_doubtful(folds: Model, seeds: list[Model], tmp_path: Path) -> None:
    image, stated = make_mr(), folds.card.region_settings
    assert stated != RegionSettings()
    for prediction in (predict(image, folds, SETTINGS), Ensemble(seeds, SETTINGS).predict(image)):
        assert find_regions(prediction).settings == stated
    chosen = replace(stated, threshold=0.1)
    case = Case(image, prediction, find_regions(prediction, chosen))
    with FOLDER.reserve(tmp_path / "out") as place:
        write_results(place, case, scene=False)
    assert find_regions(read_results(tmp_path / "out").prediction).settings == chosen


def test_the_labels_are_those_of_nnunets_ensemble(seeds: list[Model]) -> None:
    image = make_mr()
    mean = np.mean([stock(model.path, [image], model.folds)[1] for model in seeds], axis=0)
    assert (Ensemble(seeds, SETTINGS).predict(image).segmentation == mean.argmax(axis=0)).mean() >= 0.999


def test_some_of_the_labels_are_where_they_win_among_all(seeds: list[Model]) -> None:
    image = make_mr()
    everything = Ensemble(seeds, SETTINGS).predict(image)
    ensemble = Ensemble(seeds, replace(SETTINGS, labels=("spleen",)))
    assert all(member.labels == ensemble.labels for member in ensemble._members), "each predicts what is asked for"
    found = ensemble.predict(image)
    assert [label.name for label in found.labels] == [label.name for label in ensemble.labels] == ["spleen"]
    assert np.asarray(found.probability[0]) == pytest.approx(everything.probability[1], abs=2e-5)
    assert np.asarray(found.variance[0]) == pytest.approx(everything.variance[1], abs=2e-5)
    p = np.asarray([predict(image, each, SETTINGS).probability for each in seeds])
    others = np.stack([1 - p.sum(axis=1), p[:, 0]])
    agree = (others.argmax(axis=0) == others.argmax(axis=0)[:1]).all(axis=0)
    drawn, wins = found.segmentation == 2, everything.segmentation == 2
    assert 0.1 < agree.mean() < 1 and wins[agree].any()
    assert np.array_equal(drawn[agree], wins[agree]) and not (drawn & ~wins).any()
    with pytest.raises(SettingsError):
        Ensemble(seeds, replace(SETTINGS, labels=("heart",)))


def test_a_label_is_of_one_piece_where_it_is_of_one_in_all_members(seeds: list[Model]) -> None:
    first, second = (label.name for label in seeds[0].card.labels[:2])
    names = ([first, second], [second])
    members = [
        replace(model, card=replace(model.card, pieces=dict.fromkeys(own, Pieces(20, 0.7, 0.8))))
        for model, own in zip(seeds, names, strict=True)
    ]
    assert Ensemble(members, SETTINGS).predict(make_mr()).one_piece == (second,)


def test_overlapping_labels_are_mixed_each_for_itself(tmp_path: Path) -> None:
    nested = kind_dataset(labels={"background": 0, "both": [1, 2], "inner": 2}, regions_class_order=[1, 2])
    model = make_kind(tmp_path / "model", kind_plans(), nested, folds=(0, 1))
    seeds = [load_model(model.path, folds=(fold,)) for fold in (0, 1)]
    expected, found = predict(make_mr(), model, SETTINGS), Ensemble(seeds, SETTINGS).predict(make_mr())
    assert found.overlapping and (found.segmentation == expected.segmentation).mean() >= 0.9999


def test_progress_counts_all_members_and_can_be_cancelled(seeds: list[Model]) -> None:
    steps: list[Progress] = []
    image = make_mr(shape=(24, 24, 30))
    Ensemble(seeds, SETTINGS).predict(image, steps.append)
    tiles = [(step.done, step.total) for step in steps if step.stage == "network"]
    assert tiles == sorted(tiles) and tiles[-1] == (4, 4)
    with pytest.raises(Cancelled):
        Ensemble(seeds, SETTINGS).predict(image, cancelled=lambda: True)


def test_only_models_of_the_same_labels_and_channels_make_one(seeds: list[Model], tmp_path: Path) -> None:
    other = make_kind(tmp_path / "other", kind_plans(), kind_dataset(labels={"background": 0, "liver": 1, "colon": 2}))
    with pytest.raises(ModelError):
        Ensemble([seeds[0], other], SETTINGS)
    pet = make_kind(tmp_path / "pet", kind_plans(), kind_dataset(("PET",)))
    with pytest.raises(ModelError):
        Ensemble([seeds[0], pet], SETTINGS)
    assert isinstance(predictor_of([pet], SETTINGS), Predictor)


def test_the_command_line_takes_several_models(folds: Model, tmp_path: Path) -> None:
    for fold in (0, 1):
        make_kind(tmp_path / f"seed_{fold}", kind_plans(), kind_dataset())
        weights = torch.load(folds.path / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)
        torch.save(weights, tmp_path / f"seed_{fold}" / "fold_0" / "checkpoint_final.pth")
    sitk.WriteImage(make_mr(), tmp_path / "mr.nii.gz")
    asked = ["predict", tmp_path / "mr.nii.gz", "--model", tmp_path / "seed_0", "--model", tmp_path / "seed_1"]
    options = ["--output", tmp_path / "out", "--no-scene", "--device", "cpu", "--precision", "float32"]
    done = run(*asked, *options)
    assert done.exit_code == 0, done.stderr
    read = read_results(tmp_path / "out").prediction
    image = sitk.ReadImage(str(tmp_path / "mr.nii.gz"))
    expected = Ensemble([load_model(tmp_path / f"seed_{fold}") for fold in (0, 1)], SETTINGS).predict(image)
    assert np.array_equal(read.segmentation, expected.segmentation)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert [each["configuration"] for each in record["ensemble"]] == ["3d_fullres"] * 2
    assert record["model"]["name"].endswith(", ensemble of 2")
    again = run(*asked, *options, "--skip-existing")
    assert again.exit_code == 0
