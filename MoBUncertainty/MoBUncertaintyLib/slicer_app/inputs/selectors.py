"""A selector of a volume for each further input channel of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.inputs.channels import channelVolume, setChannelVolume
from MoBUncertaintyLib.slicer_app.widgets.section import shown


class ChannelSelectors:
    """A selector of a volume for each input channel of the model beyond the first, which is the CT's.

    Args:
        place: The widget that holds them; hidden where there are none.
        onChanged: Called when another volume is chosen.

    Attributes:
        selectors: By the channel's name.
    """

    def __init__(self, place, onChanged: Callable[[], None]) -> None:
        self._place = place
        self._onChanged = onChanged
        self._form = None
        self._ct = None
        self.selectors: dict[str, Any] = {}
        place.visible = False

    def offer(self, ct, channels: Sequence[str], enabled: bool) -> None:
        """Show the volumes that a CT refers to; without a CT, or with one channel, nothing."""
        self._ct = None  # what is shown now is no choice of the user's
        names = list(channels[1:]) if ct else []
        if names != list(self.selectors):
            self._make(names)
        for name, selector in self.selectors.items():
            selector.setCurrentNode(channelVolume(ct, name))
            selector.enabled = enabled
        self._place.visible = bool(names)
        self._ct = ct

    def _make(self, names: Sequence[str]) -> None:
        if self._form is not None:
            self._form.setParent(None)
            self._form.deleteLater()
        self._form, self.selectors = qt.QWidget(), {}
        layout = qt.QFormLayout(self._form)
        layout.setContentsMargins(0, 0, 0, 0)
        for name in names:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode"]
            selector.noneEnabled, selector.addEnabled, selector.removeEnabled = True, False, False
            selector.noneDisplay = _("Select a volume")
            tip = _("The volume for the model's input {name}; resampled to the first image if need be.")
            selector.toolTip = tip.format(name=name)
            selector.setMRMLScene(slicer.mrmlScene)
            selector.currentNodeIDChanged.connect(shown(partial(self._onChosen, name)))
            layout.addRow(f"{name}:", selector)
            self.selectors[name] = selector
        self._place.layout().addWidget(self._form)

    def _onChosen(self, name: str, *_args) -> None:
        if self._ct is not None:
            setChannelVolume(self._ct, name, self.selectors[name].currentNode())
            self._onChanged()
