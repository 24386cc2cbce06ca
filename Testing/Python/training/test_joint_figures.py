"""The figure of what is joint, and which comparisons have it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mob_training.comparison.compare import compare, tables
from mob_training.comparison.figures import by_distance, means
from mob_training.evaluation.metrics.volumes import LAGS
from mob_training.evaluation.score_files import Run, write_runs
from support.drawn_figures import looks_like_a_picture
from support.fake_scores import fake_run


def run_of_joint(model: str, seed: int, likelihood: list[float], covered: list[float], reach: float) -> Run:
    run = fake_run(
        model,
        seed,
        dice=[0.8, 0.9],
        joint__log_likelihood=likelihood,
        joint__volume__covered_50=[0, 1],
        joint__volume__covered_80=[1, 1],
        joint__volume__covered_90=covered,
        clicks__stationary__dice_1=[0.85, 0.9],
        clicks__stationary__dice_3=[0.9, 0.92],
        clicks__stationary__dice_5=[0.92, 0.94],
    )
    falling = np.exp(-np.arange(LAGS) / reach).tolist()
    run.pooled.update({"joint.variogram.errors": falling, "joint.variogram.samples": [1.0, None, *falling[2:]]})
    return run


@pytest.fixture
def runs() -> list[Run]:
    return [
        run_of_joint("Deterministic", 0, [-900.0, -1000.0], [0.0, 1.0], 1.0),
        run_of_joint("A (local)", 0, [-500.0, -600.0], [1.0, 1.0], 3.0),
        run_of_joint("A (local)", 1, [-500.0, -620.0], [1.0, 0.0], 3.0),
        fake_run("Kept without", 0, dice=[0.8, 0.9]),
    ]


def test_scores_are_those_of_the_runs_that_have_them(runs):
    assert means(runs, ["dice", "joint.volume.covered_90"])[:, 1].tolist() == [0.5, 1.0, 0.5]
    assert means(runs, ["clicks.own.dice_1"]).shape == (0, 1)
    samples = by_distance(runs[1:3], "samples")
    assert np.isnan(samples[:, 1]).all()
    assert samples[:, 4] == pytest.approx(np.exp(-4 / 3))
    assert len(by_distance(runs[3:], "errors")) == 0


def test_the_table_shows_a_dash_for_scores_that_were_kept_without(runs):
    made = tables(runs, [])["D_joint"]
    shown = {name: [cell.text() for cell in cells] for name, cells in made.rows}
    assert shown["Kept without"][0] == "–"
    assert shown["A (local)"][0] == "-555.0 ± 7.1"
    assert made.columns[0] == "Log likelihood, nats ↑"
    assert made.columns[-1] == "90 % interval holds, % → 90"
    best = {name: [cell.best for cell in cells] for name, cells in made.rows}
    assert best["A (local)"][0]
    assert best["A (local)"][-1]  # 75, which is nearer to 90 than 50 is


def test_the_figure_is_drawn_where_there_are_such_scores(runs, tmp_path: Path):
    for name, some in (("with", runs), ("without", runs[3:])):
        write_runs(some, tmp_path / name)
        page = compare([tmp_path / name], tmp_path / f"{name}_out").read_text()
        picture = tmp_path / f"{name}_out" / "D_joint.png"
        assert picture.exists() == (name == "with") == ("D_joint.png" in page)
    looks_like_a_picture(tmp_path / "with_out" / "D_joint.png", (800, 1200), (300, 700))


def test_effects_have_intervals_and_one_correction_for_all_secondary_endpoints(tmp_path: Path):
    steps = [0.01 * (1 + i) for i in range(6)]

    def run(model: str, sign: int, seed: int) -> Run:
        return fake_run(
            model,
            seed,
            joint__log_likelihood=[-900 + 100 * sign * step for step in steps],
            joint__volume__crps=[10 - sign * step for step in steps],
            raters__ged=[0.5 - sign * step for step in steps],
        )

    runs = [run(model, sign, seed) for model, sign in (("A", 0), ("B", 1), ("C", -1)) for seed in (0, 1)]
    write_runs(runs, tmp_path / "scores")
    page = compare([tmp_path / "scores"], tmp_path / "made", "A").read_text()
    assert "## Difference to A, in brackets 95 %" in page
    looks_like_a_picture(tmp_path / "made" / "effects.png", (500, 1200), (80, 400))
    rows = {(row["Model"], row["Score"][:4]): row for row in csv.DictReader((tmp_path / "made" / "effects.csv").open())}
    assert rows["B", "Log "]["Difference"] == "+3.5 (+2.2 to +4.8)"
    assert rows["C", "CRPS"]["Better in"] == "0 of 6"
    assert {name[1]: float(row["p (Holm)"]) for name, row in rows.items()} == pytest.approx(
        {"Log ": 2 / 32, "CRPS": 4 / 32, "GED ": 4 / 32}, abs=1e-3
    )
