"""The table of a worklist's cases."""

from __future__ import annotations

from collections.abc import Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.cohort.readers import CaseState
from MoBUncertaintyLib.slicer_app.widgets.table import Column, Row
from MoBUncertaintyLib.slicer_app.worklist.cases import WorklistCase


def caseColumns() -> list[Column]:
    """Describe the columns of the table of cases."""
    return [
        Column(_("Case"), _("File or folder of the image, or patient and series.")),
        Column(_("State"), _("For the reader named above; without a name, for all readers.")),
        Column(_("Suitability"), _("Whether the model suits the case, or why the case failed."), stretches=True),
        Column(_("Volume (ml)"), _("As predicted; of several organs, in the model's order."), isNumber=True),
        Column(_("Regions left"), _("Doubtful regions that the reader has to decide."), isNumber=True),
        Column(
            _("Dice"), _("Between the segmentations of readers who have signed; the mean of labels."), isNumber=True
        ),
        Column(_("Regions differ"), _("Regions that readers who have signed decided differently."), isNumber=True),
    ]


def caseRows(cases: Sequence[WorklistCase], reader: str, opened: str | None) -> dict[str, Row]:
    """Make the rows of the table of cases by their names, as they are for a reader; the open one stands out."""
    return {case.name: Row(_cells(case, reader), isBold=case.name == opened) for case in cases}


def _cells(case: WorklistCase, reader: str) -> list[tuple[str, str]]:
    """Make text and tooltip of each column."""
    row, state = case.row or {}, case.state(reader)
    readers = "\n".join(review.text for review in case.reviews)
    reason = row.get("reason", "")
    organs, left = row.get("organs", ()), case.regionsLeft(reader)
    agreement = row.get("agreement")
    volumes = " / ".join(f"{organ['volume_ml']:.1f}" for organ in organs)
    named = "\n".join(f"{readable(organ['name'])}: {organ['volume_ml']:.1f} ml" for organ in organs)
    dice = differently = compared = ""
    if agreement:
        dice = f"{sum(agreement['dice'].values()) / len(agreement['dice']):.3f}"
        differently = _("{n} of {count}").format(n=agreement["regions_different"], count=agreement["regions"])
        each = [f"{readable(name)}: {value:.3f}" for name, value in agreement["dice"].items()]
        compared = "\n".join([*agreement["readers"], *each])
    return [
        (case.name, str(case.folder)),
        (_stateText(state), readers),
        (reason or _suitabilityText(row), reason or "\n".join(row.get("warnings", ()))),
        (volumes, named),
        ("" if left is None else str(left), readers),
        (dice, compared),
        (differently, compared),
    ]


def _suitabilityText(row) -> str:
    found = row.get("suitability")
    if not found:
        return ""
    words = {"ordinary": _("ordinary"), "unusual": _("unusual"), "not usable": _("not usable")}
    if not found["judged"] and not found["reasons"]:
        return _("not compared")
    text = words[found["level"]]
    return f"{text}: {found['reasons'][0]}" if found["reasons"] else text


def _stateText(state: CaseState) -> str:
    words = {
        CaseState.NOT_RUN: _("Not run"),
        CaseState.FAILED: _("Failed"),
        CaseState.READY: _("Ready"),
        CaseState.IN_REVIEW: _("In review"),
        CaseState.SIGNED: _("Signed"),
    }
    return words[state]
