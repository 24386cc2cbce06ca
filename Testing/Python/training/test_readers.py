"""Simulated readers: where they act, what is scored, and how the settings of clicks are fitted."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from mob_training.comparison.compare import compare
from mob_training.comparison.readers import (
    challenge_table,
    dice_table,
    gain_table,
    other_table,
    turn_table,
    worse_table,
)
from mob_training.evaluation.readers import readers, study
from mob_training.evaluation.readers.baselines import Bump
from mob_training.evaluation.readers.cases import ReadCase, cut
from mob_training.evaluation.readers.readers import Refined
from mob_training.evaluation.readers.simulation import ACTIONS, CHALLENGE, IN_TURN, READERS, pooled, simulate
from mob_training.evaluation.readers.study import Trial, fit, fit_certainty, least_harmful
from mob_training.evaluation.score_files import Run, flatten, write_runs
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.region_settings import RegionSettings
from support.clicks import random_trees
from support.probability_images import prediction

SHAPE = (14, 18, 17)
SETTINGS = ClickSettings(length_mm=2.0, prior_deviation=1.5)
REGIONS = RegionSettings(depth_mm=0.5, window_mm=2, grow_mm=1, length_mm=16, variance_threshold=0.01)


def case(seed: int = 0, labels: int = 1) -> ReadCase:
    """A ball that is predicted with smooth errors."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE) - np.array([7, 9, 8]).reshape(3, 1, 1, 1)
    phases = rng.uniform(0, 6, 3)
    wave = 1.6 * np.sin(0.7 * x + phases[0]) + 1.4 * np.sin(0.6 * y + phases[1]) + np.sin(0.8 * z + phases[2])
    depth = 5 - np.sqrt(z**2 + y**2 + x**2) + 0.5 * np.cos(x * y / 9)
    parts = [depth] if labels == 1 else [np.minimum(depth, x + 0.5), np.minimum(depth, -x - 0.5)]
    mean = np.array([1.5 * part + wave for part in parts], np.float32)
    p, v = logistic_normal_moments(mean, np.full_like(mean, 0.8))
    p, v = p / np.maximum(p.sum(0), 1), v / np.maximum(p.sum(0), 1) ** 2
    segmentation = np.where(1 - p.sum(0) >= p.max(0), 0, 1 + p.argmax(0)).astype(np.uint8)
    truth = np.where(depth > 0, 1 + np.argmax(parts, axis=0), 0).astype(np.uint8)
    predicted = prediction(p, v, segmentation, (1.0, 1.0, 1.5))
    return ReadCase.of(predicted, image_on(predicted.grid, truth), REGIONS)


@pytest.fixture(scope="module")
def one() -> ReadCase:
    return case()


def test_a_cut_case_holds_all_that_matters(one: ReadCase) -> None:
    whole = case(3).prediction
    part = cut(whole, (slice(2, 12), slice(1, 16), slice(3, 15)))
    inside = np.array([4, 5, 6])
    assert np.allclose(part.grid.to_ras(inside), whole.grid.to_ras(inside + np.array([2, 1, 3])))
    assert np.array_equal(part.probability[0], whole.probability[0][2:12, 1:16, 3:15])
    assert one.regions.ranked
    assert one.regions.whole_map().shape == one.truth.shape == one.prediction.shape
    nothing = one.scores(one.prediction, one.unclicked())
    assert nothing["corrected_mm3"] == nothing["harmed_mm3"] == 0
    assert nothing["dice"] == nothing["dice_elsewhere"]
    assert 0.6 < nothing["dice"] < 0.95


def test_scores_are_those_of_a_reader_who_knows() -> None:
    one = case(1)
    perfect = replace(one.prediction, segmentation=one.truth, probability=(one.truth == 1)[None].astype(np.float32))
    scores = one.scores(perfect, one.unclicked())
    wrong = np.count_nonzero(one.prediction.segmentation != one.truth)
    assert scores["dice"] == scores["nsd_2mm"] == 1
    assert scores["error_mm3"] == scores["harmed_mm3"] == 0
    assert scores["expected_error_mm3"] == pytest.approx(one.elsewhere_mm3)
    assert scores["corrected_mm3"] == pytest.approx(1.5 * wrong)
    harmed = replace(one.prediction, segmentation=1 - one.truth)
    assert one.scores(harmed, one.unclicked())["harmed_mm3"] == pytest.approx(1.5 * (one.truth.size - wrong))
    all_clicked = one.scores(perfect, one.prediction.segmentation != one.truth)
    assert all_clicked["corrected_mm3"] == 0


def test_the_largest_error_is_clicked_where_it_is_deepest(one: ReadCase) -> None:
    truth = np.zeros(one.truth.shape, np.uint8)
    segmentation = truth.copy()
    segmentation[2:7, 2:7, 2:7] = 1  # 125 voxels, wrong
    segmentation[2, 2, 7:9] = 1
    truth[8:12, 9:13, 9:14] = 1  # 80, missed
    made = replace(one, truth=truth)
    assert readers.largest_error(made, segmentation) == (4, 4, 4)
    there = np.zeros(truth.shape, bool)
    there[7:] = True
    assert readers.largest_error(made, segmentation, there)[0] in (9, 10)
    assert readers.largest_error(made, truth) is None
    assert readers.largest_error(made, segmentation, np.zeros(truth.shape, bool)) is None


def test_every_click_is_an_error_and_has_its_true_label_from_then_on(one: ReadCase) -> None:
    before = one.prediction.segmentation
    for step in islice(readers.click_at_errors(one, Refined(one.prediction, SETTINGS)), 4):
        voxel, label = step.clicks[-1]
        assert before[voxel] != label == one.truth[voxel]
        assert all(step.prediction.segmentation[voxel] == label for voxel, label in step.clicks)
        before = step.prediction.segmentation
    assert len(step.clicks) == step.clicked.sum() == 4


def test_a_reader_who_errs_clicks_beside_and_with_other_labels(one: ReadCase, monkeypatch: pytest.MonkeyPatch) -> None:
    correct = Refined(one.prediction, SETTINGS)

    def clicks(reader) -> tuple:
        return list(islice(reader, 5))[-1].clicks

    def erring(seed: int) -> tuple:
        return clicks(readers.click_with_mistakes(one, correct, np.random.default_rng(seed)))

    right = clicks(readers.click_at_errors(one, correct))
    offsets = np.array(erring(0)[0][0]) - right[0][0]
    assert 1 < np.linalg.norm(offsets) < 3
    assert erring(0) == erring(0) != erring(1)
    monkeypatch.setattr(readers, "BESIDE", 0.0)
    monkeypatch.setattr(readers, "WRONG", 1.0)
    assert erring(0)[0] == (right[0][0], 1 - right[0][1])
    monkeypatch.setattr(readers, "WRONG", 0.0)
    assert erring(0) == right


def test_clicks_of_the_list_stay_in_its_regions(one: ReadCase) -> None:
    region_map = one.regions.whole_map()
    steps = list(readers.click_in_regions(one, Refined(one.prediction, SETTINGS), each=2))
    places = [region_map[voxel] for voxel, _ in steps[-1].clicks]
    assert 0 not in places
    assert max(np.bincount(places)) <= 2
    assert places == sorted(places)


def test_each_round_of_the_challenge_clicks_every_label() -> None:
    two = case(2, labels=2)
    for number, step in enumerate(islice(readers.click_each_label(two, Refined(two.prediction, SETTINGS)), 3), 1):
        assert number < len(step.clicks) <= 2 * number
        assert all(two.truth[voxel] == label for voxel, label in step.clicks)
    right = replace(two, truth=two.prediction.segmentation)
    assert not list(readers.click_each_label(right, Refined(right.prediction, SETTINGS)))
    truth = two.prediction.segmentation.copy()
    truth[2:7, 2:7, 2:7] = 1 + (truth[2:7, 2:7, 2:7] == 1)  # 125 voxels, most of them wrong
    made = replace(two, truth=truth)
    first = next(readers.click_each_label(made, Refined(made.prediction, SETTINGS)))
    assert first.clicks[0][0] == (4, 4, 4)


@pytest.mark.parametrize("lock", [False, True])
def test_a_label_that_is_locked_stays_when_the_next_is_corrected(lock: bool) -> None:
    two = case(2, labels=2)
    two = replace(two, prediction=replace(two.prediction, click_settings=SETTINGS))
    first, second = readers.correct_in_turn(two, lock, 3)
    assert len(first.clicks) == 3 < len(second.clicks) <= 6
    masks = [step.prediction.segmentation == 1 for step in (first, second)]
    assert np.array_equal(*masks) == lock


def test_labels_that_are_corrected_apart_do_not_see_each_other() -> None:
    two = case(2, labels=2)
    two = replace(two, prediction=replace(two.prediction, click_settings=SETTINGS))
    first, second = readers.correct_apart(two, 2)
    assert [len(step.clicks) for step in (first, second)] == [2, 4]
    assert (first.prediction.probability[1] <= two.prediction.probability[1] + 1e-6).all()  # it makes room at most
    assert second.prediction.probability.sum(0).max() <= 1 + 1e-6
    own = simulate(two, SETTINGS)[IN_TURN]
    assert own["apart"]["clicks"] == 6
    assert own["locked"]["undone_mm3"] == 0
    assert own["conditioned"] == own["together"]  # nothing is learned


def test_all_readers_gain_and_the_painter_most(one: ReadCase) -> None:
    found = simulate(one, SETTINGS)
    curves = found.pop(CHALLENGE)["product"]
    assert list(found) == ["errors", "mistakes", "regions", "suggested", "buttons", "painting"]
    start = found["errors"]["dice"][0]
    assert len(curves["dice"]) == len(curves["nsd"]) == 6
    assert curves["dice"][0] == start < curves["dice"][5]
    for reader in found.values():
        assert len(reader["dice"]) == ACTIONS + 1
        assert reader["dice"][0] == start
    assert found["errors"]["dice"][5] > start
    assert found["painting"]["end"]["dice"] >= found["buttons"]["end"]["dice"] >= start
    assert found["painting"]["end"]["harmed_mm3"] == 0
    assert found["buttons"]["actions"] == found["painting"]["actions"] == len(one.regions.ranked)
    assert found["suggested"]["actions"] > 0
    ratios = pooled([found, found])
    harmed, corrected = (found["errors"][name][3] for name in ("harmed_mm3", "corrected_mm3"))
    assert ratios["errors"]["harm"][3] == pytest.approx(harmed / corrected)
    left = found["errors"]["end"]
    assert ratios["errors"]["end"]["honesty"] == pytest.approx(left["expected_error_mm3"] / left["error_mm3"])


def test_of_what_gains_as_much_the_least_harmful_is_taken() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 30)
    gains = {"best": 0.02 + noise, "as good": 0.0195 + rng.permutation(noise), "worse": 0.012 + noise}
    harm = {"best": 0.4, "as good": 0.2, "worse": 0.1}
    tried = {name: Trial(gains[name], harm[name]) for name in gains}
    assert least_harmful(tried) == "as good"
    assert least_harmful({name: tried[name] for name in ("best", "worse")}) == "best"


def test_the_uncertainty_that_is_left_becomes_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(seed) for seed in range(2)]
    found, ratios = fit_certainty(cases, SETTINGS)
    assert set(ratios) == {"free 1", "free 3", "free 5", "listed"}
    assert (found.length_mm, found.strength) == (SETTINGS.length_mm, SETTINGS.strength)
    errors = dict.fromkeys((0.0, found.sharpening, 3.0), 0.0)
    for sharpening in errors:
        monkeypatch.setattr(study, "SHARPENINGS", (sharpening,))
        ratios = fit_certainty(cases, SETTINGS)[1]
        errors[sharpening] = float(np.mean(np.log(list(ratios.values())) ** 2))
    assert errors[found.sharpening] == min(errors.values())
    assert len(set(errors.values())) > 1


def test_a_fit_tries_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in {"DEVIATIONS": (0.3, 1.5), "LENGTHS_MM": (2.0,), "STRENGTHS": (8.0,)}.items():
        monkeypatch.setattr(study, name, values)
    monkeypatch.setattr(study, "SHARPENINGS", (0.0, 1.0))
    lines: list[str] = []
    settings, made = fit([case(seed) for seed in range(2)], ClickSettings(resolved_fraction=0.3), lines.append)
    assert len(lines) == len(made["trials"]) == 3
    assert lines[0].startswith("1 of 3: ")
    assert settings.resolved_fraction == 0.3
    assert settings.prior_deviation in (0.3, 1.5)
    with pytest.raises(SettingsError):
        fit([case()], ClickSettings())


def test_the_page_shows_what_was_simulated(one: ReadCase, tmp_path) -> None:
    rows = [simulate(one, replace(SETTINGS, learned=random_trees()), {"bump": Bump(2.0, 3.0)})] * 2
    description = {"dataset": "Ball", "name": "tiny", "seed": 0, "model": "Tiny", "clicks": {}}
    description |= {"bases": None, "sweep": False, "covariance": "diagonal"}
    cases = {f"c{n}": {"subject": f"c{n}", **dict(flatten(row))} for n, row in enumerate(rows)}
    run = Run(description, dict(flatten(pooled(rows))), cases)
    write_runs([run], tmp_path / "scores")
    page = compare([tmp_path / "scores"], tmp_path / "out").read_text()
    for reader in READERS:
        assert (f"| {reader.title} |" in page) == (reader.key in rows[0])
    assert len(challenge_table(run).rows) == 3 and not turn_table(run).rows
    assert dict(worse_table([run, run]).rows)["clicks at the largest error"][0] in ("0 of 4", "4 of 4")
    assert f"{100 * rows[0]['painting']['end']['dice']:.2f}" in page
    assert (tmp_path / "out" / "readers.png").stat().st_size > 5000
    assert len(dice_table(run).rows) == len(other_table(run).rows) == len(rows[0]) - 1
    gains = dict(gain_table(run).rows)
    ahead = 100 * (rows[0]["errors"]["dice"][5] - rows[0]["errors_bump"]["dice"][5])
    assert float(gains["largest error, Gaussian bump"][-1].split()[0]) == pytest.approx(ahead, abs=0.02)
    assert gains["clicks at the largest error"][-1] == "–"
    assert gains["largest error, Gaussian bump"][5] in ("0 of 2", "2 of 2")
