"""`predict --measure`: from the command line to the table, the record and the report; or a sentence, and no results."""

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.output.report import build_report, write_html
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.review_files import open_case
from MoBUncertaintyLib.pipeline.cases import Job, kept_case, run_case
from support.command_line import run
from support.review_commands import decisions, entries


@pytest.fixture(scope="module")
def dose(ct: Path) -> Path:
    """A dose on a grid that is half as fine."""
    image = sitk.Cast(sitk.Shrink(sitk.ReadImage(ct), (2, 2, 2)), sitk.sitkFloat32)
    path = ct.parent / "dose.nii.gz"
    sitk.WriteImage(sitk.Abs(image) * 0.02, path)
    return path


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "measurements.csv").open(encoding="utf-8-sig") as file:
        return {row["measurement"]: row for row in csv.DictReader(file)}


def test_what_is_measured_is_in_the_table_the_record_and_the_report(model, ct, dose, tmp_path) -> None:
    names = ("volume:organ", "mean_intensity:organ", "mean_dose:organ", "D2%:organ")
    measures = [part for name in names for part in ("--measure", name)]
    out = tmp_path / "out"
    done = run(
        "predict", ct, "--model", model, "--output", out, "--no-scene", "--dose", dose, *measures, "--rank-by", names[2]
    )
    assert done.exit_code == 0, done.output
    rows, inside = rows_of(out), sitk.GetArrayFromImage(sitk.ReadImage(out / "segmentation.nii.gz")) == 1
    assert tuple(rows) == names and inside.any()
    image, voxel_ml = sitk.ReadImage(ct), np.prod(sitk.ReadImage(ct).GetSpacing()) / 1000
    gray = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(dose), image, sitk.Transform(), sitk.sitkLinear, 0.0))
    means = [inside.sum() * voxel_ml, sitk.GetArrayFromImage(image)[inside].mean(), gray[inside].mean()]
    np.testing.assert_allclose([float(rows[name]["value"]) for name in names[:3]], means, rtol=1e-4)
    assert all(row["samples"] == "200" and row["interval_low"] == "" for row in rows.values())  # nothing was calibrated
    assert "not calibrated" in done.stdout and "Measuring samples" in done.stderr
    measured = read_results(out).prediction.measured
    assert [each.name for each in measured] == list(names) and len(measured[0].samples) == 200
    case = open_case(out)
    write_html(tmp_path / "report.html", build_report(case), case)
    for page in (tmp_path / "report.html", out / "review.html"):
        text = page.read_text(encoding="utf-8")
        assert all(f">{name}<" in text for name in names) and text.count('aria-label="Histogram') == len(names)


def test_a_review_is_measured_as_it_is_left(model, ct, tmp_path) -> None:
    out = tmp_path / "out"
    assert run("predict", ct, "--model", model, "--output", out, "--no-scene").exit_code == 0
    before = read_results(out).prediction
    place = np.argwhere(before.segmentation == 1).mean(axis=0).round()
    click = {"label": "background", "points_ras": [before.grid.to_ras(place).tolist()]}
    file = decisions(tmp_path, entries(clicks=[click]))
    done = run("review", out, "--decisions", file, "--measure", "volume:organ")
    assert done.exit_code == 0, done.output
    rows = rows_of(out / "review")
    assert float(rows["volume:organ"]["value"]) < before.volumes_ml()["organ"]
    assert rows["volume:organ"]["interval_low"] == "" and "as corrected" in (out / "review" / "report.html").read_text()


def test_results_with_other_measurements_are_made_again(model, ct, tmp_path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(ct.read_bytes())
    command = ("predict", tmp_path / "scans", "--model", model, "--output", tmp_path / "out", "--no-scene")
    assert run(*command, "--measure", "volume:organ").exit_code == 0
    first = (tmp_path / "out" / "a" / "prediction.json").stat().st_mtime_ns
    assert run(*command, "--measure", "volume:organ").exit_code == 0
    assert (tmp_path / "out" / "a" / "prediction.json").stat().st_mtime_ns == first
    other = run(*command, "--measure", "diameter:organ")
    assert other.exit_code == 2 and tuple(rows_of(tmp_path / "out" / "a")) == ("volume:organ",)
    assert run(*command, "--measure", "diameter:organ", "--overwrite").exit_code == 0
    assert tuple(rows_of(tmp_path / "out" / "a")) == ("diameter:organ",)
    of_cohort = rows_of(tmp_path / "out")["diameter:organ"]
    assert of_cohort.pop("case") == "a.nii.gz" and of_cohort == rows_of(tmp_path / "out" / "a")["diameter:organ"]
    assert run(*command, "--overwrite").exit_code == 0
    assert not rows_of(tmp_path / "out")  # of an earlier run nothing is left


HARDLY_DOUBTFUL = RegionSettings(Measure.BERNOULLI, threshold=0.01, excess=0.5, depth_mm=0.0, minimum_mm3=0.0)
"""Regions of the tiny model."""


def test_regions_are_ranked_by_their_effect_on_a_measurement(model, ct, tmp_path) -> None:
    job = Job(Predictor(load_model(model)), HARDLY_DOUBTFUL, scene=False, rank_by="volume:organ")
    image, out = Input(ct, "", ""), tmp_path / "out"
    run_case(job, image, out)
    with (out / "regions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    effects = [float(row["effect"]) for row in rows]
    assert len(rows) > 1 and effects == sorted(effects, reverse=True) and effects[0] > 0
    assert {row["effect_on"] for row in rows} == {"volume:organ"}
    regions = read_results(out).regions
    assert [each.effect.fraction for each in regions.ranked] == pytest.approx(effects, rel=1e-3, abs=1e-4)
    assert regions.ranked_by == "volume:organ" == build_report(open_case(out))["ranked_by"]
    assert "of the variance of" in (out / "review.html").read_text(encoding="utf-8")
    assert kept_case(job, image, out) and not kept_case(replace(job, rank_by=None), image, out)
    none = replace(job, regions=replace(HARDLY_DOUBTFUL, threshold=1.0))
    run_case(none, image, tmp_path / "none")
    assert kept_case(none, image, tmp_path / "none")  # nothing to rank


def test_a_review_is_ranked_by_effects_where_it_stands(model, ct, tmp_path, monkeypatch) -> None:
    out, served = tmp_path / "out", []
    run_case(Job(Predictor(load_model(model)), HARDLY_DOUBTFUL, scene=False), Input(ct, "", ""), out)
    file = decisions(tmp_path, entries(regions=[{"rank": 1, "verdict": "accept"}]))
    monkeypatch.setattr(console, "serve_review", lambda case, *_: served.append(case.review))
    rank = ("--rank-by", "volume:organ")
    assert run("review", out, "--decisions", file).exit_code == 0
    before = json.loads((out / "review" / "report.json").read_text(encoding="utf-8"))
    assert run("review", out, "--decisions", file, *rank, "--overwrite").exit_code == 0
    after = json.loads((out / "review" / "report.json").read_text(encoding="utf-8"))
    assert (before["ranked_by"], after["ranked_by"]) == (None, "volume:organ")
    effects = [row["effect"] for row in after["regions"]]
    assert len(effects) > 1 and effects == sorted(effects, reverse=True)
    verdicts = [{row["id"]: row["verdict"] for row in each["regions"]} for each in (before, after)]
    assert verdicts[0] == verdicts[1]
    assert run("review", out, "--serve", *rank).exit_code == 0
    assert served[0].ranked_by == "volume:organ"
    every = [{"rank": row["rank"], "verdict": "accept"} for row in before["regions"]]
    signed = decisions(tmp_path, entries(*every, signature={"name": "Ada"}))
    refused = run("review", out, "--decisions", signed, *rank, "--output", tmp_path / "signed")
    assert refused.exit_code == 2 and "signed off" in refused.stderr and not (tmp_path / "signed").exists()


def test_a_dose_that_ranks_and_covers_half_of_the_organ_is_warned_of(model, ct, dose, tmp_path) -> None:
    job = Job(Predictor(load_model(model)), HARDLY_DOUBTFUL, scene=False, rank_by="mean_dose:organ")
    half = tmp_path / "half.nii.gz"
    whole = sitk.ReadImage(dose)
    sitk.WriteImage(whole[:, :, : whole.GetDepth() // 2], half)
    rank = ("--rank-by", "mean_dose:organ", "--dose")
    of_volume = replace(job, rank_by="volume:organ")
    for number, (ranked, path, warned) in enumerate(((job, dose, False), (job, half, True), (of_volume, half, False))):
        out = tmp_path / str(number)
        run_case(replace(ranked, dose=path), Input(ct, "", ""), out)
        assert any("does not cover" in each for each in read_results(out).prediction.warnings) == warned
    done = run("review", out, "--decisions", decisions(tmp_path, entries()), *rank, half)
    assert (done.exit_code, "does not cover" in done.output) == (0, True), done.output


def test_the_first_interrupt_stops_a_page_whose_regions_were_ranked(model, ct, tmp_path, monkeypatch) -> None:
    run_case(Job(Predictor(load_model(model)), HARDLY_DOUBTFUL, scene=False), Input(ct, "", ""), tmp_path / "out")

    def serve(*_args) -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console, "serve_review", serve)
    assert run("review", tmp_path / "out", "--serve", "--rank-by", "volume:organ").exit_code == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--rank-by", "mean_dose:organ"),
        ("--measure", "girth:organ"),
        ("--measure", "volume:liver"),
        ("--measure", "mean_dose:organ"),
        ("--dose", "DOSE"),
        ("--measure", "mean_dose:organ", "--dose", "nowhere.nii.gz"),
        ("--measure", "mean_dose:organ", "--dose", "CT"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_measured_is_said_and_nothing_is_written(options, model, ct, dose, tmp_path) -> None:
    paths = {"DOSE": dose, "CT": ct}
    done = run("predict", ct, "--model", model, "--output", tmp_path / "out", *(paths.get(o, o) for o in options))
    assert done.exit_code == 2 and done.stderr.count("Error:") == 1
    assert list(tmp_path.iterdir()) == []
