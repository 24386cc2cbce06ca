"""What the nodes themselves cannot say: JSON in text nodes of the CT, saved in the scene file.

Among it is what the reader has chosen to see of a CT's results, and how.
"""

from __future__ import annotations

import json
from typing import Any

from MoBUncertaintyLib.base.json_input import JsonError, parse_object
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.slicer_app.scene.maps import OF_VARIANCE, MapKind, mapStyle
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes

USUAL_THRESHOLD = RegionSettings().variance_threshold
DEFAULTS = {
    "kind": MapKind.VARIANCE,
    "label": None,
    "opacity": 0.75,
    "legend": True,
    "fill": False,
    "surface": False,
}


class SceneState:
    """Named JSON documents of one CT's results, each in a text node: a slider does not rewrite the review."""

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes

    def get(self, name: str) -> dict | None:
        """Read the document of that name; None if there is none, or if somebody has made it unreadable."""
        node = self._nodes.node(f"state.{name}")
        try:
            return parse_object(node.GetText().encode()) if node else None
        except (JsonError, UnicodeEncodeError):
            return None

    def set(self, name: str, data: dict):
        """Keep a document under that name.

        Raises:
            TypeError, ValueError: `data` is not plain JSON (not a number, infinite).
        """
        text = json.dumps(data, allow_nan=False)
        node = self._nodes.getOrCreate(f"state.{name}", "vtkMRMLTextNode", f"uncertainty {name}")
        node.SetForceCreateStorageNode(node.CreateStorageNodeNever)  # the text lies in the scene file itself
        node.SetText(text)


class OverlayRecord:
    """The reader's choices; threshold and window are kept for each kind of map."""

    def __init__(self, state: SceneState):
        self._state = state

    @property
    def kinds(self) -> list[MapKind]:
        """The maps that the model has."""
        without = self._choices.get("varianceThreshold", USUAL_THRESHOLD) is None
        return [kind for kind in MapKind if not (without and kind in OF_VARIANCE)]

    @property
    def values(self) -> dict[str, Any]:
        """What `DEFAULTS` names, and `threshold` and `window` of the kind."""
        choices = self._choices
        values = DEFAULTS | {name: choices[name] for name in DEFAULTS if name in choices}
        values["kind"] = self.available(values["kind"])
        style = mapStyle(values["kind"], choices.get("varianceThreshold") or USUAL_THRESHOLD)
        ofKind = choices.get("kinds", {}).get(values["kind"], {})
        values["threshold"] = ofKind.get("threshold", style.threshold)
        values["window"] = tuple(ofKind.get("window", style.window))
        return values

    def available(self, kind: MapKind | str) -> MapKind:
        """Return a kind, or the entropy in place of one that the model does not have."""
        return MapKind(kind) if kind in self.kinds else MapKind.ENTROPY

    def remember(self, **changes: Any):
        """Keep choices; threshold and window belong to the kind that is given, or else shown."""
        choices = self._choices
        kind = changes.get("kind", self.values["kind"])
        kinds = choices.get("kinds", {})
        ofKind = {name: changes.pop(name) for name in ("threshold", "window") if name in changes}
        kinds = kinds | {kind: kinds.get(kind, {}) | ofKind}
        self._state.set("overlay", choices | changes | {"kinds": kinds})

    def setVarianceThreshold(self, threshold: float | None):
        """Note from which on the model's variance counts; None: it has no variance, and none is shown.

        What the reader has set suits the variance of another model, so it is forgotten with that.
        """
        choices = self._choices
        if choices.get("varianceThreshold", USUAL_THRESHOLD) != threshold:
            kinds = {kind: style for kind, style in choices.get("kinds", {}).items() if kind not in OF_VARIANCE}
            self._state.set("overlay", choices | {"kinds": kinds, "varianceThreshold": threshold})

    @property
    def _choices(self) -> dict[str, Any]:
        return self._state.get("overlay") or {}
