"""What the nodes themselves cannot say, kept with them: JSON in one text node per CT, saved in the scene file."""

from __future__ import annotations

import json

from MoBUncertaintyLib.app.nodes import CtNodes

ROLE = "state"


class SceneState:
    """Named JSON documents of one CT's results.

    Args:
        nodes: Of the CT.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes

    def get(self, name: str) -> dict | None:
        """The document of that name, or None; None as well where somebody has made the text unreadable."""
        return self._documents().get(name)

    def set(self, name: str, data: dict):
        """Keep a document under that name.

        Raises:
            TypeError, ValueError: `data` is not plain JSON (not a number, infinite).
        """
        text = json.dumps(self._documents() | {name: data}, allow_nan=False)
        node = self._nodes.getOrCreate(ROLE, "vtkMRMLTextNode", "uncertainty state")
        node.SetForceCreateStorageNode(node.CreateStorageNodeNever)  # the text lies in the scene file itself
        node.SetText(text)

    def _documents(self) -> dict[str, dict]:
        node = self._nodes.node(ROLE)
        try:
            documents = json.loads(node.GetText() or "{}") if node else {}
        except ValueError:
            return {}
        return documents if isinstance(documents, dict) else {}
