"""How good a segmentation is expected to be, wherever it is stated, and the order of cases by it."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from MoBUncertaintyLib.measurements.drawn import Agreement
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Organ, Outcome, failed_case, read_case
from MoBUncertaintyLib.output.cohort.table import write_cohort
from MoBUncertaintyLib.output.pages.review_page import ReviewPage
from MoBUncertaintyLib.output.pictures.style import Scale
from MoBUncertaintyLib.output.report import Case, build_report, render_html
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.regions.agreement import expected_agreement
from MoBUncertaintyLib.review.outcome import agreement_line
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case, write_results

BOUNDED, UNBOUNDED = Agreement(0.91, 0.6, 0.0, 0.84, 1.4, 0.9), Agreement(0.42, 1.0, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case, folder = fake_case(labels=(PANCREAS, LEFT_KIDNEY)), tmp_path_factory.mktemp("results") / "case"
    agreement = {"pancreas": BOUNDED, "kidney_left": UNBOUNDED}
    write_results(folder, replace(case, prediction=replace(case.prediction, agreement=agreement)))
    return folder


def test_results_report_page_and_panel_state_it(folder: Path) -> None:
    results = read_results(folder)
    assert results.prediction.agreement == {"pancreas": BOUNDED, "kidney_left": UNBOUNDED}
    case = Case(fake_case().image, results.prediction, results.regions, results.source)
    report = render_html(build_report(case), {}, Scale.of(case.image, results.prediction.region_settings))
    for page in (report, ReviewPage(case).render()):
        assert "0.91 (90 %: at least 0.84)" in page
        assert "at most 1.4" in page
    line = agreement_line(results.prediction)
    assert "0.67 on average" in line and "0.42" in line
    assert line in ReviewPage(case).state()["volumes"]


def test_a_cohort_lists_what_nobody_can_use_and_then_the_lowest(folder: Path, tmp_path: Path) -> None:
    def made(name: str, dice: float | None, **more: object) -> CohortCase:
        organ = Organ("pancreas", 90.0, 3.0, expected=None if dice is None else Agreement(dice))
        return CohortCase(name, Outcome.PREDICTED, organs=(organ,), expected_error_ml=3.0, **more)

    unusual = Suitability(Level.UNUSUAL, ("large",), {})
    rows = [
        made("good", 0.95),
        made("unusual", 0.9, suitability=unusual),
        made("bad", 0.5),
        made("nothing", None),
        made("foreign", 0.99, suitability=replace(unusual, level=Level.NOT_USABLE)),
        failed_case("failed", "It is truncated."),
        read_case("two", folder, Outcome.KEPT),
    ]
    write_cohort(tmp_path, "Hospital", rows)
    with (tmp_path / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        table = {row["case"]: row for row in csv.DictReader(file)}
    assert list(table) == ["failed", "foreign", "nothing", "bad", "two", "unusual", "good"]
    assert float(table["two"]["expected_dice"]) == pytest.approx((0.91 + 0.42) / 2)
    assert (table["two"]["pancreas_expected_dice_low"], table["two"]["kidney_left_expected_dice_low"]) == ("0.84", "")
    assert "lowest: kidney left 0.42" in (tmp_path / "cohort.html").read_text(encoding="utf-8")


def test_a_label_that_is_found_in_one_of_both_has_a_dice_and_no_surface() -> None:
    prediction = fake_case(labels=(PANCREAS, LEFT_KIDNEY), with_regions=False).prediction
    drawn = prediction.segmentation.copy()
    drawn[drawn == LEFT_KIDNEY.value] = 0
    first, second = expected_agreement(prediction, drawn).values()
    assert first.surface_mm is not None and first.dice > 0.8
    assert second == Agreement(0.0)
    own = expected_agreement(prediction, prediction.segmentation)
    for name, volume in prediction.stated_volumes.items():
        total = float(prediction.probability[int(name != "pancreas")].sum()) * prediction.grid.voxel_mm3 / 1000
        assert own[name].dice == pytest.approx(1 - volume.error_ml / (volume.ml + total), rel=1e-4)
