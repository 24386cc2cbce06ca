"""What `inspect` and `export` print of a model's card."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mob_training.evaluation.held_out import evaluate
from mob_training.evaluation.score_files import card_scores, write_json
from MoBUncertaintyLib.cli.app import app
from MoBUncertaintyLib.model.card_text import covariance_text, score_lines, training_lines
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from support import tiny


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (CovarianceSpec(Covariance.DETERMINISTIC), "none (deterministic)"),
        (CovarianceSpec(Covariance.DIAGONAL), "diagonal, one draw per voxel"),
        (
            CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(10.0, 4.25, 4.25)),
            "diagonal, noise smooth over 10 x 4.25 x 4.25 mm",
        ),
        (
            CovarianceSpec(Covariance.LOW_RANK, rank=8, scope=Scope.LOCAL, length_mm=(5.0, 5.0, 5.0)),
            "low-rank, rank 8, noise smooth over 5 x 5 x 5 mm",
        ),
        (
            CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(3.0, 3.0, 3.0), shared_fraction=0.125),
            "diagonal, noise smooth over 3 x 3 x 3 mm, 12 % of it one draw per volume",
        ),
        (CovarianceSpec.of_kind(Covariance.LOW_RANK, rank=8), "low-rank, rank 8, one draw per tile"),
        (CovarianceSpec(Covariance.SINGLE_BASIS), "single-basis, rank 16, one draw per voxel"),
        (CovarianceSpec(), "mixture-of-bases, rank 16, bases 3, partitions 4 per axis, one draw per voxel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_what_says_something_about_the_kind_is_said(spec: CovarianceSpec, text: str) -> None:
    assert covariance_text(spec) == text


def test_main_scores_are_shown_in_readers_words() -> None:
    dice = {"mean": 0.92884, "median": 0.93, "min": 0.86479, "max": 1.0}
    curve = [[0.1, 0.2]] * 50
    scores = {
        "held_out_cases": 20,
        "dice": dice,
        "volume": {"nll": dice, "error_mm3": 59535.9375, "curve": curve, "organ": {"nll": dice}},
        "variance": {"longest_mm": {"mean": 36.80676}, "thick_error_fraction": 0.89945, "regions_mm3": 388.12},
        "pooled": {"dice": 0.5, "volume": {"curve": {"organ": curve}}},
        "hausdorff_95_mm": {"mean": 4.0, "min": "unknown", "max": 10**400},
        "remark": "by two readers",
        "curve": curve,
    }
    assert score_lines(scores) == [
        ("held-out cases", "20"),
        ("Dice", "0.929 (0.865 to 1)"),
        ("whole image", "negative log-likelihood 0.929, errors of the segmentation 59.5 ml"),
        ("regions by variance", "longest 36.8 mm, of these in regions 89.9 %, volume 388 mm³"),
        ("all cases pooled", "Dice 0.5"),
        ("remark", "by two readers"),
        ("more", "in model.json"),
    ]
    assert score_lines({"hausdorff_95_mm": {"mean": 4.25, "min": 1, "max": 1e4}}) == [
        ("hausdorff 95", "4.25 mm (1 mm to 10000 mm)")
    ]
    assert score_lines({}) == []


@pytest.mark.parametrize("lines", [score_lines, training_lines])
def test_whatever_a_card_holds_it_takes_a_few_lines(lines: Any) -> None:
    content = {f"key {number}": "x" * number**2 for number in range(40)} | {"list": [1] * 10**5, "none": None}
    shown = lines(content)
    assert len(shown) <= 13
    assert max(len(text) for _, text in shown) <= 300
    assert shown[-1][0] == "more"


def test_scores_of_evaluate_do_not_flood_the_terminal(tmp_path: Path) -> None:
    dataset = tiny_held_out(tmp_path / "Dataset001_Tiny")
    results = tiny.make_results_folder(tmp_path / "raw")
    run = evaluate(results, dataset)
    write_json(card_scores(run), tmp_path / "scores.json")
    write_json({"organ": {"cases": 20, "dice": 0.741, "without": 0.76}}, tmp_path / "pieces.json")
    command = ["export", str(results), "--output", str(tmp_path / "model"), "--scores", str(tmp_path / "scores.json")]
    command += ["--pieces", str(tmp_path / "pieces.json")]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, ["inspect", str(tmp_path / "model")], env={"COLUMNS": "120"})
    assert again.stdout == done.stdout
    assert len(done.stdout.splitlines()) <= 40
    assert "none (deterministic)" in done.stdout and "rank" not in done.stdout
    card = (tmp_path / "model" / "model.json").read_text()
    assert json.loads(card)["scores"]["pooled"]["dice"] == pytest.approx(run.mean("dice"), rel=1e-5)
    assert len(card) < 16_000
    assert "scores: Dice" in done.stdout
    assert "organ: Dice 0.741, 0.760 without what lies apart, over 20 cases" in done.stdout


def tiny_held_out(dataset: Path) -> Path:
    """A raw data set with one held-out case."""
    import SimpleITK as sitk

    image = tiny.make_ct((20, 24, 28))
    return tiny.write_raw(dataset, tiny.make_dataset(), {"case0": (image, sitk.Cast(image > 30, sitk.sitkUInt8))})
