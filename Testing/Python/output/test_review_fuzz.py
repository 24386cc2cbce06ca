"""Mutants of decisions files, records and labels: each is taken, or refused in one sentence."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, UserError
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.pictures.style import Scale
from MoBUncertaintyLib.output.report import COLUMNS, build_report, render_html, write_table
from MoBUncertaintyLib.output.results_folder import Results, describe
from MoBUncertaintyLib.output.results_record import RecordError, make_prediction, record_of
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.output.review_files import apply_decisions, read_decisions
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.review.review import Review
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case
from support.json_mutants import mutants, values

PLACE = (11.8, -87.4, -162.0)


@pytest.fixture(scope="module")
def results() -> Results:
    case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
    prediction = describe(replace(case.prediction, warnings=[]), case.regions)
    regions = RegionDescriber(prediction).describe_all(case.regions.whole_map(), case.regions.settings)
    return Results(prediction, regions, Source())


@pytest.fixture(scope="module")
def image(results) -> sitk.Image:
    return image_on(results.prediction.grid, results.prediction.segmentation.astype(np.int16))


@pytest.fixture(scope="module")
def record(results, image, tmp_path_factory) -> dict:
    """A report.json."""
    review = Review(results.prediction, results.regions)
    review.click([PLACE], 2)
    review.edit("1", np.ones(review.prediction.shape, np.uint8))
    review.decide("2", "exclude")
    review.click([(11.8, -87.4, -148.0), (11.8, -85.0, -148.0)], 0)
    review.comment("2", "tail")
    review.lock(1)
    review.sign("A. Reader")
    folder = tmp_path_factory.mktemp("export") / "out"
    write_export(Case.of(image, review), folder, ["report"])
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


BY_HAND = {
    "schema": "mob-uncertainty review",
    "schema_version": 2,
    "regions": [
        {"rank": 1, "verdict": "include", "label": "kidney_left", "comment": "köstlich"},
        {"rank": 2, "verdict": "exclude", "region": {"centroid_ras": PLACE}},
    ],
    "clicks": [
        {"points_ras": [PLACE, (11.8, -85.0, -160.0)], "label": "background", "region": 2},
        {"points_ras": [PLACE], "label": "kidney_left", "id": "c1", "time": "2026-05-31T14:30:00+02:00"},
        {"extent": "lock", "label": "pancreas"},
        {"extent": "outline", "points_ras": [(4, -80, -150), (9, -80, -150), (9, -90, -150)], "label": "background"},
    ],
    "signature": {"name": "Ada Müller", "time": "2026-05-31T14:30:00+02:00"},
}


def judge(results: Results, image: sitk.Image, path: Path, content: bytes) -> bool:
    """Whether a decisions file is taken; then all that is made of it must be possible, too."""
    path.write_bytes(content)
    try:
        review = apply_decisions(results, read_decisions(path))
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).endswith(".")
        assert len(str(error)) < 1000
        return False
    if review.signature:
        assert review.reviewed[0] == review.reviewed[1]
        assert review.signature.name.strip()
    case = Case.of(image, review)
    report = build_report(case)
    json.dumps(report, allow_nan=False, ensure_ascii=False).encode()
    write_table(path.with_suffix(".csv"), COLUMNS, report["regions"])
    assert {region.verdict for region in review.regions} <= {"pending", "accept", "include", "exclude", "edit"}
    assert set(np.unique(review.corrected())) <= {0, 1, 2}
    return True


COUNTS = [pytest.param(60, id="some"), pytest.param(300, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_decisions_by_hand(results, image, tmp_path, count):
    taken = [judge(results, image, tmp_path / "decisions.json", each) for each in mutants(BY_HAND, count, seed=1)]
    assert any(taken)
    assert not all(taken)


@pytest.mark.parametrize("count", COUNTS)
def test_records(results, image, tmp_path, record, count):
    """Whatever is done to a record, it is refused; only its form as text may change."""
    assert judge(results, image, tmp_path / "whole.json", json.dumps(record).encode())
    for each in mutants(record, count, seed=2):
        if judge(results, image, tmp_path / "copy.json", each):
            assert json.loads(each.decode("utf-8-sig")) == record


@pytest.mark.parametrize("count", COUNTS)
def test_records_that_are_sealed_anew(results, image, tmp_path, record, count):
    """As somebody would who knows how."""
    taken = []
    for review in values(record["review"], count, seed=3):
        try:
            content = json.dumps(seal(record | {"review": seal(review)})).encode()
        except (TypeError, AttributeError, RecursionError):
            continue
        taken.append(judge(results, image, tmp_path / "copy.json", content))
    assert any(taken)
    assert not all(taken)


@pytest.mark.parametrize("count", COUNTS)
def test_what_a_scene_keeps_of_the_prediction(results, image, count):
    """A report is made, or a sentence said."""
    settings = {"overlap": 0.5, "tiling": "full", "mirror": False, "region_of_interest": [0, 1, 0, 1, 0, 1]}
    about = {"settings": settings, "folds": [0, "all"], "moments": "exact", "precision": "float32"}
    case = Case(image, results.prediction, results.regions)
    prediction = results.prediction
    kept = {"provenance": record_of(prediction) | about, "labels": [asdict(label) for label in prediction.labels]}
    kept = json.loads(json.dumps(kept))
    arrays = (prediction.segmentation, prediction.probability, prediction.variance, prediction.grid)
    planes = dict.fromkeys(("axial", "coronal", "sagittal"), b"")
    pictures = {each.region_id: {"": planes} for each in case.review.regions}
    taken = 0
    for mutant in values(kept, count, seed=4):
        try:
            mutated = make_prediction(mutant, *arrays)
        except (KeyError, TypeError, RecordError, ImageError):
            continue
        report = build_report(Case.of(image, Review(mutated, case.review.listed())))
        render_html(report, pictures, Scale.of(image, case.review.settings))
        json.dumps(report, allow_nan=False, ensure_ascii=False).encode()
        taken += 1
    assert count / 10 < taken < count
