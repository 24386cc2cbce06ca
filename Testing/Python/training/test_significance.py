"""Paired tests between models: what is paired, how p is corrected, which way a mark points."""

import numpy as np
import pandas as pd
import pytest

from mob_training.comparison.compare import coverage, tables
from mob_training.comparison.significance import bootstrap_interval, by_backbone, holm, paired_tests, signed_rank
from mob_training.comparison.tables import BETTER, WORSE
from mob_training.evaluation.score_files import CONTROL
from mob_training.evaluation.scoreboard import DICE, NLL
from MoBUncertaintyLib.base.errors import SettingsError
from support.fake_scores import fake_run, run_of


def test_signed_rank_of_few_or_no_differences():
    assert signed_rank(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == 2 / 2**6
    assert signed_rank(np.array([0.1, 0.2, 0.3, 0.0, 0.0])) == 2 / 2**3
    assert signed_rank(np.zeros(5)) == 1


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x .01; 2 x .03; .04 must not fall below that
        ([0.2, 0.001, 0.6, 0.04], [0.4, 0.004, 0.6, 0.12]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm(p, corrected):
    assert holm(p) == pytest.approx(corrected)


def test_paired_tests_average_seeds_and_correct_over_models():
    control = [0.80, 0.81, 0.82, 0.83, 0.84, 0.85]
    runs = [fake_run(CONTROL, dice=control)]
    runs += [fake_run(CONTROL, 1, dice=control)]
    # Up by 1 to 6 % in the mean of two seeds; down by as much; up and down.
    runs += [
        fake_run("Diagonal", s, dice=[v + 0.01 * i + (-0.1, 0.1)[s] for i, v in enumerate(control, 1)]) for s in (0, 1)
    ]
    runs += [fake_run("Single-Basis", dice=[v - 0.01 * i for i, v in enumerate(control, 1)])]
    runs += [fake_run("Mixture-of-Bases", dice=[v + 0.01 * i * (-1) ** i for i, v in enumerate(control, 1)])]
    tests = {test.model: test for test in paired_tests(runs)}
    assert {test.reference for test in tests.values()} == {CONTROL}
    assert {test.metric for test in tests.values()} == {DICE}
    assert [tests[name].mean for name in ("Diagonal", "Single-Basis")] == pytest.approx([0.035, -0.035])
    assert {name: len(test.differences) for name, test in tests.items()} == dict.fromkeys(tests, 6)
    assert {name: test.seeds for name, test in tests.items()} == dict.fromkeys(tests, 1) | {"Diagonal": 2}
    assert [test.wins for test in tests.values()] == [6, 0, 3]
    assert (tests["Diagonal"].p, tests["Diagonal"].corrected) == pytest.approx((1 / 32, 3 / 32))
    assert tests["Diagonal"].mark == ""  # not after the correction
    assert tests["Mixture-of-Bases"].corrected == tests["Mixture-of-Bases"].p > 0.5
    assert [tests[name].better for name in ("Diagonal", "Single-Basis")] == [True, False]


def test_marks_say_better_or_worse_and_only_beyond_chance():
    control = np.linspace(0.1, 0.2, 8)
    steps = 0.001 * np.arange(1, 9)
    runs = [
        fake_run(CONTROL, volume__nll=list(control)),
        fake_run("Diagonal", volume__nll=list(control - steps)),
        fake_run("Single-Basis", volume__nll=list(control + steps)),
        fake_run("Mixture-of-Bases", volume__nll=list(control + steps * (-1) ** np.arange(8))),
    ]
    tests = paired_tests(runs)
    assert {test.metric for test in tests} == {NLL}
    assert [test.mark for test in tests] == [BETTER, WORSE, ""]
    shown = {name: cells[0].mark for name, cells in tables(runs, tests)["nll"].rows}
    assert shown == {CONTROL: "", "Diagonal": BETTER, "Single-Basis": WORSE, "Mixture-of-Bases": ""}


def test_no_mark_where_another_training_says_otherwise():
    control, steps = np.linspace(0.1, 0.2, 8), 0.001 * np.arange(1, 9)

    def tested(*shifts: float):
        runs = [fake_run(CONTROL, seed, volume__nll=list(control)) for seed in range(len(shifts))]
        runs += [fake_run("Diagonal", seed, volume__nll=list(control + x * steps)) for seed, x in enumerate(shifts)]
        (test,) = paired_tests(runs)
        return test

    assert (tested(-3, -1, -1).same_sign, tested(-3, -1, -1).mark) == (3, BETTER)
    assert (tested(-5, 1, -1).same_sign, tested(-5, 1, -1).mark) == (2, "")
    assert tested(-5, 1, -1).p == tested(-3, -1, -1).p


def test_better_is_what_the_ranks_say_and_marks_are_silent_where_means_disagree():
    """Better by little in eleven of twelve subjects and much worse in one."""
    steps = np.append(np.arange(1, 12), -100) * 1e-3
    runs = [fake_run(CONTROL, dice=[0.5] * 12), fake_run("Diagonal", dice=list(0.5 + steps))]
    (test,) = paired_tests(runs)
    assert test.p < 0.05
    assert (test.mean < 0, test.better, test.wins, test.mark) == (True, True, 11, "")


def test_cases_of_one_subject_are_one_witness():
    control, model = fake_run(CONTROL, dice=[0.5] * 7), fake_run("Diagonal", dice=[0.6, 0.4, *[0.7] * 5])
    for run in (control, model):
        for case in "ab":
            run.cases[case]["subject"] = "S"
    (test,) = paired_tests([control, model])
    assert sorted(test.differences) == pytest.approx([0] + [0.2] * 5)
    assert test.p == 2 / 2**5


def test_only_seeds_that_both_have_are_compared():
    runs = [fake_run(CONTROL, 0, dice=[0.5] * 6), fake_run(CONTROL, 1, dice=[0.9] * 6)]
    runs += [fake_run("Diagonal", s, dice=[0.6] * 6) for s in (1, 2)]
    runs += [fake_run("Single-Basis", 3, dice=[0.6] * 6)]
    (test,) = paired_tests(runs)
    assert (test.model, test.seeds) == ("Diagonal", 1)
    assert test.mean == pytest.approx(-0.3)


def test_heads_on_one_backbone_are_one_witness():
    """Six heads on two backbones, of which the control has one seed each."""
    runs = [fake_run(CONTROL, backbone, dice=[0.5 + 0.1 * backbone] * 4) for backbone in (0, 1)]
    for seed in range(6):
        head = fake_run("Diagonal", seed, dice=[0.5 + 0.1 * (seed % 2) + 0.01 * (1 + seed)] * 4)
        head.description["backbone"] = seed % 2
        runs.append(head)
    (test,) = paired_tests(runs)
    assert (test.seeds, test.same_sign) == (2, 2)
    assert test.of_seeds == pytest.approx((0.03, 0.04))
    assert test.differences == pytest.approx([0.035] * 4)


def test_coverage_is_over_subjects_and_backbones():
    """Two cases of one subject count as one; the heads on a backbone weigh as those on another."""
    scores = {f"joint__volume__covered_{level}": [1.0, 0.0, 1.0, 1.0] for level in (50, 80, 90)}
    runs = [fake_run("Diagonal", seed, **scores) for seed in (0, 1, 2)]
    for run, backbone in zip(runs, (0, 0, 1), strict=True):
        run.description["backbone"] = backbone
        for case in "ab":
            run.cases[case]["subject"] = "twin"
    runs[2].cases["c"]["joint.volume.covered_90"] = 0.0
    ((model, (dataset, half, _, most)),) = coverage(runs).rows
    assert (model, dataset) == ("Diagonal", "D")
    assert half.startswith("83 (")  # of .5, 1, 1
    assert most.startswith("67 (")  # of .5, 1, 1 and .5, 0, 1, as often
    assert not coverage([fake_run("Diagonal", dice=[0.5])]).rows


def test_folds_weigh_by_their_subjects():
    """In 99 % of draws the large fold comes three times at most, and 60 of 70 subjects then score 3."""
    folds = [pd.DataFrame([[0.0] * 5], columns=range(5 * n, 5 * n + 5)) for n in range(4)]
    folds.append(pd.DataFrame([[3.0] * 20], columns=range(20, 40)))
    assert bootstrap_interval(folds) == (0, pytest.approx(180 / 70))


def test_heads_and_backbones_without_a_score_are_not_drawn():
    runs = [fake_run("Diagonal", seed, dice=[dice] * 6) for seed, dice in enumerate([0.5, None, None, 0.6])]
    for run, backbone in zip(runs, (0, 0, 1, 2), strict=True):
        run.description["backbone"] = backbone
    assert [scores.shape for scores in by_backbone(runs, "dice")] == [(1, 6), (1, 6)]


def test_an_ensemble_is_compared_with_all_its_members():
    runs = [fake_run(CONTROL, seed, dice=[0.5 + 0.1 * seed] * 4) for seed in (0, 1, 2)]
    runs.append(fake_run("ensemble", 2, dice=[0.7] * 4))
    runs[-1].description["provenance"] = {"ensemble": "control"}
    (test,) = paired_tests(runs)
    assert test.of_seeds == pytest.approx((0.2, 0.1, 0.0))
    assert test.differences == pytest.approx([0.1] * 4)


def test_folds_of_a_cross_validation_are_one_data_set():
    control, model = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}, {"a": 0.51, "b": 0.62, "c": 0.73, "d": 0.84}
    runs = [
        run_of({case: {"dice": dice[case]} for case in cases}, dataset=f"HeartFold{fold}", model=name)
        for name, dice in ((CONTROL, control), ("Diagonal", model))
        for fold, cases in enumerate(("ab", "cd"))
    ]
    (test,) = paired_tests(runs)
    assert (test.dataset, test.seeds) == ("Heart", 2)
    assert test.differences == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert test.of_seeds == pytest.approx((0.015, 0.035))


def test_backbones_are_in_their_order_whatever_that_of_the_scores():
    scores = ((CONTROL, (2, 0, 1)), ("Diagonal", (1, 2, 0)))
    runs = [
        fake_run(name, seed, dice=[(name == "Diagonal") * 0.1 * seed] * 4) for name, seeds in scores for seed in seeds
    ]
    (test,) = paired_tests(runs)
    assert test.of_seeds == pytest.approx((0.0, 0.1, 0.2))
    assert [scores.mean().mean() for scores in by_backbone(runs[3:], "dice")] == pytest.approx([0.0, 0.1, 0.2])


def test_a_sweep_is_tested_apart():
    """Its models do not change what is corrected of the others."""
    subjects = np.linspace(0.01, 0.02, 12)
    runs = [fake_run(CONTROL, dice=[0.5] * 12), fake_run("Mixture-of-Bases", dice=0.5 + subjects)]
    (alone,) = paired_tests(runs)
    for bases in (5, 2):
        runs.append(fake_run("Mixture-of-Bases", sweep=True, dice=0.5 - bases * subjects))
        runs[-1].description["bases"] = bases
    assert paired_tests(runs) == [alone]
    two, five = paired_tests(runs, sweep=True)
    assert (two.model, five.model) == ("Mixture-of-Bases, M = 2", "Mixture-of-Bases, M = 5")
    assert five.mean == pytest.approx(2.5 * two.mean)
    assert two.corrected == 2 * two.p == 2 * alone.p


def test_interval_is_of_other_subjects_and_other_backbones():
    of_subjects = np.random.default_rng(0).normal(1, 2, 400)
    middle, half = of_subjects.mean(), 1.96 * of_subjects.std() / 20
    ends = pytest.approx((middle - half, middle + half), abs=0.05)
    assert bootstrap_interval([pd.DataFrame([of_subjects])]) == ends
    shifted = bootstrap_interval([pd.DataFrame([of_subjects + 3])], [pd.DataFrame([np.full(400, 3.0)])])
    assert shifted == ends
    assert bootstrap_interval([pd.DataFrame([[mean] * 400]) for mean in (-3.0, 0.0, 3.0)]) == (-3, 3)


def test_interval_is_of_other_heads_on_the_backbones():
    """Subjects and backbones are alike; the heads, one of which is missing, are not."""
    heads = [pd.DataFrame(np.repeat([[0.0], [1.0], [5.0]], 4, axis=1)), pd.DataFrame([[2.0] * 4, [2.0] * 4])]
    low, high = bootstrap_interval(heads)
    assert (low, high) == (pytest.approx(1, abs=0.4), pytest.approx(3.5, abs=0.4))
    assert bootstrap_interval(heads, heads[::-1])[0] < low - 2
    assert bootstrap_interval([head.mean().to_frame().T for head in heads]) == (2, 2)


def test_interval_of_a_cross_validation_draws_folds_and_subjects_within():
    """One fold of five is far off: the mean moves by a fifth of that each time the fold is drawn."""
    folds = [pd.DataFrame([[mean] * 14], columns=range(14 * n, 14 * n + 14)) for n, mean in enumerate([0, 0, 0, 0, 5])]
    assert bootstrap_interval(folds) == (0, 3)
    spread = np.random.default_rng(0).normal(0, 1, 70)
    folds = [pd.DataFrame([spread[14 * n :][:14]], columns=range(14 * n, 14 * n + 14)) for n in range(5)]
    low, high = bootstrap_interval(folds)
    assert 1.96 / 70**0.5 < high - spread.mean() < 1.5 * 1.96 / 70**0.5
    assert low < spread.mean() - 1.96 / 70**0.5


def test_a_reference_with_a_score_of_its_own_is_tested_by_it():
    own, stationary = "clicks__own__dice_5", "clicks__stationary__dice_5"
    runs = [
        fake_run(CONTROL, **{stationary: [0.8] * 6}),
        fake_run("Diagonal (local)", **{stationary: [0.5] * 6, own: [0.9] * 6}),
        fake_run("Single-Basis (local)", **{stationary: [0.5] * 6, own: [0.95] * 6}),
    ]
    found = {test.model: test for test in paired_tests(runs) if test.metric.key == "clicks.own.dice_5"}
    assert found["Diagonal (local)"].mean == pytest.approx(0.1)  # of the control by its stationary kernel
    found = {test.model: test for test in paired_tests(runs, "Diagonal (local)") if "own" in test.metric.key}
    means = {name: test.mean for name, test in found.items()}
    assert means == pytest.approx({CONTROL: -0.1, "Single-Basis (local)": 0.05})
    with pytest.raises(SettingsError, match=r"^D has no model Mixture; choose one of Deterministic, fine-tuned, Diag"):
        paired_tests(runs, "Mixture")


def test_a_stock_model_goes_with_any_seed():
    runs = [fake_run(CONTROL, s, dice=[0.5] * 6) for s in (0, 1)]
    (test,) = paired_tests([*runs, fake_run("Deterministic", None, dice=[0.6] * 6)])
    assert test.mean == pytest.approx(0.1)
    assert (test.seeds, test.same_sign) == (2, 2)


def test_variance_is_tested_against_the_references_bernoulli_variance():
    scores = {"bernoulli__box__auroc": [0.9] * 6}
    better = {"bernoulli__box__auroc": [0.9] * 6, "variance__box__auroc": [0.91, 0.92, 0.93, 0.94, 0.95, 0.96]}
    tests = paired_tests([fake_run(CONTROL, **scores), fake_run("Diagonal", **better)])
    found = {test.metric.key: test for test in tests}
    assert found["variance.box.auroc"].mean == pytest.approx(0.035)
    assert found["variance.box.auroc"].p == 2 / 2**6
    assert found["bernoulli.box.auroc"].p == 1
    assert found["bernoulli.box.auroc"].better is None


def test_reference_is_the_control_the_deterministic_model_or_the_first():
    names = ["Mixture-of-Bases", "Deterministic", CONTROL, "Diagonal"]
    runs = {name: fake_run(name, dice=[0.8, 0.9]) for name in names}

    def reference(*wanted: str) -> set[str]:
        return {test.reference for test in paired_tests([runs[name] for name in wanted])}

    assert reference(*names) == {CONTROL}
    assert reference(*names[:2]) == {"Deterministic"}
    assert reference("Mixture-of-Bases", "Diagonal") == {"Diagonal"}


def test_a_variant_of_the_control_is_the_reference_if_it_is_the_only_one():
    scores = {"dice": [0.5, 0.6, 0.7, 0.8]}
    runs = [fake_run(name, **scores) for name in ("Deterministic", f"{CONTROL} (temperature)", "ensemble")]
    assert {test.reference for test in paired_tests(runs)} == {f"{CONTROL} (temperature)"}
    runs.append(fake_run(f"{CONTROL} (low-dice)", **scores))
    assert {test.reference for test in paired_tests(runs)} == {"Deterministic"}
