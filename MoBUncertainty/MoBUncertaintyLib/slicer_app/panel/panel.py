"""The panel: its sections, connected with the logic and with each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import qt
import slicer
import slicer.util

from MoBUncertaintyLib.slicer_app.panel.computer import ComputerSection
from MoBUncertaintyLib.slicer_app.panel.export import ExportSection
from MoBUncertaintyLib.slicer_app.panel.inputs import InputsSection
from MoBUncertaintyLib.slicer_app.panel.jobs import Jobs, whyNotApply
from MoBUncertaintyLib.slicer_app.panel.overlay import OverlaySection
from MoBUncertaintyLib.slicer_app.panel.review import ReviewSection
from MoBUncertaintyLib.slicer_app.panel.run import RunSection, predictionSettings
from MoBUncertaintyLib.slicer_app.panel.shown import Removals, ShownResults
from MoBUncertaintyLib.slicer_app.panel.state import Folding, State
from MoBUncertaintyLib.slicer_app.samples import loadSampleData
from MoBUncertaintyLib.slicer_app.scene.legend import LegendFollower
from MoBUncertaintyLib.slicer_app.sessions import mapVolumes
from MoBUncertaintyLib.slicer_app.widgets.dialogs import AfterLoading, isLoading
from MoBUncertaintyLib.slicer_app.widgets.section import PANEL_WIDTH, revealLater, revealUnfolded, shown
from MoBUncertaintyLib.slicer_app.worklist.dock import WorklistDock


class Panel:
    """What the user sees of the module: its widgets are a function of `state` and of the results that are shown.

    Args:
        ui: The widgets of the .ui file.
        logic: The module's logic.
        ensureReady: Installs what is missing for an export in some formats or, without any, for a segmentation, after
            asking, and calls its second argument once the user has agreed; raises a UserError where that cannot be.
    """

    def __init__(self, ui, logic, ensureReady: Callable[..., None]) -> None:
        self.ui = ui
        self.logic = logic
        self.parameters = None
        self.ensureReady = ensureReady
        self._legends = LegendFollower(slicer.mrmlScene, lambda follow: qt.QTimer.singleShot(0, shown(follow)))
        self.afterLoading = AfterLoading(shown)
        self.jobs, self.shown, self.removals = Jobs(self), ShownResults(self), Removals(self)
        logic.sessions.onBegun = self._onBegun
        self.inputs = InputsSection(ui, logic.modelList, self.onDemo, self.onModel, lambda: logic.client.another())
        self.run = RunSection(ui, self.jobs.apply, self.jobs.cancel)
        self.computer = ComputerSection(ui, logic.computer, self.update)
        self.overlay = OverlaySection(ui)
        self.review = ReviewSection(ui, self.update)
        self.export = ExportSection(ui, self.jobs.export, self.jobs.cancel, self.update)
        self._folding = Folding(ui, revealLater)
        self.worklist: WorklistDock | None = None  # once it was opened
        ui.worklistButton.clicked.connect(shown(self._onWorklist))
        revealUnfolded(part for part in vars(ui).values() if hasattr(part, "collapsed"))
        for selector in (ui.mapSelector, ui.labelSelector):
            selector.currentIndexChanged.connect(self._hideMaps)  # another map may be a new volume
        self.update()

    @property
    def state(self) -> State:
        """What the panel is doing."""
        return self.jobs.state

    @property
    def settings(self) -> dict[str, object]:
        """The fields of `prediction.PredictionSettings` that are chosen."""
        return predictionSettings(self.parameters, self.inputs.models, self.inputs.labels)

    def fixWidth(self, widget) -> None:
        """Make the panel as wide as its widest section needs: if it grew later, all views would move.

        Args:
            widget: The top widget of the .ui file.
        """
        sections = [part for part in vars(self.ui).values() if hasattr(part, "collapsed")]
        folded = [part for part in sections if part.collapsed]
        for part in sections:
            part.visible, part.collapsed = True, False
        # Slicer's module panel adds the length of a horizontal scroll bar; a vertical one takes some of that.
        bar = widget.style().pixelMetric(qt.QStyle.PM_ScrollBarExtent)
        more = 2 * bar + widget.style().pixelMetric(qt.QStyle.PM_ScrollBarSliderMin)
        widget.minimumWidth = max(PANEL_WIDTH, widget.minimumSizeHint.width() + bar) - more
        for part in folded:
            part.collapsed = True
        self.update()  # hides again what cannot be used

    def setParameters(self, parameters) -> None:
        """Show other parameters, or (the scene is about to be closed) none."""
        self.parameters = parameters
        if parameters is None:
            self.inputs.chooseOwn()
            self.shown.show(None)
            for section in (self.run, self.export):
                section.work.say("")
            self.update()
            return
        selector = self.inputs.selector
        selector.choose(parameters.model or selector.name)  # a new scene keeps what was chosen in the last
        self.onModel()
        self.refresh()

    def refresh(self, *_args) -> None:
        """Show the results that go with the parameters, if there are any."""
        if self.parameters is None:
            return
        if isLoading():
            self.afterLoading.later(self.refresh)
        else:
            self._hideMaps()
            if not self.jobs.work:
                self.shown.show(self.parameters.ct)
        self.update()

    def update(self) -> None:
        """Set all widgets from the state, the parameters and the results that are shown."""
        if not self.state.busy:
            self.jobs.rest()
        self._folding.update(self.state, self.review.session)
        self.inputs.update(self.state, self.parameters)
        self.run.update(self.state, self.parameters, whyNotApply(self))
        self.review.update(self.state)
        self.export.update(self.state)
        if self.worklist:
            self.worklist.follow()

    def leave(self) -> None:
        """Keep what is being typed or drawn, and stop what is computed: the scene is about to be closed."""
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            if self.worklist:
                stack.callback(self.worklist.leave)
            stack.callback(self.review.leave)
            self.shown.forget()  # the next scene has reasons of its own
            self.removals.forget()
            if self.jobs.work:
                self.jobs.cancel()

    def close(self) -> None:
        """Stop timers and observers outside the panel."""
        worklist, self.worklist = self.worklist, None
        ends = [self._legends.stop, self.shown.stop, self.afterLoading.stop, self.inputs.close, self.computer.close]
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (*([worklist.close] if worklist else ()), self.review.cleanup, *reversed(ends)):
                stack.callback(end)

    def onDemo(self) -> None:
        """Load the demo CT and select it."""
        with slicer.util.WaitCursor():
            self.parameters.ct = loadSampleData()

    def onModel(self) -> None:
        """Remember the chosen model, and offer what it can do."""
        if self.parameters and self.inputs.selector.model:
            self.parameters.model = self.inputs.selector.name
        self.update()

    def _onWorklist(self, *_args) -> None:
        if self.worklist is None:
            self.worklist = WorklistDock(self)
        self.worklist.show()

    def _onBegun(self) -> None:
        """Show results that were not asked for here, but by a script for instance."""
        if self.state is not State.RUNNING:
            self.afterLoading.later(self.refresh)

    def _hideMaps(self, *_args) -> None:
        self.inputs.hide(mapVolumes())
