"""Numbers that the documents state are those of settings, models and benchmarks."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from mob_training.comparison.readers import dice_table, other_table
from mob_training.evaluation.score_files import read_runs
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.regions.blocks import LONGEST_MM
from MoBUncertaintyLib.regions.settings import DEFAULT_THRESHOLD, Measure, RegionSettings
from support import MODULE_FOLDER, ROOT
from support.documents import PAGES, README, section


def states(text: str, number: float) -> bool:
    """Tell whether a text is the number, to as many digits as it has."""
    written = re.match(r"\d+(?:\.(\d+))?", text)
    return abs(float(written[0]) - number) <= 0.501 * 10.0 ** -len(written[1] or "")


@pytest.mark.parametrize(
    ("title", "results", "systems"),
    [("Compared with stock nnU-Net", "small", "abe"), ("With bfloat16", "small-bfloat16", "ae")],
    ids=["float32", "bfloat16"],
)
def test_tables_of_the_speed_page_hold_the_benchmarks_numbers(title: str, results: str, systems: str) -> None:
    measured = read_benchmark(results)["systems"]
    rows = [line.strip("| ").split(" | ") for line in section(PAGES["speed"], title).splitlines() if line[:3] > "| -"]
    rows = [row for row in rows if row[0][0].isdigit()]
    assert len(rows) == len({tuple(one["size"]) for one in measured})
    for size, *numbers in rows:
        of = {one["system"]: one for one in measured if " x ".join(map(str, one["size"])) == size}
        seconds = [of[system]["volumes_s"] for system in systems]
        memory = [of[system]["peak_bytes"] / 1e9 for system in "ea"]
        expected = [*seconds, seconds[-1] / seconds[0], *memory]
        stated = [*numbers[:-1], *numbers[-1].split(" / ")]
        assert len(stated) == len(expected)
        assert [text for text, number in zip(stated, expected, strict=True) if not states(text, number)] == []


def test_other_numbers_of_the_speed_page_are_the_benchmarks() -> None:
    text = " ".join(PAGES["speed"].split())
    small, large = read_benchmark("small"), read_benchmark("large")
    (one,) = small["sampling"]
    assert states(re.search(r"moments add ([\d.]+) % to", text)[1], heads_percent(small["targets"], "512 x 512 x 300"))
    assert states(re.search(r"takes 1/(\d+) of the time of 30", text)[1], one["c_s"]["30"] / one["e_s"])
    seconds = {one["system"]: one["volumes_s"] for one in large["systems"]}
    said = re.search(r"nnU-Net takes ([\d.]+) s, our closed form ([\d.]+) s, our 30 samples ([\d.]+) s", text).groups()
    assert [states(each, seconds[system]) for each, system in zip(said, "aed", strict=True)] == [True] * 3
    assert states(
        re.search(r"samples [\d.]+ s; heads and moments add ([\d.]+) %", text)[1], heads_percent(large["targets"])
    )


def test_the_table_of_engines_holds_the_benchmarks_numbers() -> None:
    found = json.loads((ROOT / "Testing" / "Benchmarks" / "results" / "engines.json").read_text(encoding="utf-8"))
    text = section(PAGES["speed"], "With OpenVINO")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(found["measurements"])
    for (_, parameters, precision, *numbers), one in zip(rows, found["measurements"], strict=True):
        assert states(parameters, one["parameters"] / 1e6) and precision == one["precision"] and one["threads"] == 1
        busy = one["processor_milliseconds"]
        added = 100 * one["added_openvino_processor"]
        expected = [busy["torch"], busy["openvino"], one["torch_over_openvino_processor"], added]
        assert [text for text, number in zip(numbers, expected, strict=True) if not states(text, number)] == []


def heads_percent(targets: list[dict], size: str = "") -> float:
    """Return the time of heads and moments in percent of the backbone's."""
    (found,) = (one for one in targets if "heads and moments / backbone" in one["what"] and size in one["where"])
    return 100 * found["value"]


def read_benchmark(name: str) -> dict:
    path = ROOT / "Testing" / "Benchmarks" / "results" / name / "benchmark.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_numbers_about_regions_are_the_settings() -> None:
    text = " ".join(section(PAGES["science"], "How doubtful regions are found").split())
    usual = RegionSettings()
    thresholds = re.search(
        r"([\d.]+) for the variance, ([\d.]+) for p \(1 - p\), ([\d.]+) for the entropy", text
    ).groups()
    assert [float(number) for number in thresholds] == [DEFAULT_THRESHOLD[measure] for measure in Measure]
    assert f"grown by {usual.grow_mm:g} mm" in text
    assert f"longer than {usual.length_mm:g} mm" in text
    assert f"at most {LONGEST_MM:g} mm" in text
    card = load_model(MODULE_FOLDER / "Resources" / "Models" / "HippocampusAnterior").card
    own = card.region_settings
    assert f"threshold of {own.level:g}, grows by {own.grow_mm:g} mm, and cuts at {own.length_mm:g} mm" in text
    row = next(line for line in README.splitlines() if line.startswith("| HippocampusAnterior"))
    dice, cases = re.search(r"Dice ([\d.]+) on (\d+) held-out", row).groups()
    assert states(dice, card.scores["dice"]["mean"])
    assert int(cases) == card.scores["held_out_cases"]


def test_clicks_are_those_of_the_results() -> None:
    folder = ROOT / "training" / "results" / "clicks"
    runs = {run.dataset: run for run in read_runs([folder])}
    page = (folder / "README.md").read_text(encoding="utf-8")
    for name, run in runs.items():
        card = load_model(MODULE_FOLDER / "Resources" / "Models" / name).card
        assert asdict(card.click_settings) == run.description["clicks"]
        assert json.loads((folder / f"{name}.json").read_text()) == run.description["clicks"]
        assert dice_table(run).markdown() in page
        assert other_table(run).markdown() in page
    text = " ".join(section(PAGES["science"], "Clicks").split())
    said = re.search(
        r"HippocampusAnterior from ([\d.]+) to ([\d.]+), .* PhantomPancreas from ([\d.]+) to ([\d.]+)\.", text
    )
    curves = [np.mean(list(run.per_case("errors.dice").values()), axis=0) for run in runs.values()]
    expected = [curve[actions] for curve in curves for actions in (0, 5)]
    assert [states(each, number) for each, number in zip(said.groups(), expected, strict=True)] == [True] * 4
    harm = [run.over_voxels("errors.harm")[5] for run in runs.values()]
    assert "ten voxels that five clicks correct there, about four and one become wrong" in text
    assert [round(10 * ratio) for ratio in harm] == [4, 1]
