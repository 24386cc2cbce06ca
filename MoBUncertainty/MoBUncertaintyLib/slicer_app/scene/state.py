"""What the nodes themselves cannot say, kept with them: JSON in text nodes of the CT, saved in the scene file."""

from __future__ import annotations

import json

from MoBUncertaintyLib.files.json_input import JsonError, parse_object
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes


class SceneState:
    """Named JSON documents of one CT's results, each in a text node of its own: a slider does not rewrite the review.

    Args:
        nodes: Of the CT.
    """

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
