"""A temperature from labelled cases: found in both directions, for a model that has no covariance, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit

from MoBUncertaintyLib.base.errors import CalibrationError, Cancelled
from MoBUncertaintyLib.gaussian.logits import logits_of
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model, predicted_cases
from MoBUncertaintyLib.pipeline.calibration.fit import fit_temperature
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from MoBUncertaintyLib.review.refinement.evidence import Evidence
from MoBUncertaintyLib.worker import commands
from MoBUncertaintyLib.worker.server import Report
from support import tiny
from support.command_line import run

SHAPE = (24, 24, 24)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder of nnU-Net, without a covariance."""
    return tiny.make_results_folder(tmp_path_factory.mktemp("trained") / "model")


def write_cases(folder: Path, model: Path, temperature: float, count: int = 6) -> Path:
    """Write images, and truths that are drawn from what a model says of them, its logits divided by a temperature."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    predictor = Predictor(load_model(model), PredictionSettings(device="cpu"))
    rng = np.random.default_rng(0)
    for number in range(count):
        image = tiny.make_ct(SHAPE, centre=(4.0 * number, 3.0, -2.0 * number))
        mean, _ = logits_of(predictor.predict(image, exact=True).probability[0], np.zeros(SHAPE[::-1], np.float32))
        truth = sitk.GetImageFromArray((rng.random(mean.shape) < expit(mean / temperature)).astype(np.uint8))
        truth.CopyInformation(image)
        sitk.WriteImage(image, folder / "images" / f"case{number}.nii.gz")
        sitk.WriteImage(truth, folder / "labels" / f"case{number}.nii.gz")
    return folder


@pytest.mark.parametrize("temperature", [1.6, 0.7])
def test_a_model_that_is_too_sure_or_not_sure_enough_is_put_right(stock: Path, tmp_path: Path, temperature) -> None:
    cases = write_cases(tmp_path / "cases", stock, temperature)
    (cases / "labels" / "case5.nii.gz").unlink()
    asked = ["calibrate", stock, cases, "--output", tmp_path / "new.zip", "--device", "cpu"]
    done = run(*asked, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["calibration"]["temperature"] == pytest.approx(temperature, rel=0.1)
    assert told["calibration"]["labelled cases"] == 5 and "reviews" not in told["calibration"]
    assert told["calibration"]["nll"][1] < told["calibration"]["nll"][0]
    image = cases / "images" / "case5.nii.gz"
    assert len(told["refused"]) == 1 and str(image) in told["refused"][0]
    settings = PredictionSettings(device="cpu", engine="torch", overlap=0)
    old, new = (
        Predictor(load_model(path), settings).predict(sitk.ReadImage(str(image)), exact=True)
        for path in (stock, tmp_path / "new.zip")
    )
    assert np.array_equal(old.segmentation, new.segmentation)
    before, after = (logits_of(each.probability[0], each.variance[0])[0] for each in (old, new))
    some = np.abs(before) < 6
    assert np.median(before[some] / after[some]) == pytest.approx(told["calibration"]["temperature"], rel=0.01)


def test_what_cannot_be_used_is_said_and_nothing_is_written(stock: Path, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", stock, 1.0)
    steps: list[dict] = []
    request = {"model": str(stock), "cases": [str(cases)], "output": str(tmp_path / "new")}
    with pytest.raises(CalibrationError):
        commands.calibrate(request, Report(lambda _kind, fields: steps.append(fields)))
    fractions = [step["fraction"] for step in steps]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and len(fractions) > 6
    assert (steps[-2]["done"], steps[-2]["total"], steps[0]["seconds_left"]) == (5, 6, None)
    images, labels = (sorted((cases / name).iterdir()) for name in ("images", "labels"))
    shifted = sitk.ReadImage(str(labels[0]))
    shifted.SetOrigin((0.0, 0.0, 500.0))
    sitk.WriteImage(shifted, labels[0])
    sitk.WriteImage(sitk.ReadImage(str(labels[1])) * 7, labels[1])
    images[2].write_bytes(images[2].read_bytes()[:-100])
    for files in (images, labels):
        files[3].write_bytes(files[4].read_bytes())
    with pytest.raises(CalibrationError) as error:
        calibrate_model(stock, [cases], tmp_path / "new", device="cpu")
    for words in (
        "needs at least 5 signed-off reviews or labelled cases, but only 2 of these can be used",
        f"The label map {labels[0]} has a different grid from its image.",
        f"The label map {labels[1]} has none of the model's labels (1).",
        f"{images[2].name} is truncated",
        f"The image {images[4]} is of the same image as {images[3]}.",
    ):
        assert words in str(error.value)
    asked = []
    with pytest.raises(Cancelled):
        calibrate_model(stock, [cases], tmp_path / "new", cancelled=lambda: bool(asked.append(0) or len(asked) > 3))
    assert not (tmp_path / "new").exists()


def test_certain_voxels_count_where_they_are_wrong_alone(stock: Path) -> None:
    p = np.array([[[0.0, 1e-12, 0.3, 1.0, 1.0, 0.0]]], np.float32)
    truth = np.array([[[False, False, True, True, False, True]]])
    found = Evidence.of_truth(p, np.zeros_like(p), truth)
    assert found.kinds.tolist() == [[-80, 0, 0, 1, 0], [-3, 0, 0, 1, 0], [80, 0, 1, 0, 0]]
    assert found.voxels == 3


def test_a_review_among_the_cases_keeps_a_model_from_getting_surer(stock: Path, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", stock, 0.7, count=2)
    predictor = Predictor(load_model(stock), PredictionSettings(device="cpu"))
    found = [read() for read in predicted_cases([cases], predictor, lambda _: None, lambda: False)]
    assert [case.place.name for case in found] == ["case0.nii.gz", "case1.nii.gz"]
    assert all(case.labelled for case in found)
    evidence = [case.evidence for case in found]
    assert fit_temperature(evidence, lowest=0.0).temperature < 0.8
    assert fit_temperature(evidence).temperature == 1.0
