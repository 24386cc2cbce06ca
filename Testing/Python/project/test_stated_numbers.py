"""Numbers that the documents state are those of settings, models and benchmarks."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from mob_training.comparison.readers import dice_table, other_table
from mob_training.evaluation.score_files import read_runs
from MoBUncertaintyLib.measurements.volumes import Scale
from MoBUncertaintyLib.model.click_settings import LENGTH_BOUNDS_MM, LENGTH_FRACTION
from MoBUncertaintyLib.model.fingerprint import FalseAlarms
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, UNCERTAINTIES, RegionSettings
from MoBUncertaintyLib.regions.uncertainty import LONGEST_MM
from support import MODULE_FOLDER, ROOT
from support.documents import PAGES, README, section

SHIPPED = ("HippocampusAnterior", "PhantomPancreas", "HeadNeckOrgans")
RESULTS = (ROOT / "Testing" / "Benchmarks" / "results" / "README.md").read_text(encoding="utf-8")


def states(text: str, number: float) -> bool:
    """Tell whether a text is the number, to as many digits as it has."""
    written = re.match(r"\d+(?:\.(\d+))?", text)
    return abs(float(written[0]) - number) <= 0.501 * 10.0 ** -len(written[1] or "")


def test_numbers_about_regions_are_the_settings() -> None:
    text = " ".join(section(PAGES["science"], "How doubtful regions are found").split())
    usual = RegionSettings()
    pattern = r"([\d.]+) for the variance, ([\d.]+) for p \(1 - p\), ([\d.]+) for the entropy"
    thresholds = map(float, re.search(pattern, text).groups())
    assert list(thresholds) == [DEFAULT_THRESHOLD[measure] for measure in UNCERTAINTIES]
    assert f"grown by {usual.grow_mm:g} mm" in text
    assert f"probability of at least {usual.minimum_error:g}" in text
    assert f"longer than {usual.length_mm:g} mm" in text
    assert f"at most {LONGEST_MM:g} mm" in text
    card = load_model(MODULE_FOLDER / "Resources" / "Models" / "HippocampusAnterior").card
    own = card.region_settings
    assert f"threshold of {own.level:g}, grows by {own.grow_mm:g} mm, and cuts at {own.length_mm:g} mm" in text
    text = " ".join(section(RESULTS, "Doubtful regions").split())
    for name, cases in (("PhantomPancreas", "phantoms"), ("HippocampusAnterior", "hippocampi")):
        found = results_of(f"region-frontier-{name}")
        keys = ("regions_ml", "error_held_ml", "error_ml", "error_held_by_threshold_ml")
        expected = [found[key] for key in (*keys, "fraction_of_best", "expected_error_held")]
        row = re.search(rf"\| {cases}, {found['cases']} \| ([^|]+) \|(.+)\|", text)
        assert states(row[1], found["regions"]["mean"])
        said = re.findall(r"[\d.]+", row[2].split(" | | ")[0])[: len(expected)]
        assert [states(*each) for each in zip(said, expected, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize("name", ["HeadNeckOrgans", "HippocampusAnterior"])
def test_the_dice_in_the_readme_is_that_of_the_card(name: str) -> None:
    card = load_model(MODULE_FOLDER / "Resources" / "Models" / name).card
    row = next(line for line in README.splitlines() if line.startswith(f"| {name}"))
    dices, cases = re.search(r"Dice (.+?) on (\d+) held-out", row).groups()
    labels = card.scores.get("labels")  # if there are several
    scores = [labels[label.name] for label in card.labels] if labels else [card.scores]
    means = [each["dice"]["mean"] for each in scores]
    assert all(states(*each) for each in zip(re.findall(r"[\d.]+", dices), means, strict=True))
    assert int(cases) == card.scores["held_out_cases"]


def test_numbers_about_the_length_of_a_click_are_the_rules() -> None:
    least, most = LENGTH_BOUNDS_MM
    said = f"{LENGTH_FRACTION:g} of the cube root of its predicted volume, from {least:g} to {most:g} mm"
    assert said in " ".join(section(PAGES["science"], "Clicks").split())


def test_intervals_of_shipped_models_get_narrower_in_a_review_as_stated() -> None:
    widths = {}
    for name in ("PhantomPancreas", "HippocampusAnterior"):
        calibration = load_model(MODULE_FOLDER / "Resources" / "Models" / name).card.volume_calibration
        [bounds] = calibration.bounds(0.9).labels.values()
        assert bounds.scale is bounds.reviewed_scale is Scale.NOTHING
        widths[name] = [2 * quantile for quantile in (bounds.quantile, *bounds.reviewed)]
        assert widths[name] == sorted(widths[name], reverse=True)
    text = " ".join(section(PAGES["science"], "What the interval of a volume promises").split())
    said = re.search(r"PhantomPancreas are ([\d.]+) ml wide .* and ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+) ml", text)
    assert all(states(*each) for each in zip(said.groups(), widths["PhantomPancreas"], strict=True))


def test_clicks_are_those_of_the_results() -> None:
    folder = ROOT / "training" / "results" / "clicks"
    runs = {run.dataset: run for run in read_runs([folder])}
    page = (folder / "readers.md").read_text(encoding="utf-8")
    for name, run in runs.items():
        if name in SHIPPED:
            settings = asdict(load_model(MODULE_FOLDER / "Resources" / "Models" / name).card.click_settings)
            assert settings == json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            assert settings | {"learned": None} == run.description["clicks"]  # scores do without the trees
        assert dice_table(run).markdown() in page
        assert other_table(run).markdown() in page
    text = " ".join(section(PAGES["science"], "Clicks").split())
    for name in SHIPPED:
        start, end = re.search(rf"{name} from ([\d.]+) to ([\d.]*\d)", text).groups()
        curve = np.mean(list(runs[name].per_case("errors.dice").values()), axis=0)
        assert states(start, curve[0]) and states(end, curve[5])
    harm = [runs[name].over_voxels("errors.harm")[5] for name in SHIPPED]
    assert "for ten voxels that clicks correct, two become wrong" in PAGES["science"]
    assert [round(10 * ratio) for ratio in harm] == [2, 2, 2]


def results_of(name: str) -> dict:
    return json.loads((ROOT / "Testing" / "Benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_suitability_is_that_of_the_results() -> None:
    text = section(RESULTS, "Suitability")
    own, phantoms = (results_of(f"suitability-{name}") for name in ("HippocampusAnterior", "PhantomPancreas"))
    parts = [own["validation"], own["held out"], phantoms["held out"]]
    rows = {"unchanged": "not called ordinary", "harmful": "0.10 or more", "between": "0.03 to 0.10"}
    for name, words in (rows | {"harmless": "less than 0.03"}).items():
        (row,) = (line for line in text.splitlines() if line.startswith("|") and words in line.split(" | ")[0])
        for cell, part in zip(row.strip("| ").split(" | ")[1:], parts, strict=True):
            assert cell == (f"{part[name]['flagged']} of {part[name]['of']}" if part[name]["of"] else "–"), row
    alarms = [part["unchanged"] for part in parts[1:]]
    both = FalseAlarms(sum(each["flagged"] for each in alarms), sum(each["of"] for each in alarms), "")
    low, high = (100 * end for end in both.interval)
    said = f"{both.count} of {both.cases}, {100 * both.count / both.cases:.1f} % ({low:.1f} to {high:.1f} %)"
    assert said in " ".join(text.split())
    for model, alarm in zip((own, phantoms), alarms, strict=True):
        known = load_model(MODULE_FOLDER / "Resources" / "Models" / model["model"]).card.fingerprint
        assert (known.false_alarms.count, known.false_alarms.cases) == (alarm["flagged"], alarm["of"])
        assert known.precision == "float32" and list(known.limits) == model["limits"]
