"""What the worker does for a worklist: the same cases, results and table as the command's, reviews, and agreement."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, OutputError, ReviewError
from MoBUncertaintyLib.base.integrity import digest_of
from MoBUncertaintyLib.output import review_files
from MoBUncertaintyLib.output.cohort.cases import read_review, reviews_of
from MoBUncertaintyLib.output.cohort.readers import export_folder, review_file, write_review
from MoBUncertaintyLib.output.cohort.table import check_table, failed_before
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.pipeline.calibration.calibration import find_reviews
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.worker.commands import CaseList, input_of, open_case, sign_case
from MoBUncertaintyLib.worker.predictions import Predictions
from MoBUncertaintyLib.worker.protocol import ProtocolError, encode
from MoBUncertaintyLib.worker.server import Report
from support import tiny
from support.command_line import run
from support.fake_case import write_case

SETTINGS = {"overlap": 0.0, "device": "cpu"}


@pytest.fixture
def steps() -> list[dict]:
    return []


@pytest.fixture
def report(steps: list[dict]) -> Report:
    return Report(lambda _event, fields: steps.append(fields))


def ask(handler: Any, command: str, report: Report, **fields: Any) -> dict[str, Any]:
    """The answer to a request, both as they travel."""
    request = json.loads(encode({"id": 1, "command": command, **fields}))
    return json.loads(encode(handler(request, report)))


def cases(list_: CaseList, cohort: Path, report: Report, **fields: Any) -> dict[str, Any]:
    given = {"channels": 1, "title": "scans", "table": False, "failed": {}, **fields}
    return ask(list_, "cases", report, cohort=str(cohort), **given)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_cases_and_table_are_those_of_the_command(tmp_path: Path, report: Report, steps: list[dict]) -> None:
    """Two cases, one of them broken, and a text: predicted by the worker, and by the command into another folder."""
    model, scans = tiny.make_exported_model(tmp_path / "model"), tmp_path / "scans"
    scans.mkdir()
    sitk.WriteImage(tiny.make_ct((20, 24, 28)), scans / "a.nii.gz")
    (scans / "broken.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:-2000])
    (scans / "notes.txt").write_text("of the study")
    list_, predictions, cohort = CaseList(), Predictions(), tmp_path / "cohort"
    found = cases(list_, cohort, report, source=str(scans))
    assert [(each["case"]["entry"], each["row"]) for each in found["cases"]] == [
        ("a.nii.gz", None),
        ("broken.nii.gz", None),
    ]
    assert not cohort.exists() and found["table"] is None

    inputs, failed = found["listed"], {}
    assert [each["entry"] for each in inputs if not each["is_case"]] == ["notes.txt"]
    for each in found["cases"]:
        request = {"case": each["case"], "output": each["folder"], "models": [str(model)], "settings": SETTINGS}
        try:
            ask(predictions.predict_case, "predict-case", report, **request)
        except ImageError as error:
            failed[each["case"]["entry"]] = str(error)
    fractions = [step["fraction"] for step in steps if step["stage"] in ("read", "network", "write")]
    assert len(fractions) > 6 and max(fractions) == 1.0
    found = cases(list_, cohort, report, cases=inputs, failed=failed, table=True)
    assert [each["row"]["state"] for each in found["cases"]] == ["failed", "ready"]
    assert Path(found["table"]).is_file()

    options = ("--model", model, "--overlap", "0", "--device", "cpu", "--no-scene")
    assert run("predict", scans, "--output", tmp_path / "command", *options).exit_code == 2
    assert table(cohort) == table(tmp_path / "command")
    assert [row["outcome"] for row in table(cohort)] == ["failed", "predicted"]

    # Opened again: what failed and what is done are on disk, and the command finds all of it done.
    again = cases(CaseList(), cohort, report, cases=inputs)
    assert [each["row"]["state"] for each in again["cases"]] == ["failed", "ready"]
    assert "truncated" in again["cases"][0]["row"]["reason"]
    request = {"case": again["cases"][1]["case"], "output": again["cases"][1]["folder"], "models": [str(model)]}
    made = (Path(request["output"]) / "prediction.json").stat().st_mtime_ns
    ask(predictions.predict_case, "predict-case", report, **request, settings=SETTINGS)
    assert (Path(request["output"]) / "prediction.json").stat().st_mtime_ns == made
    command = run("predict", scans, "--output", cohort, *options)
    assert "1 of 3 cases had these results already" in command.stderr

    # Damaged results are made anew.
    folder = Path(request["output"])
    (folder / "regions.csv").write_text("altered")
    damaged = cases(CaseList(), cohort, report, cases=inputs)["cases"][0]
    assert damaged["folder"] == str(folder) and "are damaged" in damaged["row"]["reason"]
    ask(predictions.predict_case, "predict-case", report, **request, settings=SETTINGS)
    assert read_results(folder).prediction.segmentation.any()


# --- reviews ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_case(tmp_path)
    return tmp_path / "results"


def decided(results: Path, *verdicts: Verdict, name: str | None = None) -> Review:
    review = review_files.open_case(results).review
    for region, verdict in zip(review.regions, verdicts, strict=False):
        review.decide(region.region_id, verdict)
    if name:
        review.sign(name)
    return review


def version(results: Path, reader: str) -> str | None:
    """What a reader goes on from who opens the case now."""
    path = review_file(results, reader)
    return digest_of(json.loads(path.read_text())) if path.exists() else None


def keep(results: Path, reader: str, *verdicts: Verdict) -> None:
    """What a window does that has opened the case just now."""
    write_review(results, reader, decided(results, *verdicts).to_dict(), {version(results, reader)})


def sign(results: Path, reader: str, report: Report, *verdicts: Verdict, **fields: Any) -> dict[str, Any]:
    record = decided(results, *verdicts, name=reader).to_dict()
    given = {"output": str(export_folder(results, reader)), "versions": [version(results, reader)], **fields}
    return ask(sign_case, "sign-case", report, results=str(results), reader=reader, review=record, **given)


def row_of(results: Path, report: Report) -> dict[str, Any]:
    case = {"path": str(results.parent / "ct.nii.gz"), "entry": "ct", "name": "results"}
    return cases(CaseList(), results.parent, report, cases=[case])["cases"][0]["row"]


def test_a_review_is_kept_with_the_results_and_handed_over_again(results: Path, tmp_path: Path, report: Report) -> None:
    review = decided(results, Verdict.INCLUDE)
    write_review(results, "Dr. A/B", review.to_dict(), {None})
    row = row_of(results, report)
    assert (row["state"], row["reviews"][0]["reader"], row["reviews"][0]["regions_left"]) == ("in review", "Dr. A/B", 1)
    request = {"results": str(results), "folder": str(tmp_path)}
    found = ask(open_case, "open-case", report, **request, reader="Dr. A/B")
    assert found["review"] == json.loads(json.dumps(review.to_dict()))
    assert np.array_equal(np.load(found["ct"]), sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "ct.nii.gz")))
    again = Review.from_dict(found["review"], replace(review.prediction, segmentation=np.load(found["segmentation"])))
    assert np.array_equal(again.corrected(), review.corrected())
    assert ask(open_case, "open-case", report, **request, reader="Another")["review"] is None
    path = review_file(results, "Dr. A/B")
    path.write_text(path.read_text().replace("include", "exclude"))
    with pytest.raises(ReviewError):
        ask(open_case, "open-case", report, **request, reader="Dr. A/B")
    row = row_of(results, report)
    assert row["state"] == "ready" and "cannot be used" in row["warnings"][-1]


def test_agreement_of_two_readers_is_in_row_and_table(results: Path, tmp_path: Path, report: Report) -> None:
    sign(results, "A. Reader", report, Verdict.ACCEPT, Verdict.INCLUDE)
    assert row_of(results, report)["agreement"] is None
    sign(results, "B. Reader", report, Verdict.ACCEPT, Verdict.EXCLUDE)
    row = row_of(results, report)
    a, b = (decided(results, Verdict.ACCEPT, each).corrected() > 0 for each in (Verdict.INCLUDE, Verdict.EXCLUDE))
    expected = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert 0 < expected < 1
    assert row["state"] == "signed"
    assert row["agreement"] == {
        "readers": ["A. Reader", "B. Reader"], "dice": {"pancreas": pytest.approx(expected)}, "regions": 2,
        "regions_different": 1,
    }  # fmt: skip
    assert [path.name for path in find_reviews([tmp_path])] == ["review-A. Reader", "review-B. Reader"]
    case = {"path": str(tmp_path / "ct.nii.gz"), "entry": "ct", "name": "results"}
    cases(CaseList(), tmp_path, report, cases=[case], table=True)
    (written,) = table(tmp_path)
    assert float(written["pancreas_dice_between_readers"]) == pytest.approx(expected, rel=1e-5)
    assert (written["state"], written["regions_decided_differently"]) == ("signed", "1")
    assert written["readers"] == "A. Reader: signed; B. Reader: signed"
    assert "Dice between readers" in (tmp_path / "cohort.html").read_text(encoding="utf-8")
    # Verdicts of other names that come to the same are no difference, and a third reader makes pairs of all.
    sign(results, "C. Reader", report, Verdict.ACCEPT, Verdict.INCLUDE)
    third = row_of(results, report)["agreement"]
    assert third["dice"]["pancreas"] == pytest.approx((2 * expected + 1) / 3) and third["regions_different"] == 1


def test_a_review_that_is_reopened_is_in_review_again(results: Path, report: Report) -> None:
    sign(results, "A. Reader", report, Verdict.ACCEPT, Verdict.INCLUDE)
    keep(results, "A. Reader", Verdict.ACCEPT)
    (review,), problems = reviews_of(results)
    assert (review.signed, review.regions_left, problems) == (False, 1, ())
    sign(results, "A. Reader", report, Verdict.ACCEPT, Verdict.EXCLUDE)
    (review,), _ = reviews_of(results)
    assert review.signed and review.text == "A. Reader: signed"


def test_names_that_a_disk_may_take_for_one_have_a_review_each(results: Path, report: Report) -> None:
    readers = {"A/B": Verdict.ACCEPT, "A:B": Verdict.INCLUDE, "ADA": Verdict.EXCLUDE, "ada": Verdict.ACCEPT}
    for reader, verdict in readers.items():
        keep(results, reader, verdict)
    assert len({path.name.casefold() for path in results.glob("review-*.json")}) == len(readers)
    assert {each["reader"] for each in row_of(results, report)["reviews"]} == set(readers)
    for reader, verdict in readers.items():
        assert read_review(results, reader).data["regions"][0]["verdict"] == verdict


def test_a_window_that_goes_on_from_what_is_no_longer_there_is_refused(results: Path, report: Report) -> None:
    """Two windows have opened the same case, new; the second to write would take the first one's decisions away."""
    first, second = decided(results, Verdict.ACCEPT, Verdict.INCLUDE), decided(results, Verdict.EXCLUDE)
    write_review(results, "A. Reader", first.to_dict(), {None})
    with pytest.raises(ReviewError):
        write_review(results, "A. Reader", second.to_dict(), {None})
    with pytest.raises(ReviewError):
        sign(results, "A. Reader", report, Verdict.EXCLUDE, Verdict.EXCLUDE, versions=[None])
    assert version(results, "A. Reader") == digest_of(first.to_dict())
    assert not export_folder(results, "A. Reader").exists()
    assert sorted(path.name for path in results.glob(".*")) == []
    review_file(results, "A. Reader").write_text("no review")
    with pytest.raises(ReviewError):
        write_review(results, "A. Reader", first.to_dict(), {digest_of(first.to_dict())})


def test_what_was_signed_before_is_kept_when_it_is_signed_again(results: Path, tmp_path: Path, report: Report) -> None:
    assert sign(results, "A. Reader", report, Verdict.ACCEPT, Verdict.INCLUDE)["warnings"] == []
    export = export_folder(results, "A. Reader")
    before = {path.name: path.read_bytes() for path in export.iterdir()}
    for number in (1, 2):
        kept = results / f"review-A. Reader.kept-{number}"
        keep(results, "A. Reader")  # reopened
        done = sign(results, "A. Reader", report, Verdict.ACCEPT, Verdict.EXCLUDE)
        assert done["warnings"] == [f"An earlier review was moved to {kept}."]
    assert {path.name: path.read_bytes() for path in (results / "review-A. Reader.kept-1").iterdir()} == before
    (review,), problems = reviews_of(results)
    assert (review.signed, review.export, problems) == (True, export, ())
    review_file(results, "A. Reader").unlink()  # by the exports alone, the latest counts
    assert [each.export for each in reviews_of(results)[0]] == [export]
    assert find_reviews([tmp_path]) == [export]


def test_an_export_of_the_command_counts_by_its_signature(results: Path, tmp_path: Path, report: Report) -> None:
    decisions = {"schema": "mob-uncertainty review", "schema_version": 2, "signature": {"name": "C. Ommand"}}
    decisions["regions"] = [{"rank": 1, "verdict": "accept"}, {"rank": 2, "verdict": "accept"}]
    (tmp_path / "decisions.json").write_text(json.dumps(decisions))
    assert run("review", results, "--decisions", tmp_path / "decisions.json").exit_code == 0
    (review,) = row_of(results, report)["reviews"]
    assert review["reader"] == "C. Ommand" and review["signed"]
    (results / "review" / "regions.nrrd").unlink()
    assert "regions.nrrd is missing" in row_of(results, report)["warnings"][-1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_that_is_called_like_a_review_or_a_table_is_not_waited_for(results: Path, report: Report) -> None:
    os.mkfifo(results / "review-A. Reader.json")
    found, (problem,) = reviews_of(results)
    assert (found, "it is not a regular file" in problem) == ((), True)
    assert "it is not a regular file" in row_of(results, report)["warnings"][-1]
    os.mkfifo(results.parent / "cohort.csv")
    assert failed_before(results.parent) == {}
    with pytest.raises(OutputError):
        check_table(results.parent)


def test_a_review_of_other_results_is_refused_and_nothing_is_kept(results: Path, report: Report) -> None:
    record = decided(results, Verdict.ACCEPT, Verdict.ACCEPT, name="A. Reader").to_dict() | {"predicted_sha256": "0"}
    fields = {"output": str(results / "review-A. Reader"), "versions": [None]}
    with pytest.raises(ReviewError):
        ask(sign_case, "sign-case", report, results=str(results), reader="A", review=record, **fields)
    assert reviews_of(results) == ((), ())


def test_a_case_that_is_none_is_called_so(tmp_path: Path, report: Report) -> None:
    with pytest.raises(ProtocolError):
        input_of({"path": "a", "colour": 1})
    with pytest.raises(ProtocolError):
        cases(CaseList(), tmp_path, report)
