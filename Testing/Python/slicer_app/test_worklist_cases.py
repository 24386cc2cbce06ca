"""The cases of a worklist, without widgets: their states for each reader, and which one is next."""

from pathlib import Path
from typing import Any

import pytest

from MoBUncertaintyLib.output.cohort.readers import CaseReview, CaseState
from support.late import slicer_app

pytestmark = pytest.mark.own_process

SIGNED = {"reader": "A", "signed": True, "regions_left": 0, "export": "/cohort/b/review-A"}
BEGUN = {"reader": "Dr. B/C", "signed": False, "regions_left": 2, "export": None}


def answer(name: str, row: dict | None, problem: str = "") -> dict:
    case = {"path": f"/scans/{name}", "entry": name, "name": name, "problem": problem}
    return {"case": case, "folder": f"/cohort/{name}", "row": row}


def ready(*reviews: dict) -> dict:
    return {"state": "ready", "reason": "", "regions": 3, "reviews": list(reviews)}


@pytest.fixture
def cases(desktop) -> Any:
    failed = {"state": "failed", "reason": "It is truncated.", "reviews": []}
    cases = slicer_app.worklist.cases.Cases(Path("/cohort"), "scans", Path("/scans"))
    listed = [answer("a", failed), answer("b", ready(SIGNED, BEGUN)), answer("c", ready()), answer("d", None)]
    cases.take({"listed": [], "cases": [*listed, answer("e", failed, "it holds two images")], "table": None})
    return cases


def test_states_are_those_of_the_reader(cases: Any) -> None:
    def states(reader: str) -> list[str]:
        return [case.state(reader).value for case in cases.cases]

    assert states("") == ["failed", "in review", "ready", "not run", "failed"]
    assert states("A") == ["failed", "signed", "ready", "not run", "failed"]
    assert states("Dr. B/C") == ["failed", "in review", "ready", "not run", "failed"]
    assert states("Another") == ["failed", "ready", "ready", "not run", "failed"]
    lefts = [cases.find("b").regionsLeft(reader) for reader in ("A", "Dr. B/C", "Another", "")]
    assert lefts == [0, 2, 3, 2] and cases.find("d").regionsLeft("A") is None


def test_what_is_run_and_what_is_next(cases: Any) -> None:
    assert [case.name for case in cases.toRun()] == ["a", "d"]  # of e there is nothing to predict
    assert cases.next(None, "A").name == "c" and cases.next("c", "A") is None
    assert cases.next("c", "Another").name == "b" and cases.next("b", "Another").name == "c"
    cases.reviewed("c", CaseReview("A", True, 0))
    assert cases.next(None, "A") is None and cases.find("c").state("A") is CaseState.SIGNED
    cases.reviewed("c", CaseReview("A", False, 1))
    assert len(cases.find("c").reviews) == 1 and cases.next(None, "A").name == "c"


def test_reasons_of_failures_are_those_of_this_run(cases: Any) -> None:
    cases.ended("a", "It is empty.")
    cases.ended("a", None)
    cases.ended("d", "The disk is full.")
    request = cases.request(1, table=True)
    assert request["failed"] == {"d": "The disk is full."}
    assert request["cases"] == [] and request["table"] is True
