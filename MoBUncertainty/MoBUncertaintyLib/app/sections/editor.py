"""The Segment Editor inside the panel, made when it is first needed."""

from __future__ import annotations

import slicer
import slicer.util

from MoBUncertaintyLib.app.session import MASK_SEGMENT

EFFECTS = ("Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")


class RegionEditor:
    """Shows the Segment Editor in the place that the panel keeps for it.

    Args:
        ui: The panel's widgets.
    """

    def __init__(self, ui) -> None:
        self._place = ui.segmentEditorPlace
        self._widget = None
        self._place.visible = False

    def show(self, editorNode) -> None:
        """Let the user draw as a vtkMRMLSegmentEditorNode says."""
        if self._widget is None:
            self._widget = self._make()
        widget = self._widget
        widget.setMRMLScene(editorNode.GetScene())
        widget.setMRMLSegmentEditorNode(editorNode)
        widget.undoEnabled = True  # its setter forgets the edits before, which Undo would take back in their regions
        self._place.visible = True
        table = slicer.util.findChild(widget, "SegmentsTableView")
        table.setHideSegments([MASK_SEGMENT])  # to draw in that one is not meant
        widget.setupViewObservations()
        widget.installKeyboardShortcuts()
        widget.setActiveEffectByName("Paint")

    def hide(self) -> None:
        """Put the tools away; what was drawn stays in the segmentation."""
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
        # Which segmentation, which CT and where one may draw is settled by the review.
        widget.segmentationNodeSelectorVisible = False
        widget.sourceVolumeNodeSelectorVisible = False
        widget.switchToSegmentationsButtonVisible = False
        widget.addRemoveSegmentButtonsVisible = False
        widget.maskingSectionVisible = False
        widget.specifyGeometryButtonVisible = False
        widget.show3DButtonVisible = False
        widget.autoShowSourceVolumeNode = False  # it would replace what the views show, and their zoom
        widget.maximumNumberOfUndoStates = 10
        self._place.layout().insertWidget(0, widget)
        return widget
