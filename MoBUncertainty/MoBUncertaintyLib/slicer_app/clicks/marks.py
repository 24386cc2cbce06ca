"""The marks of clicks in the views: Slicer's own point lists, one for each kind of click, in the CT's folder.

They are saved with the scene, but nothing is read from them: what they show is in the review's record. Shapes differ as
well as colours. Positions are RAS mm of the CT's own coordinates.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.output.pictures.style import Palette
from MoBUncertaintyLib.review.refinement.clicks import Click, marked_points
from MoBUncertaintyLib.review.view import ReviewView
from MoBUncertaintyLib.slicer_app.scene.nodes import Point, nodesByClass, toWorld
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene

MARK_CLASS = "vtkMRMLMarkupsFiducialNode"
GLYPH_PERCENT = 4.0  # of the view; the outlines, which may lie over the marks, are narrower
SUGGESTION_PERCENT = 8.0
TEXT_PERCENT = 3.0
TEXT_BACKGROUND = 0.7  # opacity: the text has the colour of its mark, and may lie on any other


class Mark(StrEnum):
    """What a mark stands for."""

    ORGAN = "organ"
    BACKGROUND = "background"
    CONFLICT = "conflict"
    SUGGESTION = "suggestion"

    @classmethod
    def of(cls, label: int) -> Mark:
        """Return what a click of a label is marked as."""
        return cls.ORGAN if label else cls.BACKGROUND


_LOOKS = {
    Mark.ORGAN: ("Circle2D", GLYPH_PERCENT),
    Mark.BACKGROUND: ("Square2D", GLYPH_PERCENT),
    Mark.CONFLICT: ("Triangle2D", 1.5 * GLYPH_PERCENT),
    Mark.SUGGESTION: ("ThickCross2D", SUGGESTION_PERCENT),
}
"""Glyph, and size in percent of the view."""
_YELLOW, _WHITE = (255, 230, 0), (255, 255, 255)  # maps have colours of their own


class ClickMarks:
    """The point lists of the clicks in one image; a list that somebody has removed is made anew."""

    def __init__(self, results: ResultScene, review: ReviewView, palette: Palette) -> None:
        self._review, self._nodes = review, results.nodes
        self._colours = {Mark.ORGAN: palette.added, Mark.BACKGROUND: palette.removed}
        self._colours |= {Mark.CONFLICT: _YELLOW, Mark.SUGGESTION: _WHITE}
        self.hidden = False
        self._shown: dict[Mark, tuple] = {}  # what each list holds, so that others are left alone

    def show(self, text: tuple[Point, str] | None = None, drawn: Click | None = None) -> None:
        """Mark all clicks of the review, and a stroke or outline that is `drawn` still; the suggestion stays.

        A text stands beside the click that begins at its point.
        """
        clicks: dict[Mark, list[Click]] = {}
        for click in (*self._review.drawn, *([drawn] if drawn else ())):
            mark = Mark.CONFLICT if click.click_id in self._review.conflicts else Mark.of(click.label)
            clicks.setdefault(mark, []).append(click)
        for mark in (Mark.ORGAN, Mark.BACKGROUND, Mark.CONFLICT):
            points = [point for click in clicks.get(mark, ()) for point in marked_points(click)]
            labels = [""] * len(points)
            if text and text[0] in points:
                labels[points.index(text[0])] = text[1]
            self._fill(mark, points, labels)

    def suggest(self, point: Point | None) -> None:
        """Mark the place where a click would help most, and let all slice views go through it; None: no place."""
        self._fill(Mark.SUGGESTION, [] if point is None else [point], [""])
        if point is not None:
            place = toWorld(self._nodes.ctNode, point)
            for view in nodesByClass(self._nodes.scene, "vtkMRMLSliceNode"):
                view.JumpSliceByOffsetting(*place)  # what it is centred on stays

    def setHidden(self, hidden: bool) -> None:
        """Hide all marks, or show them."""
        self.hidden = hidden
        for mark in Mark:
            node = self._nodes.node(_role(mark))
            if node:
                node.GetDisplayNode().SetVisibility(not hidden)

    def _fill(self, mark: Mark, points: list[Point], labels: list[str]) -> None:
        node = self._nodes.node(_role(mark))
        if node is None and not points:
            return
        shown, labels = self._shown.get(mark), labels[: len(points)]
        same = node is not None and shown and shown[0] == points and node.GetNumberOfControlPoints() == len(points)
        if same and shown[1] == labels:
            return
        node = node or self._make(mark)
        with slicer.util.NodeModify(node):
            if not same:
                slicer.util.updateMarkupsControlPointsFromArray(node, np.reshape(points, (-1, 3)).astype(float))
            for index, label in enumerate(labels):
                if not same or shown[1][index] != label:
                    node.SetNthControlPointLabel(index, label)
        self._shown[mark] = points, labels

    def _make(self, mark: Mark):
        node = self._nodes.add(_role(mark), MARK_CLASS, _names()[mark])
        node.SetLocked(True)  # the review moves them
        (glyph, percent), colour = _LOOKS[mark], [channel / 255 for channel in self._colours[mark]]
        display = node.GetDisplayNode()
        display.SetGlyphTypeFromString(glyph)
        display.SetUseGlyphScale(True)
        display.SetGlyphScale(percent)
        display.SetTextScale(TEXT_PERCENT)
        display.GetTextProperty().SetBackgroundColor(0.0, 0.0, 0.0)
        display.GetTextProperty().SetBackgroundOpacity(TEXT_BACKGROUND)
        display.SetColor(*colour)
        display.SetSelectedColor(*colour)  # of all points, unless somebody has unselected one
        display.SetPointLabelsVisibility(True)
        display.SetPropertiesLabelVisibility(False)
        display.SetVisibility(not self.hidden)
        return node


def _names() -> dict[Mark, str]:
    return {
        Mark.ORGAN: _("clicks: organ"),
        Mark.BACKGROUND: _("clicks: not organ"),
        Mark.CONFLICT: _("clicks: contradicted"),
        Mark.SUGGESTION: _("suggested click"),
    }


def _role(mark: Mark) -> str:
    return f"clicks.{mark.value}"
