"""What the worker answers, and how it reports."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, OutputError, SettingsError, UserError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.images import memory
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.modality import modality_of
from MoBUncertaintyLib.inference import predictor, torch_engine
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.pipeline.cases import analyse
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.worker import server
from MoBUncertaintyLib.worker.arrays import read_volume, write_array
from MoBUncertaintyLib.worker.predictions import Estimate, Predictions
from MoBUncertaintyLib.worker.protocol import Event, ProtocolError, check_event, encode
from support import tiny
from support.marks import needs_full_device

SETTINGS = {"device": "cpu", "precision": "float32"}
REGIONS = {"threshold": 0.01, "depth_mm": 0.0, "excess": 0.5, "max_regions": 3}
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


class Listener(server.Report):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        super().__init__(lambda event, fields: self.events.append({"event": event, **fields}))

    @property
    def progressed(self) -> list[dict]:
        return [event for event in self.events if event["event"] == Event.PROGRESS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Modèle für Bäuche 模型") / "results"
    dataset = tiny.make_dataset(orientation="RAS")
    return tiny.make_results_folder(folder, dataset=dataset, covariance=CovarianceSpec(Covariance.DIAGONAL), folds=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ärzte & Söhne 文件"
    path.mkdir()
    return path


def a_ct(shape: tuple[int, int, int] = (20, 24, 28)) -> sitk.Image:
    return tiny.make_ct(shape, (3.0, 2.5, 3.5), OBLIQUE)


def volume(image: sitk.Image, folder: Path) -> dict[str, Any]:
    path = folder / "ct.npy"
    np.save(path, sitk.GetArrayViewFromImage(image))
    matrix = grid_of(image).matrix().tolist() if image.GetDimension() == 3 else np.eye(4).tolist()
    return {"array": str(path), "ijk_to_ras": matrix, "name": "Müller^Jürgen", "modality": "CT"}


def a_request(image: sitk.Image, model: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    request = {"ct": volume(image, folder), "models": [str(model)], "folder": str(folder)}
    return request | {"settings": SETTINGS, "regions": REGIONS} | changes


# --- volumes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
def test_a_volume_comes_back_as_the_same_image(folder: Path, dtype: str) -> None:
    image = sitk.Cast(a_ct() / 100 + 20, getattr(sitk, f"sitk{dtype.capitalize().replace('Ui', 'UI')}"))
    read, digest = read_volume(volume(image, folder))
    assert np.array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))
    assert read.GetPixelID() == image.GetPixelID() and modality_of(read) == "CT"
    for what in ("Spacing", "Origin", "Direction"):
        assert getattr(read, f"Get{what}")() == pytest.approx(getattr(image, f"Get{what}")(), abs=1e-9)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert digest == read_volume(volume(image, folder))[1]
    image[0, 0, 0] = 7
    assert digest != read_volume(volume(image, folder))[1]


@pytest.mark.parametrize(("place", "value"), [((0, 3), np.nan), ((1, 1), np.inf), ((2, 2), 100.0), ((0, 0), 0.0)])
def test_a_matrix_of_no_volume_is_an_image_error(folder: Path, place: tuple[int, int], value: float) -> None:
    named = volume(tiny.make_ct((6, 6, 6)), folder)
    named["ijk_to_ras"][place[0]][place[1]] = value
    with pytest.raises(ImageError):
        read_volume(named)


@needs_full_device
def test_a_full_disk_is_said(folder: Path) -> None:
    (folder / "variance.npy").symlink_to("/dev/full")
    with pytest.raises(OutputError):
        write_array(folder, "variance", np.ones((40, 40, 40), np.float32))


# --- predictions ------------------------------------------------------------------------------------------------------


def test_a_prediction_is_that_of_the_core(model: Path, folder: Path) -> None:
    request = a_request(a_ct(), model, folder)
    result = Predictions().predict(request, Listener())
    image, digest = read_volume(request["ct"])
    predictor = Predictor(load_model(model), PredictionSettings(**SETTINGS))
    expected = analyse(image, predictor, RegionSettings(**REGIONS))
    pairs = [
        (result["segmentation"], expected.prediction.segmentation, np.uint8),
        (result["probability"]["1"], expected.prediction.probability[0], np.float32),
        (result["variance"]["1"], expected.prediction.variance[0], np.float32),
        (result["region_map"], expected.regions.whole_map(), np.uint16),
    ]
    for path, wanted, dtype in pairs:
        array = np.load(path)
        assert array.dtype == dtype
        assert np.array_equal(array, wanted), path
    assert len(result["regions"]) == 3
    sent = json.loads(encode(result))
    assert tuple(from_json(Region, each) for each in sent["regions"]) == expected.regions.ranked
    assert [label["name"] for label in sent["labels"]] == ["organ"]
    assert sent["provenance"]["input"]["name"] == "Müller^Jürgen"
    assert sent["provenance"]["input"]["sha256"] == digest
    assert sent["provenance"]["model"]["digest"] == load_model(model).digest
    assert sent["provenance"]["settings"]["device"] == "cpu"
    assert set(sent["seconds"]) == {"model", "preprocess", "network", "resample", "regions", "write"}


def test_a_segmentation_is_held_against_the_prediction(model: Path, folder: Path) -> None:
    request = a_request(a_ct(), model, folder)
    drawn = tiny.truth(a_ct()).astype(np.uint16) * 3
    drawn[:3, :3, :3] = 3
    structures = [{"value": 3, "name": "Organ", "terminology": None}, {"value": 4, "name": "spleen", "terminology": ""}]
    array = write_array(folder, "drawn", drawn)
    listener = Listener()
    request["segmentation"] = {"array": array, "structures": structures, "name": "by hand"}
    result = Predictions().predict(request, listener)
    assert np.array_equal(np.load(result["segmentation"]), drawn > 0)
    checked = result["provenance"]["checked"]
    assert (checked["name"], checked["labels"], checked["unmatched"]) == ("by hand", {"organ": "Organ"}, ["spleen"])
    assert np.load(result["region_map"])[:3, :3, :3].mean() > 0.8
    second = write_array(folder, "second", tiny.truth(a_ct()).astype(np.uint16) * 3)
    request["against"] = {"array": second, "structures": structures, "name": "second"}
    result = Predictions().predict(request, listener)
    assert result["provenance"]["checked"]["second"]["name"] == "second"
    assert np.array_equal(np.load(result["region_map"]) > 0, drawn != np.load(second))
    assert [(region["compared"], region["missing"]) for region in result["regions"]] == [(True, False)]


def test_several_organs_have_a_file_each(tmp_path: Path, folder: Path) -> None:
    several = tiny.make_results_folder(tmp_path / "several", dataset=tiny.make_dataset(("liver", "spleen")))
    result = Predictions().predict(a_request(a_ct(), several, folder), Listener())
    expected = Predictor(load_model(several), PredictionSettings(**SETTINGS)).predict(a_ct())
    for kind in ("probability", "variance"):
        wanted = getattr(expected, kind)
        assert list(result[kind]) == ["1", "2"]
        for value, path in result[kind].items():
            assert np.array_equal(np.load(path), wanted[int(value) - 1])


@pytest.fixture
def loadings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each time that a network is read."""
    seen = []
    load = torch_engine.load_network
    monkeypatch.setattr(torch_engine, "load_network", lambda model, fold: seen.append(model.path) or load(model, fold))
    return seen


def test_the_model_stays_warm_whatever_the_settings(model: Path, folder: Path, loadings: list[Path]) -> None:
    predictions, image = Predictions(), a_ct()
    part = {"region_of_interest": [-30, 30, -30, 30, -20, 20], "body_box": False}
    changes = [{}, {"overlap": 0.0, "samples": 3, "seed": 2}, part, {"folds": [1]}]
    for change in changes:
        got = np.load(
            predictions.predict(a_request(image, model, folder, settings=SETTINGS | change), Listener())["variance"][
                "1"
            ]
        )
        change = {name: tuple(value) if isinstance(value, list) else value for name, value in change.items()}
        wanted = Predictor(load_model(model), PredictionSettings(**SETTINGS | change)).predict(image).variance
        assert np.array_equal(got, wanted[0]), change
    assert len(loadings) == 1 + len(changes)  # one of the worker's, and one of each new Predictor


def test_another_model_or_new_files_are_loaded(tmp_path: Path, folder: Path, loadings: list[Path]) -> None:
    first, second = (tiny.make_results_folder(tmp_path / name) for name in ("first", "second"))
    predictions = Predictions()
    for path in (first, first, second, first):
        predictions.predict(a_request(a_ct(), path, folder), Listener())
    assert loadings == [first, second, first]
    weights = next(first.glob("fold_0/*.pth"))
    os.utime(weights, (1, 1))
    predictions.predict(a_request(a_ct(), first, folder), Listener())
    assert len(loadings) == 4


def test_a_wrong_setting_leaves_the_model_warm(model: Path, folder: Path, loadings: list[Path]) -> None:
    predictions = Predictions()
    predictions.predict(a_request(a_ct(), model, folder), Listener())
    for wrong in ({"folds": [7]}, {"mirror": True}, {"device": "cuda:99"}, {"overlap": 2}):
        with pytest.raises(SettingsError):
            predictions.predict(a_request(a_ct(), model, folder, settings=SETTINGS | wrong), Listener())
    predictions.predict(a_request(a_ct(), model, folder), Listener())
    assert len(loadings) == 1


def test_the_model_says_what_counts_as_a_region_where_the_request_does_not(folder: Path) -> None:
    tiny.make_model_folder(folder / "model", regions={"depth_mm": 1.5, "grow_mm": 0})
    asked = {"threshold": 0.01, "grow_mm": 2.0}
    request = a_request(a_ct((8, 8, 8)), folder / "model", folder, regions=asked)
    used = Predictions().predict(request, Listener())["provenance"]["regions"]["settings"]
    assert RegionSettings.from_dict(used) == RegionSettings(depth_mm=1.5, **asked)


def test_there_must_be_room_for_the_results_here_and_in_slicer(model: Path, folder: Path, monkeypatch) -> None:
    ct = a_ct()
    once = ct.GetNumberOfPixels() * 9
    monkeypatch.setattr(predictor, "check_tile", lambda *_: None)  # of its own memory there is enough
    for free, enough in ((2 * once, True), (2 * once - 1, False)):
        monkeypatch.setattr(memory, "_free", lambda free=free: free)
        with nullcontext() if enough else pytest.raises(SettingsError):
            Predictions().predict(a_request(ct, model, folder), Listener())


def test_what_was_set_for_another_model_is_not_taken(folder: Path) -> None:
    """Its variance may be of another size, and then no region would be found."""
    model = tiny.make_model_folder(folder / "model", regions={"variance_threshold": 0.003})
    for digest, used in ((model.digest, 0.1), ("0" * 64, 0.003)):
        request = a_request(a_ct((8, 8, 8)), folder / "model", folder, regions={"threshold": 0.1}) | {
            "regions_of_model": digest
        }
        settings = Predictions().predict(request, Listener())["provenance"]["regions"]["settings"]
        assert RegionSettings.from_dict(settings).level == used


@pytest.mark.parametrize(("part", "value"), [("settings", {"spead": 1}), ("regions", {"measure": "hope"})])
def test_settings_that_are_none_are_called_so(model: Path, folder: Path, part: str, value: dict) -> None:
    with pytest.raises(ProtocolError):
        Predictions().predict(a_request(a_ct(), model, folder, **{part: value}), Listener())


# --- bad input, whose sentences the tables of command and panel hold -------------------------------------------------


def test_a_bad_image_is_refused(model: Path, folder: Path) -> None:
    for image in (a_ct()[:, :, 3:4], sitk.Compose([a_ct()] * 3)):
        with pytest.raises(UserError) as caught:
            Predictions().predict(a_request(image, model, folder), Listener())
        assert server.describe_error(caught.value) == ("image", str(caught.value))


def test_memory_and_unforeseen_errors_are_one_sentence() -> None:
    for error, code, named in (
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "settings", "memory"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "installation", "torch"),
        (KeyError("ct"), "internal", "KeyError"),
    ):
        told, message = server.describe_error(error)
        assert told == code and named in message and message.count(". ") == 0 and message.endswith(".")


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_runs_from_0_to_1_through_all_stages(model: Path, folder: Path) -> None:
    predictions = Predictions()
    for settings in (SETTINGS, SETTINGS | {"overlap": 0.0}):
        report = Listener()
        predictions.predict(a_request(a_ct(), model, folder, settings=settings), report)
        for event in report.events:
            check_event(event)
        fractions = [event["fraction"] for event in report.progressed]
        assert fractions[0] == 0.0
        assert fractions[-1] == 1.0
        assert fractions == sorted(fractions)
        stages = list(dict.fromkeys(event["stage"] for event in report.progressed))
        assert stages == ["model", "preprocess", "network", "resample", "regions", "write"]
        assert all(event["seconds_left"] >= 0 for event in report.progressed if event["stage"] in stages[3:])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_fraction_and_seconds_left_by_hand() -> None:
    clock = Clock()
    estimate = Estimate({"model": 10.0, "network": 80.0, "resample": 10.0}, clock)
    steps = []
    for seconds, stage, done, total in [
        (0, "model", 0, 1), (10, "model", 1, 1), (10, "network", 0, 4), (40, "network", 1, 4), (100, "network", 3, 4),
        (130, "network", 4, 4), (130, "resample", 0, 1), (135, "resample", 1, 1),
    ]:  # fmt: skip
        clock.now = seconds
        step = estimate.step(stage, done, total)
        steps.append((step["fraction"], step["seconds_left"]))
    # A quarter of the network took 30 s after the first one, which tells nothing: one more, and the 10 s that
    # resampling is expected to take, 140 s in all.
    assert steps == [
        (0.0, None), (0.1, None), (0.1, None), (0.3, None),
        (pytest.approx(100 / 140, abs=1e-4), 40.0), (pytest.approx(130 / 140, abs=1e-4), 10.0),
        (pytest.approx(130 / 140, abs=1e-4), 10.0), (1.0, 0.0),
    ]  # fmt: skip
    assert estimate.seconds == {"model": 10, "network": 120, "resample": 5}


def test_the_time_left_is_said_once_it_is_known_and_does_not_jump() -> None:
    """The network is slow at first, and how many tiles there are is known after the seventh only."""
    clock = Clock()
    estimate = Estimate({"model": 5.0, "network": 200.0, "resample": 2.0}, clock)
    estimate.step("model", 1, 1)
    fractions, lefts = [], []
    for done in range(13):
        clock.now = 9.0 + done if done else 0.0  # 10 s for the first tile, 1 s for each of the others
        step = estimate.step("network", done, 0 if done < 7 else 12)
        fractions.append(step["fraction"])
        lefts.append(step["seconds_left"])
    assert lefts == [None] * 7 + [7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    assert fractions == sorted(fractions) and fractions[7] == pytest.approx(16 / 23, abs=1e-4)
