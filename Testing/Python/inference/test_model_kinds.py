"""Every kind of model that nnU-Net trains gives nnU-Net's own label map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.errors import ImageError, SettingsError
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.prediction import PredictionSettings
from MoBUncertaintyLib.worker import server
from MoBUncertaintyLib.worker.commands import Predictions
from support.command_line import run
from support.model_kinds import kind_dataset, kind_plans, make_kind, make_mr, stock_labels

SETTINGS = PredictionSettings(device="cpu", precision="float32", engine="torch", tiling="full")


def agreement(ours: np.ndarray, stock: np.ndarray) -> float:
    assert len(np.unique(stock)) > 1, "nothing to see"
    return float((ours == stock).mean())


# --- several input channels


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Model:
    plans = kind_plans(("ZScoreNormalization", "CTNormalization"))
    return make_kind(tmp_path_factory.mktemp("two") / "model", plans, kind_dataset(("T1", "PET")))


def test_each_channel_is_normalised_its_own_way(two: Model) -> None:
    t1, pet = make_mr(1), make_mr(2)
    found = predict(t1, two, SETTINGS, channels={"pet": pet})
    stock = stock_labels(two.path, [t1, pet])
    assert agreement(found.segmentation, stock) >= 0.999
    assert found.provenance["channels"] == ["T1", "PET"]
    other_way = predict(pet, two, SETTINGS, channels={"T1": t1})
    assert np.array_equal(other_way.segmentation, found.segmentation), "channels are known by name"
    swapped = predict(pet, two, SETTINGS, channels={"PET": t1})
    assert (swapped.segmentation == stock).mean() < 0.999


def test_a_channel_on_another_grid_is_resampled_with_a_note(two: Model) -> None:
    t1, pet = make_mr(1), make_mr(2)
    finer = sitk.Resample(pet, (48, 48, 48), sitk.Transform(), sitk.sitkLinear, (-0.5,) * 3, (1.0,) * 3)
    found = predict(t1, two, SETTINGS, channels={"PET": finer})
    notes = [each for each in found.warnings if "PET" in each]
    assert notes == ["The image of PET has another grid; it was resampled to the first image's."]
    assert (found.segmentation == predict(t1, two, SETTINGS, channels={"PET": pet}).segmentation).mean() > 0.9
    half = sitk.Image(pet)
    half.SetOrigin((24.0, 0.0, 0.0))
    [note] = [each for each in predict(t1, two, SETTINGS, channels={"PET": half}).warnings if "PET" in each]
    assert note.endswith("of which it covers 50%.")
    half.SetOrigin((1000.0, 0.0, 0.0))
    with pytest.raises(ImageError, match="The image of PET does not overlap the first image; check that both show"):
        predict(t1, two, SETTINGS, channels={"PET": half})


def test_a_missing_or_unknown_channel_is_named(two: Model) -> None:
    for channels, message in (
        ({}, r"takes 2 images of each case \(T1, PET\), and PET is missing; give it too .--channel PET=FILE"),
        ({"CT": make_mr()}, "no input channel CT; its channels are T1, PET"),
        ({"T1": make_mr(), "PET": make_mr()}, "All input channels are named"),
    ):
        with pytest.raises(SettingsError, match=message):
            predict(make_mr(), two, SETTINGS, channels=channels)


def test_commands_take_channels_by_name_or_in_nnunets_layout(two: Model, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    cases.mkdir()
    for number, name in enumerate(("a_0000", "a_0001", "b_0000", "c")):
        sitk.WriteImage(make_mr(number), cases / f"{name}.nii.gz")
    options = ("--model", two.path, "--no-scene", "--device", "cpu", "--engine", "torch")
    done = run("predict", cases, "--output", tmp_path / "out", *options)
    assert done.exit_code == 2
    problem = "the model takes 2 images of each case, in files CASE_0000, CASE_0001"
    assert f"b_0000.nii.gz: skipped, because {problem}." in done.stderr
    assert f"c.nii.gz: skipped, because {problem}." in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["a"]
    record = json.loads((tmp_path / "out" / "a" / "prediction.json").read_text())
    assert record["channels"] == ["T1", "PET"]
    [channel] = record["input"]["channels"]
    assert channel["name"] == "PET" and channel["path"] == str(cases / "a_0001.nii.gz") and len(channel["sha256"]) == 64
    assert "had these results already" in run("predict", cases, "--output", tmp_path / "out", *options).stderr
    named = ("--channel", f"PET={cases / 'a_0001.nii.gz'}", "--output", tmp_path / "named")
    assert run("predict", cases / "a_0000.nii.gz", *named, *options).exit_code == 0
    maps = [sitk.ReadImage(tmp_path / name / "segmentation.nii.gz") for name in ("named", "out/a")]
    assert np.array_equal(*map(sitk.GetArrayFromImage, maps))
    for wrong in ("PET", "=x", "PET="):
        done = run("predict", cases / "a_0000.nii.gz", "--channel", wrong, "--output", tmp_path / "no", *options)
        assert done.exit_code == 2 and "give a channel's name and its file, NAME=FILE" in done.stderr
    done = run("predict", cases, *named[:2], "--output", tmp_path / "no", *options)
    assert done.exit_code == 2 and "--channel is for one case" in done.stderr


def test_the_worker_is_handed_a_volume_for_each_channel(two: Model, tmp_path: Path) -> None:
    t1, pet = make_mr(1), make_mr(2)
    volumes = []
    for name, image in (("t1", t1), ("pet", pet)):
        np.save(tmp_path / f"{name}.npy", sitk.GetArrayViewFromImage(image))
        matrix = grid_of(image).matrix().tolist()
        volumes.append({"array": str(tmp_path / f"{name}.npy"), "ijk_to_ras": matrix, "name": "Müller^Jürgen"})
    request = {"ct": volumes[0], "channels": {"PET": volumes[1]}, "model": str(two.path), "folder": str(tmp_path)}
    settings = {"device": "cpu", "precision": "float32", "engine": "torch"}
    result = Predictions()(request | {"settings": settings}, server.Report(lambda *_: None))
    expected = predict(t1, two, SETTINGS, channels={"PET": pet})
    assert np.array_equal(np.load(result["segmentation"]), expected.segmentation)
    [channel] = result["provenance"]["input"]["channels"]
    assert channel["name"] == "PET" and "path" not in channel
