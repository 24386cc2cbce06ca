"""The Segment Editor inside the panel, made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.slicer_app.drawing import MASK_SEGMENT
from MoBUncertaintyLib.slicer_app.widgets.section import write

SEGMENTS_HEIGHT = 80  # pixels, of the list of segments
UNUSED_PAINT_OPTIONS = ("Edit in 3D views", "Color smudge")
EFFECTS = ("Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")


class RegionEditor:
    """Shows the Segment Editor in the place that the panel keeps for it, while a region is drawn in."""

    def __init__(self, ui, onChanged: Callable[[], None]) -> None:
        self._onChanged = onChanged
        self._place = ui.segmentEditorPlace
        self._widget = None
        self._place.visible = False
        write(ui.editHintLabel, ui.editHintLabel.text)

    def toggle(self, session, region: ReviewRegion) -> None:
        """Let the reader draw in a region, once it is settled what becomes of other changes; or take what is drawn."""
        if session.drawing.regionId:
            self.end(session, session.drawing.finish)
        elif settleStrayEdits(session):
            self._show(session.drawing.begin(region.region_id))
            self._onChanged()

    def settle(self, session) -> None:
        """End a drawing that was left; where the image was moved meanwhile, not before it is back."""
        if session.fits():
            self.end(session, session.drawing.settle)

    def end(self, session, step: Callable[[], None]) -> None:
        """End a drawing by a step of `RegionDrawing`."""
        if session.drawing.regionId:
            self.hide()
            step()
            self._onChanged()

    def _show(self, editorNode) -> None:
        """Let the reader draw with the settings of a vtkMRMLSegmentEditorNode."""
        if self._widget is None:
            self._widget = self._make()
        widget = self._widget
        widget.setMRMLScene(editorNode.GetScene())
        widget.setMRMLSegmentEditorNode(editorNode)
        widget.maskingSectionVisible = False  # after the node: its setter complains without one
        widget.undoEnabled = True  # its setter forgets the edits before, which Undo would take back in their regions
        self._place.visible = True
        table = slicer.util.findChild(widget, "SegmentsTableView")
        table.setHideSegments([MASK_SEGMENT])
        segments = editorNode.GetSegmentationNode().GetSegmentation().GetNumberOfSegments() - 1
        slicer.util.findChild(widget, "SegmentsTableResizableFrame").visible = segments > 1
        widget.setupViewObservations()
        widget.installKeyboardShortcuts()
        widget.setActiveEffectByName("Paint")

    def hide(self) -> None:
        """Hide the tools; what was drawn stays in the segmentation."""
        if self._widget is None:
            return
        self._widget.setActiveEffectByName("")
        self._widget.uninstallKeyboardShortcuts()
        self._widget.removeViewObservations()
        self._place.visible = False

    def cleanup(self) -> None:
        """Let go of the scene."""
        self.hide()
        if self._widget is not None:
            self._widget.setMRMLScene(None)

    def _make(self):
        widget = slicer.qMRMLSegmentEditorWidget()
        widget.setEffectNameOrder(list(EFFECTS))
        widget.unorderedEffectsVisible = False
        # The review sets the segmentation, the image, and where one may draw.
        widget.segmentationNodeSelectorVisible = False
        widget.sourceVolumeNodeSelectorVisible = False
        widget.switchToSegmentationsButtonVisible = False
        widget.addRemoveSegmentButtonsVisible = False
        widget.specifyGeometryButtonVisible = False
        widget.show3DButtonVisible = False
        widget.autoShowSourceVolumeNode = False  # it would replace what the views show, and their zoom
        widget.maximumNumberOfUndoStates = 10
        self._arrange(widget)
        return widget

    def _arrange(self, widget) -> None:
        """Put the effects in a row above their options instead of a column beside them, and hide what takes room."""
        row = qt.QHBoxLayout()
        for name in ("EffectsGroupBox", "UndoRedoGroupBox"):
            row.addWidget(slicer.util.findChild(widget, name))
        row.addStretch(1)
        widget.effectColumnCount = len(EFFECTS) + 1  # and None
        widget.layout().setContentsMargins(0, 0, 0, 0)
        for index in range(widget.layout().count()):
            columns = widget.layout().itemAt(index).layout()
            if columns is not None and columns.objectName == "horizontalLayout":
                columns.takeAt(0)  # where the effects were
        slicer.util.findChild(widget, "EffectHelpBrowser").visible = False
        unused = [slicer.app.translate("qSlicerSegmentEditorPaintEffect", text) for text in UNUSED_PAINT_OPTIONS]
        for box in slicer.util.findChildren(widget, className="QCheckBox"):
            if box.text in unused:
                box.visible = False
        slicer.util.findChild(widget, "SegmentsTableView").maximumHeight = SEGMENTS_HEIGHT
        self._place.layout().addLayout(row)
        self._place.layout().addWidget(widget)


def settleStrayEdits(session) -> bool:
    """Ask what becomes of voxels that were changed by other means than verdicts; return whether to go on."""
    count = session.segmentation.strayEdits()
    text = _(
        "{count} voxels of the segmentation were changed outside this review, perhaps in the Segment Editor; these "
        "changes are not part of it. Revert them and continue? To keep a change, cancel, select its region and draw "
        "it with Edit."
    )
    if count and not slicer.util.confirmOkCancelDisplay(text.format(count=count)):
        return False
    if count:
        session.segmentation.discardStrayEdits()
    return True
