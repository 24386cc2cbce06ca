"""Scores of several models and seeds side by side: what is read, tabulated and written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import wilcoxon
from typer.testing import CliRunner

from invented_scores import InventedModel, invented_run, write_dataset, write_scores
from mob_training.cli import app
from mob_training.comparison import compare
from mob_training.naming import CONTROL
from mob_training.runs import ORDER, by_model, datasets, over_seeds, read_runs, sweeps
from mob_training.significance import holm, paired_tests, signed_rank_sum
from mob_training.tables import BETTER, WORSE, Cell, Table, with_best
from MoBUncertaintyLib.covariance import Covariance
from MoBUncertaintyLib.errors import SettingsError

MODELS = {
    (Covariance.MIXTURE_OF_BASES, "mixture-of-bases"): {"steepness": 1.2, "blunder": 0.5},
    (Covariance.DETERMINISTIC, "deterministic-fine-tuned"): {"steepness": 1.6, "blunder": 1.0},
    (Covariance.DETERMINISTIC, ""): {"steepness": 3.0, "blunder": 1.2},
}
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Path]:
    """Files of three models, two seeds and two data sets (of one class and of two), and a sweep over the bases."""
    folder = tmp_path_factory.mktemp("scores")
    paths = []
    for number, (name, classes) in enumerate((("Organ", 1), ("Parts", 2)), start=1):
        dataset = write_dataset(folder, name, classes=classes, number=number)
        models = [
            InventedModel(kind, tuning, seed, classes=classes, **how)
            for (kind, tuning), how in MODELS.items()
            for seed in SEEDS
        ]
        if name == "Organ":
            models += [
                InventedModel(Covariance.MIXTURE_OF_BASES, f"mixture-of-bases-bases-{bases}", seed, bases=bases)
                for bases in (2, 1)
                for seed in SEEDS
            ]
        paths += write_scores(folder / "scores", dataset, models)
    return paths


def rows(path: Path) -> dict[str, dict[str, str]]:
    """A table's rows by the name in the first column."""
    with path.open(encoding="utf-8", newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def per_case(path: Path, *keys: str) -> list[float]:
    """A score of each case, straight from the file."""
    found = json.loads(path.with_name(f"{path.stem}_cases.json").read_text())
    for key in keys:
        found = [case[key] for case in found]
    return found


def of(written: list[Path], dataset: str, model: str) -> list[Path]:
    return [path for path in written if dataset in path.parts[-3] and path.parts[-2] == model]


# Reading


def test_runs_are_sorted_by_data_set_model_and_number_of_bases(written):
    runs = read_runs(written)
    assert len(runs) == 16
    assert datasets(runs) == ["Organ", "Parts"]
    main = by_model([run for run in runs if not run.sweep])
    assert list(main) == ["Deterministic", CONTROL, "Mixture-of-Bases"]  # the paper's order, not that of the files
    assert all([run.seed for run in several] == [0, 1, 0, 1] for several in main.values())
    (found,) = sweeps(runs).items()
    assert found[0] == "Mixture-of-Bases"
    assert {bases: {run.dataset for run in several} for bases, several in found[1].items()} == {
        1: {"Organ"},
        2: {"Organ"},
        3: {"Organ", "Parts"},
    }
    assert list(found[1]) == [1, 2, 3]


def test_scores_of_cases_are_passed_over_where_a_wildcard_names_them(written):
    both = [file for path in written[:2] for file in sorted(path.parent.glob(f"{path.stem}*.json"))]
    assert len(both) == 4
    assert len(read_runs(both)) == 2


def test_variants_come_after_the_model_they_vary():
    names = ["Mine", "Mixture-of-Bases (tile)", "Mixture-of-Bases", "Diagonal (slow)", "Diagonal", "Deterministic"]
    runs = [invented_run(name, dice=[1.0]) for name in names]
    assert list(by_model(runs)) == [*reversed(names[3:]), "Mixture-of-Bases", "Mixture-of-Bases (tile)", "Mine"]
    assert set(ORDER) >= {CONTROL, "Diagonal"}


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.with_name("seed_0_cases.json").unlink(), "seed_0_cases.json cannot be read"),
        (lambda path: path.write_text("{"), "no file of `mob-training evaluate`"),
        (lambda path: path.write_text("[1, 2]"), "no file of `mob-training evaluate`"),
        (lambda path: path.write_text('{"dice": {"mean": 0.9}}'), "evaluate the model again"),
    ],
    ids=["missing", "no cases", "cut off", "list", "of an earlier version"],
)
def test_files_that_are_no_scores(written, tmp_path, damage, message):
    for name in ("seed_0.json", "seed_0_cases.json"):
        (tmp_path / name).write_bytes(written[0].with_name(name).read_bytes())
    damage(tmp_path / "seed_0.json")
    with pytest.raises(SettingsError, match=message):
        compare([tmp_path / "seed_0.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "choose, reference, message",
    [
        (lambda paths: [], None, "no scores to compare"),
        (lambda paths: [paths[0], paths[0]], None, "two files of Mixture-of-Bases on Organ with seed 0"),
        (lambda paths: paths, "Diagonal", "Organ has no model 'Diagonal'; choose among Deterministic, "),
    ],
    ids=["none", "twice", "reference"],
)
def test_scores_that_do_not_fit_together(written, tmp_path, choose, reference, message):
    with pytest.raises(SettingsError, match=message):
        compare(choose(written), tmp_path / "out", reference)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sweep", [False, True])
def test_models_scored_on_different_cases_are_not_compared(sweep):
    runs = [invented_run("A", dice=[0.9, 0.8]), invented_run("B", sweep=sweep, dice=[0.9, 0.8, 0.7])]
    with pytest.raises(SettingsError, match="B and A were scored on different cases of D"):
        paired_tests(runs)


def test_what_is_undefined_has_no_say():
    seeds = [invented_run("A", 0, x__y=[1.0, None, 4.0]), invented_run("A", 1, x__y=[2.0, None, None])]
    assert seeds[0].per_case("x.y") == {"a": 1.0, "c": 4.0}
    assert seeds[0].mean("x.y") == 2.5
    assert seeds[0].mean("x.z") is seeds[0].mean("x.y.z") is None
    assert over_seeds(seeds, "x.y") == {"a": 1.5, "c": 4.0}


# Tables


def test_cell_is_mean_and_deviation_over_seeds():
    assert Cell.over([80.0, 82.0, 87.0], 2) == Cell(83.0, pytest.approx(stdev([80, 82, 87])), 2)
    assert Cell.over([80.0, 82.0, 87.0], 1).text() == "83.0 ± 3.6"
    assert Cell.over([0.5], 3).text() == "0.500"
    assert Cell.over([], 3).text() == "–"


def test_best_cells_are_those_that_show_the_best_number():
    column = [Cell(1.234, digits=2), Cell(None), Cell(1.231, digits=2), Cell(0.5, digits=2)]
    assert [cell.best for cell in with_best(column, True)] == [True, False, True, False]
    assert [cell.best for cell in with_best(column, False)] == [False, False, False, True]
    assert [cell.best for cell in with_best(column[:2], True)] == [False, False]


TABLE = Table(
    "A & B",
    "Model",
    ("|p − q|, box ↓", "In words"),
    (("my_model 50%", (Cell(0.1234, 0.0567, 2, True, BETTER), "p<1")), ("other|one", (Cell(None), "a\\b"))),
)


def test_table_as_csv():
    assert TABLE.csv().splitlines() == [
        'Model,"|p − q|, box ↓","|p − q|, box ↓ (standard deviation)",In words',
        "my_model 50%,0.1234,0.0567,p<1",
        "other|one,,,a\\b",
    ]


def test_table_as_markdown():
    assert TABLE.markdown().splitlines() == [
        r"| Model | \|p − q\|, box ↓ | In words |",
        "| --- | --- | --- |",
        "| my_model 50% | **0.12 ± 0.06** † | p<1 |",
        r"| other\|one | – | a\b |",
    ]


def test_table_as_latex():
    assert TABLE.latex().splitlines() == [
        r"% A \& B",
        r"\begin{tabular}{lcc}",
        r"\toprule",
        r"Model & $|$p $-$ q$|$, box $\downarrow$ & In words \\",
        r"\midrule",
        r"my\_model 50\% & $\mathbf{0.12 \pm 0.06}^{\dagger}$ & p$<$1 \\",
        r"other$|$one & -- & a\textbackslash{}b \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_marks_what_is_worse():
    text = Table("T", "Model", ("NLL ↓",), (("A", (Cell(0.5, digits=1, mark=WORSE),)),)).latex()
    assert r"A & $0.5^{\ddagger}$ \\" in text


# All of it


@pytest.fixture(scope="module")
def compared(written, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "out"
    assert compare(written, folder) == folder / "comparison.md"
    return folder


def test_every_table_comes_in_three_forms(compared):
    stems = {path.stem for path in compared.glob("*.csv")}
    own = {f"{dataset}_{group}" for dataset in ("Organ", "Parts") for group in ("scores", "box", "variance", "pooled")}
    assert stems >= own | {"dice", "nll", "ece", "significance", "Organ_bases_mixture-of-bases", "Parts_entropy"}
    assert not any("raters" in stem for stem in stems)  # there are none
    assert not any("Parts_bases" in stem for stem in stems)
    for stem in stems:
        assert (compared / f"{stem}.md").stat().st_size > 50
        assert (compared / f"{stem}.tex").read_text().endswith("\\end{tabular}\n")


def test_page_shows_all_tables_and_figures(compared):
    page = (compared / "comparison.md").read_text()
    for path in compared.glob("*.md"):
        assert path.name == "comparison.md" or path.read_text() in page
    pictures = re.findall(r"\]\((.+\.png)\)", page)
    assert set(pictures) == {path.name for path in compared.glob("*.png")}
    assert len(pictures) == 2 * 3 + 1
    assert "over 2 seeds." in page
    assert f"{BETTER} better, {WORSE} worse than {CONTROL}" in page


@pytest.mark.parametrize("dataset", ["Organ", "Parts"])
@pytest.mark.parametrize("table, keys, factor", [("dice", ["dice"], 100), ("nll", ["volume", "nll"], 1)])
def test_tables_hold_mean_and_deviation_over_seeds_of_means_over_cases(written, compared, dataset, table, keys, factor):
    found = rows(compared / f"{table}.csv")
    for shown, model in {CONTROL: "deterministic-fine-tuned", "Mixture-of-Bases": "mixture-of-bases"}.items():
        seeds = [factor * mean(per_case(path, *keys)) for path in of(written, dataset, model)]
        assert len(seeds) == 2
        assert float(found[shown][dataset]) == pytest.approx(mean(seeds), rel=1e-5)
        assert float(found[shown][f"{dataset} (standard deviation)"]) == pytest.approx(stdev(seeds), rel=1e-4)


def test_pooled_table_holds_the_pooled_scores(written, compared):
    seeds = [json.loads(path.read_text())["pooled"] for path in of(written, "Parts", "mixture-of-bases")]
    row = rows(compared / "Parts_pooled.csv")["Mixture-of-Bases"]
    assert float(row["ECE ↓"]) == pytest.approx(mean(one["volume"]["ece"] for one in seeds), rel=1e-5)
    auroc = mean(one["variance"]["box"]["auroc"] for one in seeds)
    assert float(row["AUROC of variance, box ↑"]) == pytest.approx(auroc, rel=1e-5)


def test_sweep_has_a_row_for_each_number_of_bases(written, compared):
    found = rows(compared / "Organ_bases_mixture-of-bases.csv")
    assert list(found) == ["1 basis", "2 bases", "3 bases"]
    seeds = [100 * mean(per_case(path, "dice")) for path in of(written, "Organ", "mixture-of-bases-bases-2")]
    assert float(found["2 bases"]["Dice ↑"]) == pytest.approx(mean(seeds), rel=1e-5)


SCORES = {"Dice": "dice", "NLL": "volume nll", "ECE": "volume ece"}
SCORES |= {f"AUROC of p (1 − p), {place}": f"bernoulli {place} auroc" for place in ("volume", "box")}


def test_significance_is_scipys_on_the_cases_of_the_files(written, compared):
    with (compared / "significance.csv").open(encoding="utf-8", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["Data set"] == "Parts"]
    seen = set()
    for score, keys in SCORES.items():
        found = [row for row in table if row["Score"] == score]
        assert [row["Model"] for row in found] == ["Deterministic", "Mixture-of-Bases"]
        stock, control, mixture = (
            np.mean([per_case(path, *keys.split()) for path in of(written, "Parts", model)], axis=0)
            for model in ("deterministic", "deterministic-fine-tuned", "mixture-of-bases")
        )
        expected = [wilcoxon(values - control).pvalue for values in (stock, mixture)]
        seen.update(expected)
        assert [float(row["p"]) for row in found] == pytest.approx(expected, abs=6e-4)
        assert [float(row["p (Holm)"]) for row in found] == pytest.approx(holm(expected), abs=6e-4)
        assert [row["Seeds"] for row in found] == ["2", "2"]
        better = (stock - control) * (-1 if score in ("NLL", "ECE") else 1)
        assert found[0]["Better in"] == f"{(better > 0).sum()} of 5"
        assert found[0]["Better"] == ("Deterministic" if signed_rank_sum(better) > 0 else CONTROL)
    assert max(seen) > min(seen) == 2 / 2**5


def test_a_model_without_covariance_has_no_scores_of_its_variance(written, compared):
    """In the files there are some: of where its tiles disagree."""
    assert json.loads(of(written, "Parts", "deterministic")[0].read_text())["variance"]["box"]["auroc"]
    shown = rows(compared / "Parts_variance.csv")
    assert set(shown["Deterministic"].values()) == {"Deterministic", ""}
    assert "" not in shown["Mixture-of-Bases"].values()
    pooled = rows(compared / "Parts_pooled.csv")["Deterministic"]
    assert pooled["AUROC of variance, box ↑"] == "" != pooled["AUROC of p (1 − p), box ↑"]
    with (compared / "significance.csv").open(encoding="utf-8", newline="") as file:
        tested = {row["Model"] for row in csv.DictReader(file) if "of variance" in row["Score"]}
    assert "Mixture-of-Bases" in tested and not any(name.startswith("Deterministic") for name in tested)


def test_sweep_alone_is_compared_too(written, tmp_path):
    paths = [path for path in written if "-bases-" in path.parts[-2]]
    page = compare(paths, tmp_path / "out").read_text()
    assert "over 2 seeds." in page
    assert {path.name for path in tmp_path.rglob("*.png")} == {"Organ_bases_mixture-of-bases.png"}


def test_command_compares_one_run_with_nothing(written, tmp_path):
    options = ["--output", tmp_path / "out", "--reference", "Deterministic"]
    done = CliRunner().invoke(app, ["compare", *map(str, [of(written, "Organ", "deterministic")[0], *options])])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "out" / "comparison.md")
    assert "over 1 seed." in (tmp_path / "out" / "comparison.md").read_text()
    assert not (tmp_path / "out" / "significance.csv").exists()
    assert rows(tmp_path / "out" / "dice.csv")["Deterministic"]["Organ (standard deviation)"] == ""


def test_without_any_doubtful_region_no_review_is_drawn(written, tmp_path):
    for path in written[:2]:
        rows = json.loads(path.with_name(f"{path.stem}_cases.json").read_text())
        for row in rows:
            for measure in ("variance", "bernoulli", "entropy"):
                row[measure] |= {"regions": 0, "review": row[measure]["review"][:1]}
        (tmp_path / path.name).write_text(path.read_text())
        (tmp_path / f"{path.stem}_cases.json").write_text(json.dumps(rows))
    page = compare([tmp_path / path.name for path in written[:2]], tmp_path / "out").read_text()
    assert "No case has a doubtful region" in page and "_review.png" not in page
    assert (tmp_path / "out" / "Organ_doubt.png").exists() and not (tmp_path / "out" / "Organ_review.png").exists()
