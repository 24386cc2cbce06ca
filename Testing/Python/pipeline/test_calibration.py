"""A site's own calibration: what is counted of reviews, what is fitted to it, and the model that comes of it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from MoBUncertaintyLib.base.errors import CalibrationError, OutputError, ReviewError
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.gaussian.logits import logits_of
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.measurements.drawn import DrawnCalibration
from MoBUncertaintyLib.measurements.volumes import LabelCalibration, Residuals, Scale, StatedVolume, VolumeCalibration
from MoBUncertaintyLib.model.click_trees import FEATURES, OF_LOGITS
from MoBUncertaintyLib.model.fingerprint import FalseAlarms, Fingerprint, Ordinary
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model, find_reviews, gather, read_review
from MoBUncertaintyLib.pipeline.calibration.fit import (
    SiteCase,
    calibrate,
    error_growth,
    extend_fingerprint,
    fit_intervals,
    fit_temperature,
    fit_threshold,
)
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from MoBUncertaintyLib.review.outcome import decided_voxels
from MoBUncertaintyLib.review.refinement.evidence import Evidence
from MoBUncertaintyLib.review.review import Review
from support import tiny
from support.clicks import random_trees
from support.command_line import run
from support.fake_case import fake_case

DIGEST = "0" * 64  # of the fake case's model


def evidence(temperature: float, seed: int, voxels: int = 3000, undecided: int = 0) -> Evidence:
    """Voxels whose true logits are those predicted, divided by a temperature; some of them not decided."""
    rng = np.random.default_rng(1000 + seed)
    mean, square = rng.normal(0, 3, voxels) + rng.normal(0, 0.5), rng.normal(1.5, 0.5, voxels) ** 2
    p, v = logistic_normal_moments(mean, square)
    true, _ = logistic_normal_moments(mean / temperature, square / temperature**2)
    decided = np.arange(voxels - undecided)
    return Evidence.of(p, v, (decided,), rng.random(len(decided)) < true[decided])


def cases(temperature: float, count: int, deviations: dict[str, float] | None = None) -> list[SiteCase]:
    volumes = [{"organ": (StatedVolume(100.0, 10.0), 100.0 + number)} for number in range(count)]
    return [
        SiteCase(Path(f"{i}"), f"{i}", (evidence(temperature, i),), deviations or {}, volumes[i]) for i in range(count)
    ]


def write_review(folder: Path, digest: str, given: Evidence, name: str = "0" * 64, **changes) -> Path:
    """An export's record, without the files that a reader looks at."""
    review = {"signature": {"name": "Ada", "time": "2026-05-31T14:30:00+02:00"}}
    review["regions"] = [{"verdict": "pending", "resolved": True}]
    record = {"schema": "mob-uncertainty report", "review": review, "files": {}}
    record |= {"model": {"name": "Other", "digest": digest}, "ct": {"sha256": name}}
    record["decided_voxels"] = {"1": given.to_text()}
    record["labels"] = [{"name": "organ", "network_ml": 100.0, "network_error_ml": 8.0, "corrected_ml": 104.0}]
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(seal(record | changes)), encoding="utf-8")
    return folder


def test_a_verdict_never_contradicts_the_model_only_what_is_drawn_or_clicked_does(tmp_path: Path) -> None:
    case = fake_case()
    review, predicted = Review(case.prediction, case.regions), case.prediction.segmentation
    first, second = review.regions
    assert not decided_voxels(review)[0].size
    changed = {}
    for verdict in ("accept", "include", "exclude"):
        review.decide(first.region_id, verdict)
        decided = decided_voxels(review)
        assert np.array_equal(review.corrected()[decided], predicted[decided])
        changed[verdict] = np.count_nonzero(review.corrected() != predicted)
        assert len(decided[0]) == np.count_nonzero(first.found.mask) - changed[verdict]
    assert not changed["accept"] and changed["include"] + changed["exclude"] > 0
    review.decide(first.region_id, "accept")
    voxel = tuple(np.argwhere(second.found.mask)[0] + [part.start for part in second.box])
    review.click((tuple(case.prediction.grid.to_ras(np.array(voxel)).tolist()),), 1 - int(predicted[voxel]))
    review.decide(second.region_id, "accept")
    decided, corrected = decided_voxels(review), review.corrected()
    assert np.argwhere(corrected != predicted).tolist() != [list(voxel)], "the click has spread"
    wrong = corrected[decided] != predicted[decided]
    assert np.transpose(decided)[wrong].tolist() == [list(voxel)]
    review.edit(first.region_id, 1 - predicted)
    decided = decided_voxels(review)
    wrong = np.count_nonzero(review.corrected()[decided] != predicted[decided])
    assert wrong == 1 + np.count_nonzero(first.found.mask)
    review.sign("Ada")
    write_export(Case.of(case.image, review), tmp_path / "review", ["nifti"])
    (read,), refused = gather(partial(read_review, folder, DIGEST) for folder in find_reviews([tmp_path]))
    assert not refused
    (counted,), (volumes,) = read.evidence, read.volumes.values()
    assert volumes[1] == pytest.approx(
        np.count_nonzero(review.corrected()) * case.prediction.grid.voxel_mm3 / 1000, abs=1e-3
    )
    given = review.corrected()[decided] == 1
    assert counted.counts[:2].sum(axis=1).tolist() == [np.count_nonzero(~given), np.count_nonzero(given)]
    assert counted.moments()[0] @ counted.counts[:2].sum(axis=0) == pytest.approx(
        case.prediction.probability[0][decided].sum(), rel=0.01
    )


def test_reviews_that_tell_nothing_of_the_model_are_refused(tmp_path: Path) -> None:
    given = evidence(1.0, 0)
    good = write_review(tmp_path / "good", DIGEST, given)
    twice = write_review(tmp_path / "twice", DIGEST, given)
    foreign = write_review(tmp_path / "foreign", "1" * 64, given, "1")
    unsigned = write_review(tmp_path / "unsigned", DIGEST, given, "2", review={"signature": None, "regions": []})
    old = write_review(tmp_path / "old", DIGEST, given, "3", decided_voxels=None)
    damaged = write_review(tmp_path / "damaged", DIGEST, given, "4", decided_voxels={"1": "AAAA"})
    empty = write_review(tmp_path / "empty", DIGEST, Evidence(np.empty((0, 5), np.int64)), "5")
    changed = write_review(tmp_path / "changed", DIGEST, given, "6")
    record = changed / "report.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"6"', '"7"'), encoding="utf-8")
    folders = [good, twice, foreign, unsigned, old, damaged, empty, changed]
    kept, refused = gather(partial(read_review, folder, DIGEST) for folder in folders)
    assert [case.place for case in kept] == [good]
    assert len(set(refused)) == 7
    assert all(f"The review in {folder} " in line for folder, line in zip(folders[1:], refused, strict=True))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ReviewError):
        find_reviews([tmp_path / "nothing"])


def test_temperature_is_found_and_shown_to_be_better() -> None:
    fit = fit_temperature([case.evidence for case in cases(1.6, 6)])
    assert fit.temperature == pytest.approx(1.6, rel=0.06)
    assert fit.after.nll < fit.before.nll and fit.after.ece < fit.before.ece and fit.p_value < 0.05


def test_reviews_never_make_a_model_surer() -> None:
    fit = fit_temperature([case.evidence for case in cases(0.7, 10)])  # all agree with the model more than it expects
    assert fit.temperature == 1 and fit.before == fit.after and fit.p_value == 1
    with pytest.raises(CalibrationError):
        calibrate(cases(0.7, 10), tiny.card())


def test_voxels_that_nobody_decided_speak_for_the_model_as_it_is() -> None:
    some = [(evidence(1.6, seed, voxels=6000, undecided=3000),) for seed in range(6)]
    assert [each.counts.sum(axis=1)[2] < 3000 for (each,) in some] == [True] * 6  # those that are certain do not count
    fit = fit_temperature(some)
    assert 1.15 < fit.temperature < 1.45
    assert fit.p_value < 0.05


def test_model_that_is_calibrated_stays_as_it_is() -> None:
    with pytest.raises(CalibrationError):
        calibrate(cases(1.0, 10), tiny.card())
    with pytest.raises(CalibrationError):
        calibrate(cases(2.0, 6), tiny.card(training={"calibration": {"reviews": 6}}))
    labels = tiny.card(training={"calibration": {"labelled cases": 6}})  # these are right for all voxels
    assert calibrate(cases(2.0, 6), labels).fit.temperature > 1.5
    with pytest.raises(CalibrationError):
        calibrate(cases(2.0, 4), tiny.card())


def test_probability_that_noise_does_not_move_is_divided_by_itself() -> None:
    given = evidence(1.0, 0)
    p, _ = given.moments()
    divided, variance = given.moments(2.0, keep_probability=True)
    assert divided == pytest.approx(expit(np.log(p / (1 - p)) / 2), abs=1e-3)
    assert variance == pytest.approx(given.moments(2.0)[1])


def test_threshold_lists_what_was_as_uncertain_before() -> None:
    given = [case.evidence[0] for case in cases(1.5, 5)]
    assert fit_threshold(given, 1.0, 0.02) == 0.02
    threshold = fit_threshold(given, 1.5, 0.02)
    counts = np.concatenate([each.counts.sum(axis=0) for each in given])

    def error_at(temperature: float, level: float) -> float:
        p, v = (np.concatenate(x) for x in zip(*(each.moments(temperature) for each in given), strict=True))
        near = counts * (np.abs(v / level - 1) < 0.2)
        return float(near @ np.minimum(p, 1 - p) / near.sum())

    assert error_at(1.5, threshold) == pytest.approx(error_at(1.0, 0.02), rel=0.2)


def test_cases_of_the_site_are_ordinary_afterwards() -> None:
    ordinary = {"intensity": Ordinary(1.0, 0.2), "contrast": Ordinary(0.0, 0.1), "error": Ordinary(-2.0, 0.3)}
    known = Fingerprint(40, "phantoms", ordinary, (4.0, 8.0), false_alarms=FalseAlarms(1, 40, "others"))
    far = cases(1.5, 5, deviations={"intensity": 7.0, "contrast": 0.5, "error": 1.0})
    extended = extend_fingerprint(known, far, 1.5)
    assert 7.0 * 0.2 / extended.measures["intensity"].deviation < 2
    assert extended.measures["contrast"] == ordinary["contrast"]
    assert extended.measures["error"].median > -2.0  # a temperature above 1 expects more error of every case
    assert (extended.cases, extended.data) == (45, "phantoms, and 5 reviewed on site")
    assert extended.false_alarms is None, "counted with the narrower ranges"


@pytest.mark.parametrize(("count", "level"), [(5, 0.8), (10, 0.9)])
def test_intervals_are_those_of_the_sites_own_cases(count: int, level: float) -> None:
    residuals = Residuals(Scale.ERROR, (0.1,) * 20)
    known = VolumeCalibration("others", {"organ": LabelCalibration(residuals)})
    given = cases(1.6, count)
    found = fit_intervals(given, known, 1.6)
    assert found is not None and found.level == level
    assert found.before == 2 / count  # 1 ml on either side
    assert found.after == 1 - 1 / count  # that of the largest residual is not in those of the others
    made = found.calibration.labels["organ"].predicted
    growth = np.exp([error_growth(case.evidence, 1.6) for case in given])
    assert made.scale is Scale.ERROR and growth.min() > 1.1
    assert made.values == pytest.approx(np.arange(count) / (10 * growth), rel=1e-3)
    assert fit_intervals(given[:1], known, 1.6) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_exported_model(tmp_path_factory.mktemp("model"))


def write_reviews(folder: Path, model: Path, temperature: float, count: int) -> Path:
    digest = load_model(model).digest
    for number in range(count):
        write_review(folder / f"case {number}" / "review", digest, evidence(temperature, number), str(number))
    return folder


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_new_model_divides_mean_and_deviation_of_the_logits(model: Path, tmp_path: Path, engine: str) -> None:
    before = load_model(model).digest
    new, calibration, _ = calibrate_model(
        model, [write_reviews(tmp_path / "reviews", model, 1.6, 5)], tmp_path / "new.zip"
    )
    old = load_model(model)
    assert old.digest == before != new.digest
    assert new.card.name == "Tiny, calibrated"
    told = new.card.training["calibration"]
    assert (told["reviews"], told["of"]) == (5, f"Tiny, {before}")
    assert told["nll"][1] < told["nll"][0]
    assert new.card.training["temperature"] == calibration.fit.temperature
    settings = PredictionSettings(engine=engine, device="cpu", precision="float32", overlap=0)
    image = tiny.make_ct((24, 24, 24))
    both = [Predictor(each, settings).predict(image, exact=True) for each in (old, new)]
    (m, s), (divided, square) = (logits_of(each.probability[0].ravel(), each.variance[0].ravel()) for each in both)
    sure = np.abs(m) < 6
    for one, other in ((m, divided), (np.sqrt(s), np.sqrt(square))):  # but where several tiles are blended
        away = np.abs(one - calibration.fit.temperature * other)[sure]
        assert np.quantile(away, 0.95) < 0.02


def test_command_writes_a_model_or_says_why_not(model: Path, tmp_path: Path) -> None:
    few = run("calibrate", model, write_reviews(tmp_path / "few", model, 1.6, 3), "--output", tmp_path / "new")
    assert few.exit_code == 2
    usual = run("calibrate", model, write_reviews(tmp_path / "usual", model, 1.0, 6), "--output", tmp_path / "new")
    assert usual.exit_code == 2
    assert not (tmp_path / "new").exists()
    reviews = write_reviews(tmp_path / "reviews", model, 1.6, 5)
    write_review(reviews / "foreign", "1" * 64, evidence(1.0, 0), "foreign")
    done = run("calibrate", model, reviews, "--output", tmp_path / "new", "--name", "Ours", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["digest"] == load_model(tmp_path / "new").digest
    assert len(told["refused"]) == 1 and str(reviews / "foreign") in told["refused"][0]
    assert told["calibration"]["nll"][1] < told["calibration"]["nll"][0]
    assert "5 reviews" in run("inspect", tmp_path / "new").stdout.replace("reviews 5", "5 reviews")
    with pytest.raises(OutputError):
        calibrate_model(model, [reviews], tmp_path / "new")


def test_what_is_known_of_clicks_and_of_drawn_contours_is_divided_too() -> None:
    learned, settings = random_trees(), tiny.card().click_settings
    drawn = DrawnCalibration((8.0, 16.0), tuple(np.arange(20.0)), tuple(np.arange(20.0)))
    label = LabelCalibration(Residuals(Scale.NOTHING, (1.0,) * 20), drawn=drawn)
    card = tiny.card(
        click_settings=replace(settings, prior_deviation=1.5, learned=learned, caution=0.8),
        volume_calibration=VolumeCalibration("others", {"organ": label}),
    )
    made = calibrate(cases(1.6, 5), card)
    temperature, clicks = made.fit.temperature, made.click_settings
    assert clicks.prior_deviation == pytest.approx(1.5 / temperature)
    assert clicks.caution == pytest.approx(0.8 / temperature)
    features = np.random.default_rng(0).normal(0, 3, (len(FEATURES), 500)).astype(np.float32)
    scaled = features / np.where(np.isin(FEATURES, OF_LOGITS), temperature, 1).astype(np.float32)[:, None]
    assert np.allclose(clicks.learned.score(scaled) * temperature, learned.score(features), atol=0.02)
    assert made.intervals is not None
    (now,) = (each.drawn for each in made.intervals.calibration.labels.values())
    assert now.discrepancies == pytest.approx([8 / temperature, 16 / temperature], rel=1e-4)
    assert now.jaccard == drawn.jaccard
