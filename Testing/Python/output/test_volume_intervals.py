"""A volume is stated with its interval wherever it is stated, before and after a review, and nowhere else."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MoBUncertaintyLib.measurements.interval import AS_PREDICTED, Interval, volume_text
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort.cases import Outcome, read_case
from MoBUncertaintyLib.output.cohort.table import write_cohort
from MoBUncertaintyLib.output.pages.review_page import ReviewPage
from MoBUncertaintyLib.output.pictures.style import Scale as PictureScale
from MoBUncertaintyLib.output.report import Case, build_report, render_html
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.regions.prediction import Prediction, predicted_intervals
from MoBUncertaintyLib.review.outcome import stated_volumes, volume_intervals, volume_lines
from MoBUncertaintyLib.review.review import Review
from support.fake_case import LEFT_KIDNEY, PANCREAS, FakeCase, fake_case, write_results

BOUNDS = VolumeBounds(
    0.9,
    30,
    {
        "pancreas": LabelBounds(Scale.ERROR, 1.2, (1.0, 0.9, 0.8, 0.7), Scale.ERROR),
        "kidney_left": LabelBounds(Scale.VOLUME, 0.1),
    },
)


def calibrated(**more: object) -> FakeCase:
    case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
    return replace(case, prediction=replace(case.prediction, stated_bounds=BOUNDS, **more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case, folder = calibrated(), tmp_path_factory.mktemp("results") / "case"
    write_results(folder, case)
    return folder


def open_error(prediction: Prediction, value: int, decided: np.ndarray) -> float:
    """The expected error in ml of a label where nothing is decided, from all voxels."""
    error = np.abs((prediction.segmentation == value) - prediction.probability[value - 1])
    return float(error[~decided].sum(dtype=float) * prediction.grid.voxel_mm3 / 1000)


def test_review_states_what_is_corrected_and_what_is_left_open(folder: Path) -> None:
    results = read_results(folder)
    review, voxel_ml = Review(results.prediction, results.regions), results.prediction.grid.voxel_mm3 / 1000
    assert volume_intervals(review) == predicted_intervals(results.prediction)
    point = review.regions[0].region.centroid_ras
    review.click([point], 0)
    assert volume_intervals(review) == {}, "clicks without a decision were not measured"
    predicted, volume = predicted_intervals(results.prediction), stated_volumes(review)
    noted = [f"{readable(name)} {volume_text(volume[name].ml, predicted[name], AS_PREDICTED)}" for name in predicted]
    assert volume_lines(review) == noted, "what is promised of the true volume holds whatever is clicked"
    decided = np.zeros(results.prediction.shape, bool)
    for region, verdict in zip(review.regions, ("accept", "exclude"), strict=True):
        review.decide(region.region_id, verdict)
        decided[region.box] |= region.found.mask
        stated, corrected, now = stated_volumes(review), review.corrected(), review.current()
        for label in (PANCREAS, LEFT_KIDNEY):
            volume = stated[label.name]
            assert volume.ml == pytest.approx(voxel_ml * np.count_nonzero(corrected == label.value))
            assert volume.error_ml == pytest.approx(open_error(now, label.value, decided), abs=1e-4)
        done, total = review.reviewed
        interval = volume_intervals(review)
        assert set(interval) == {"pancreas"}, "of the kidney no review was measured"
        assert [AS_PREDICTED in line for line in volume_lines(review)] == [False, True]
        half = BOUNDS.labels["pancreas"].reviewed[4 * done // total - 1] * stated["pancreas"].error_ml
        assert interval["pancreas"].high == pytest.approx(stated["pancreas"].ml + half)


def test_record_report_page_and_table_state_it(folder: Path, tmp_path: Path) -> None:
    results = read_results(folder)
    expected = predicted_intervals(results.prediction)
    record = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    stored = {label["name"]: Interval.from_dict(label["interval_ml"]) for label in record["labels"]}
    assert stored == {name: Interval(round(i.low, 3), round(i.high, 3), 0.9) for name, i in expected.items()}
    case = Case(calibrated().image, results.prediction, results.regions)
    report = build_report(case)
    text = expected["pancreas"].text(results.prediction.volumes_ml()["pancreas"])
    page = render_html(report, {}, PictureScale.of(case.image, case.review.settings))
    assert text in page and "in 90 % of cases like the 30 calibration cases" in page
    volumes = results.prediction.volumes_ml()
    lines = [f"{readable(name)} {volume_text(volumes[name], interval)}" for name, interval in expected.items()]
    assert ReviewPage(case).state()["volumes"] == lines
    write_cohort(tmp_path, "Hospital", [read_case("case", folder, Outcome.PREDICTED)])
    (row,) = csv.DictReader((tmp_path / "cohort.csv").read_text(encoding="utf-8-sig").splitlines())
    assert float(row["pancreas_interval_low"]) == pytest.approx(expected["pancreas"].low, abs=1e-3)
    assert float(row["kidney_left_interval_high"]) == pytest.approx(expected["kidney_left"].high, abs=1e-3)
    assert text in (tmp_path / "cohort.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("level", [Level.UNUSUAL, Level.NOT_USABLE])
def test_nothing_is_promised_of_a_case_unlike_the_calibration_cases(level: Level) -> None:
    case = calibrated(suitability=Suitability(level, ("it is foreign",)))
    review = Case.of(case.image, Review(case.prediction, case.regions))
    assert predicted_intervals(case.prediction) == {} == volume_intervals(review.review)
    page = render_html(build_report(review), {}, PictureScale.of(review.image, review.review.settings))
    assert not volume_lines(review.review) and "Intervals hold" not in page
