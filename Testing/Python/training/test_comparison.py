"""Scores of several models and seeds side by side: what is read, tabulated and written."""

import csv
import gzip
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import wilcoxon
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.comparison.compare import compare, significance, tables
from mob_training.comparison.runs import ORDER, by_model, datasets, over_seeds, sweeps
from mob_training.comparison.significance import PairedTest, holm, paired_tests, signed_rank_sum
from mob_training.comparison.tables import BETTER, WORSE, Cell, Table, interval, with_best
from mob_training.evaluation.score_files import CONTROL, flatten, read_runs, summarise, write_runs
from mob_training.evaluation.scoreboard import NLL
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.model.covariance import Covariance
from support.fake_scores import FakeModel, fake_run, run_of, write_dataset, write_scores
from support.json_edits import truncate

MODELS = {
    (Covariance.MIXTURE_OF_BASES, "mixture-of-bases"): {"steepness": 1.2, "blunder": 0.5},
    (Covariance.DETERMINISTIC, "deterministic-fine-tuned"): {"steepness": 1.6, "blunder": 1.0},
    (Covariance.DETERMINISTIC, ""): {"steepness": 3.0, "blunder": 1.2},
}
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Path]:
    """Scores folders of three models, two seeds and two data sets (one class and two), and a sweep of the bases."""
    folder = tmp_path_factory.mktemp("scores")
    paths = []
    for number, (name, classes) in enumerate((("Organ", 1), ("Parts", 2)), start=1):
        dataset = write_dataset(folder, name, classes=classes, number=number)
        models = [
            FakeModel(kind, tuning, seed, classes=classes, **how)
            for (kind, tuning), how in MODELS.items()
            for seed in SEEDS
        ]
        if name == "Organ":
            models += [
                FakeModel(Covariance.MIXTURE_OF_BASES, f"mixture-of-bases-bases-{bases}", seed, bases=bases)
                for bases in (2, 1)
                for seed in SEEDS
            ]
        paths += write_scores(folder / "scores", dataset, models)
    return paths


def rows(path: Path) -> dict[str, dict[str, str]]:
    """A table's rows by the name in the first column."""
    with path.open(encoding="utf-8", newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def table(folder: Path, name: str = "cases.csv.gz") -> list[dict[str, str]]:
    """Rows of a scores folder's table, straight from the file."""
    with gzip.open(folder / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def per_case(folder: Path, key: str) -> list[float]:
    return [float(row[key]) for row in table(folder)]


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


def test_scores_are_read_as_they_were_written(tmp_path):
    run = run_of(
        {"a": {"subject": "s 1, x", "dice": 0.25, "caught": [0.5, None], "curve": []}}, {"nll": 3e-7}, seed=None
    )
    write_runs([run], tmp_path)
    assert read_runs([tmp_path]) == [run]
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_runs(read_runs([tmp_path]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_flat_scores_leave_out_what_is_undefined():
    scores = {"a": {"b": float("nan"), "c": [1, float("nan")], "d": None}, "e": 2}
    assert dict(flatten(scores)) == {"a.c": [1, None], "e": 2}


def test_summary_is_nested_and_of_the_cases_in_which_a_score_is_defined():
    scores = {"a": {"subject": "s", "x.y": 1.0, "list": [1]}, "b": {"x.y": 4}, "c": {"x.y": 2}, "d": {}}
    expected = {"mean": pytest.approx(7 / 3), "median": 2, "min": 1.0, "max": 4}
    assert summarise(run_of(scores)) == {"x": {"y": expected}}


def test_variants_come_after_the_model_they_vary():
    names = ["Mine", "Mixture-of-Bases (tile)", "Mixture-of-Bases", "Diagonal (slow)", "Diagonal", "Deterministic"]
    runs = [fake_run(name, dice=[1.0]) for name in names]
    assert list(by_model(runs)) == [*reversed(names[3:]), "Mixture-of-Bases", "Mixture-of-Bases (tile)", "Mine"]
    assert set(ORDER) >= {CONTROL, "Diagonal"}


DAMAGES = {
    "missing": lambda folder: (folder / "summary.json").unlink(),
    "no cases": lambda folder: (folder / "cases.csv.gz").unlink(),
    "cut off": lambda folder: (folder / "summary.json").write_text("{"),
    "list": lambda folder: (folder / "summary.json").write_text("[1, 2]"),
    "of nothing": lambda folder: (folder / "summary.json").write_text('{"runs": [{"dice": 0.9}]}'),
    "no table": lambda folder: (folder / "pooled.csv.gz").write_bytes(b"dice"),
    "table cut off": lambda folder: truncate(folder / "cases.csv.gz"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_no_scores(written, tmp_path, damage):
    folder = Path(shutil.copytree(written[0], tmp_path / "scores"))
    DAMAGES[damage](folder)
    with pytest.raises(SettingsError):
        compare([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("times", [0, 2])
def test_scores_that_do_not_fit_together(written, tmp_path, times):
    with pytest.raises(SettingsError):
        compare(written[:1] * times, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sweep", [False, True])
def test_models_scored_on_different_cases_are_not_compared(sweep):
    runs = [fake_run("A", dice=[0.9, 0.8]), fake_run("B", sweep=sweep, dice=[0.9, 0.8, 0.7])]
    with pytest.raises(SettingsError):
        paired_tests(runs)


def test_what_is_undefined_has_no_say():
    seeds = [fake_run("A", 0, x__y=[1.0, None, 4.0]), fake_run("A", 1, x__y=[2.0, None, None])]
    assert seeds[0].per_case("x.y") == {"a": 1.0, "c": 4.0}
    assert seeds[0].mean("x.y") == 2.5
    assert seeds[0].mean("x.z") is None
    assert over_seeds(seeds, "x.y").to_dict() == {"a": 1.5, "c": 4.0}


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
        r"my\_model 50\% & \textbf{0.12 $\pm$ 0.06}$^\dagger$ & p$<$1 \\",
        r"other$|$one & -- & a\textbackslash{}b \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


# All of it


@pytest.fixture(scope="module")
def compared(written, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "out"
    assert compare(written, folder) == folder / "comparison.md"
    return folder


def test_every_table_of_scores_comes_in_two_forms(compared):
    stems = {path.stem for path in compared.glob("*.csv")}
    own = {f"{dataset}_{group}" for dataset in ("Organ", "Parts") for group in ("scores", "box", "variance", "pooled")}
    stems.remove("significance")
    assert stems >= own | {"dice", "nll", "ece", "Organ_bases_mixture-of-bases", "Parts_entropy"}
    assert not any("raters" in stem for stem in stems)  # there are none
    assert not any("Parts_bases" in stem for stem in stems)
    assert stems == {path.stem for path in compared.glob("*.tex")}


def test_page_shows_all_tables_and_figures(written, compared):
    page = (compared / "comparison.md").read_text()
    runs = read_runs(written)
    made = tables(runs, paired_tests(runs))
    assert {path.stem for path in compared.glob("*.csv")} == made.keys() | {"significance"}
    assert all(table.markdown() in page for table in made.values())
    pictures = re.findall(r"\]\((.+\.png)\)", page)
    assert set(pictures) == {path.name for path in compared.glob("*.png")}
    assert len(pictures) == 2 * 2 + 1
    assert "over 2 seeds." in page
    assert f"{BETTER} better, {WORSE} worse than {CONTROL}" in page


@pytest.mark.parametrize("dataset", ["Organ", "Parts"])
@pytest.mark.parametrize(("table", "key", "factor"), [("dice", "dice", 100), ("nll", "volume.nll", 1)])
def test_tables_hold_mean_and_deviation_over_seeds_of_means_over_cases(written, compared, dataset, table, key, factor):
    found = rows(compared / f"{table}.csv")
    for shown, model in {CONTROL: "deterministic-fine-tuned", "Mixture-of-Bases": "mixture-of-bases"}.items():
        seeds = [factor * mean(per_case(path, key)) for path in of(written, dataset, model)]
        assert len(seeds) == 2
        assert float(found[shown][dataset]) == pytest.approx(mean(seeds), rel=1e-5)
        assert float(found[shown][f"{dataset} (standard deviation)"]) == pytest.approx(stdev(seeds), rel=1e-4)


def test_pooled_table_holds_the_pooled_scores(written, compared):
    seeds = [one for path in of(written, "Parts", "mixture-of-bases") for one in table(path, "pooled.csv.gz")]
    row = rows(compared / "Parts_pooled.csv")["Mixture-of-Bases"]
    assert float(row["ECE ↓"]) == pytest.approx(mean(float(one["volume.ece"]) for one in seeds), rel=1e-5)
    auroc = mean(float(one["variance.box.auroc"]) for one in seeds)
    assert float(row["AUROC of variance, box ↑"]) == pytest.approx(auroc, rel=1e-5)


def test_each_label_has_its_mean_and_an_interval_around_it(written, compared):
    by_label = rows(compared / "Parts_labels.csv")
    assert not (compared / "Organ_labels.csv").exists()  # one label
    model = ORDER[0]
    scores = [per_case(path, "labels.part_1.dice") for path in of(written, "Parts", "deterministic")]
    row = by_label[f"part_1, {model}"]
    assert row["Cases"] == str(len(scores[0]))
    shown, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", row["Dice ↑"]).groups())
    assert shown == pytest.approx(100 * np.mean(scores), abs=0.06)
    assert low < shown < high
    assert interval([2.0, 2.0]) == "2.00 (2.00 to 2.00)"


def test_a_label_may_have_a_dot_in_its_name(written):
    runs = [
        replace(
            run,
            cases={case: {key.replace("part_1", "part.1"): row[key] for key in row} for case, row in run.cases.items()},
        )
        for run in read_runs(of(written, "Parts", "deterministic"))
    ]
    by_label = tables(runs, [])["Parts_labels"]
    assert [(name, "–" in cells) for name, cells in by_label.rows] == [("part.1", False), ("part_2", False)]


def test_sweep_has_a_row_for_each_number_of_bases(written, compared):
    found = rows(compared / "Organ_bases_mixture-of-bases.csv")
    assert list(found) == ["1 basis", "2 bases", "3 bases"]
    seeds = [100 * mean(per_case(path, "dice")) for path in of(written, "Organ", "mixture-of-bases-bases-2")]
    assert float(found["2 bases"]["Dice ↑"]) == pytest.approx(mean(seeds), rel=1e-5)
    with (compared / "significance.csv").open(encoding="utf-8", newline="") as file:
        tested = [row["Model"] for row in csv.DictReader(file) if (row["Data set"], row["Score"]) == ("Organ", "Dice")]
    assert tested[-2:] == ["Mixture-of-Bases, M = 1", "Mixture-of-Bases, M = 2"]


SCORES = {"Dice": "dice", "NLL": "volume.nll", "ECE": "volume.ece"}
SCORES |= {f"AUROC of p (1 − p), {place}": f"bernoulli.{place}.auroc" for place in ("volume", "box")}


def test_significance_is_scipys_on_the_cases_of_the_files(written, compared):
    with (compared / "significance.csv").open(encoding="utf-8", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["Data set"] == "Parts"]
    seen = set()
    for score, key in SCORES.items():
        found = [row for row in table if row["Score"] == score]
        assert [row["Model"] for row in found] == ["Deterministic", "Mixture-of-Bases"]
        seeds = [
            np.array([per_case(path, key) for path in of(written, "Parts", model)])
            for model in ("deterministic", "deterministic-fine-tuned", "mixture-of-bases")
        ]
        stock, control, mixture = (each.mean(axis=0) for each in seeds)
        expected = [wilcoxon(values - control).pvalue for values in (stock, mixture)]
        seen.update(expected)
        assert [float(row["p"]) for row in found] == pytest.approx(expected, abs=6e-4)
        assert [float(row["p (Holm)"]) for row in found] == pytest.approx(holm(expected), abs=6e-4)
        single = (100 if score == "Dice" else 1) * (seeds[0] - seeds[1]).mean(axis=1)
        digits = len(found[0]["Each backbone"].rpartition(".")[2])
        assert found[0]["Each backbone"] == ", ".join(f"{each:+.{digits}f}" for each in single)
        better = (stock - control) * (-1 if score in ("NLL", "ECE") else 1)
        assert found[0]["Better in"] == f"{(better > 0).sum()} of 5"
        assert found[0]["Better"] == ("Deterministic" if signed_rank_sum(better) > 0 else CONTROL)
    assert max(seen) > min(seen) == 2 / 2**5


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((1.1e-6, 3.4e-6), ("+0.0000020", "+0.0000011 to +0.0000034", "+0.0000010, +0.0000030")),
        ((-0.2, 0.3), ("+0.0000", "-0.2000 to +0.3000", "+0.0000, +0.0000")),
        ((2e-6, 2e-6), ("+0.0000", "+0.0000 to +0.0000", "+0.0000, +0.0000")),
    ],
)
def test_a_small_difference_has_the_digits_of_its_interval(interval, shown):
    test = PairedTest("Parts", NLL, "A", "B", (2e-6,), interval, (1e-6, 3e-6), p=1.0)
    ((_, cells),) = significance([test]).rows
    assert cells[4:7] == shown


def test_a_model_without_covariance_has_no_scores_of_its_variance(written, compared):
    """In the files there are some: of where its tiles disagree."""
    assert table(of(written, "Parts", "deterministic")[0], "pooled.csv.gz")[0]["variance.box.auroc"]
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


def test_output_that_is_a_file_is_refused_in_one_sentence(written, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        compare(written, tmp_path / "file")


def test_command_compares_one_run_with_nothing(written, tmp_path):
    options = ["--output", tmp_path / "out"]
    done = CliRunner().invoke(app, ["compare", *map(str, [of(written, "Organ", "deterministic")[0], *options])])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "out" / "comparison.md")
    assert "over 1 seed." in (tmp_path / "out" / "comparison.md").read_text()
    assert not (tmp_path / "out" / "significance.csv").exists()
    assert rows(tmp_path / "out" / "dice.csv")["Deterministic"]["Organ (standard deviation)"] == ""


def test_a_comparison_is_made_again_from_its_own_folder_and_in_it(compared, tmp_path):
    folder = Path(shutil.copytree(compared, tmp_path / "compared"))
    compare([folder], folder)
    contents = [{path.name: path.read_bytes() for path in place.iterdir()} for place in (folder, compared)]
    assert contents[0] == contents[1]
