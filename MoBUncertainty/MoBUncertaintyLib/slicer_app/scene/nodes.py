"""The nodes made for one image: found again by their role, in one subject-hierarchy folder, under its transform.

It and what is built on it run in 3D Slicer as well as, for the tests, on the Slicer core from PyPI (`slicer-core`), and
on any scene, not just the application's. Arrays are (z, y, x), matrices map voxel indices (i, j, k) to RAS mm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np  # noqa: TC002
import slicer.util
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.geometry import largest_shift
from MoBUncertaintyLib.base.json_input import JsonError, parse_object

REFERENCE_ROLE = "MoBUncertainty.{}"  # from the image to each node made for it: a second run finds and reuses them
# And back: a copy of the image, which Slicer gives the references of the original, must not take its results.
CT_ROLE = REFERENCE_ROLE.format("ct")
ROLE_ATTRIBUTE = "MoBUncertainty.role"  # tells what a node is even when its image is gone
CHANNEL_ROLE = REFERENCE_ROLE.format("channel")  # from the image to those of a model's other input channels, by name

PLACE_TOLERANCE_MM = 0.01  # files round, a transform that was hardened and taken back does

Point = tuple[float, float, float]

LISTED = {"vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsFiducialNode"}
"""Classes of what can be looked at; only that belongs in the user's lists."""


class CtNodes:
    """The image and the nodes made for it; nothing in the scene changes before the first is made."""

    def __init__(self, ctNode):
        self.ctNode = ctNode
        self.scene = ctNode.GetScene()

    @property
    def name(self) -> str:
        return self.ctNode.GetName() or "Image"

    @property
    def _folderName(self) -> str:
        return _("{ct} with uncertainty").format(ct=self.name)

    def nodes(self, role: str) -> list:
        """All nodes of that role, in the order in which they were made."""
        role = REFERENCE_ROLE.format(role)
        nodes = [self.ctNode.GetNthNodeReference(role, n) for n in range(self.ctNode.GetNumberOfNodeReferences(role))]
        return [node for node in nodes if node and node.GetNodeReference(CT_ROLE) is self.ctNode]

    def node(self, role: str):
        """Return the first node of that role, or None."""
        return next(iter(self.nodes(role)), None)

    def getOrCreate(self, role: str, className: str, name: str):
        """Return the node of that role; make it if there is none, or if the user has removed it."""
        return self.node(role) or self.add(role, className, name)

    def add(self, role: str, className: str, name: str):
        """Make one more node of that role."""
        node = self.scene.CreateNodeByClass(className)
        node.UnRegister(None)
        used, name = {other.GetName() for other in self.all()}, f"{self.name} {name}"  # another image's may have it
        node.SetName(next(free for free in chain([name], (f"{name}_{n}" for n in count(1))) if free not in used))
        node.SetHideFromEditors(className not in LISTED)  # the hierarchy asks once, when the node is added
        selection = self.scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        placing = selection.GetActivePlaceNodeID() if selection else None
        self.scene.AddNode(node)
        if selection:  # Slicer lets the user place points into each new list of points
            selection.SetReferenceActivePlaceNodeID(placing)
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
            self._placeInFolder(node)
        node.SetAttribute(ROLE_ATTRIBUTE, role)
        node.SetNodeReferenceID(CT_ROLE, self.ctNode.GetID())
        self.ctNode.AddNodeReferenceID(REFERENCE_ROLE.format(role), node.GetID())
        self.followTransform()
        return node

    def followTransform(self):
        """Put all nodes under the transform that the image is under."""
        for node in self.all():
            if node.IsA("vtkMRMLTransformableNode"):
                node.SetAndObserveTransformNodeID(self.ctNode.GetTransformNodeID())

    def leftovers(self) -> Leftovers:
        """Note, while the image is still in the scene, what goes with it or without it."""
        hierarchy, nodes = subjectHierarchy(self.scene), self.all()
        # Slicer's Data module removes the image's item before the image: then the other nodes' items tell the folder.
        items = [hierarchy.GetItemByDataNode(node) for node in (self.ctNode, *nodes)]
        folders = [hierarchy.GetItemParent(item) for item in items if item]
        ours = [folder for folder in folders if hierarchy.GetItemName(folder) == self._folderName]
        return Leftovers(self.scene, self.ctNode, items[0], nodes, ours[0] if ours else 0)

    def all(self) -> list:
        """All nodes, whatever their role."""
        roles: list[str] = []
        self.ctNode.GetNodeReferenceRoles(roles)
        prefix = REFERENCE_ROLE.format("")
        nodes = [node for role in roles if role.startswith(prefix) for node in self.nodes(role[len(prefix) :])]
        return list({node.GetID(): node for node in nodes}.values())  # one may have two roles

    def _placeInFolder(self, node):
        hierarchy = subjectHierarchy(self.scene)
        ct, item = (
            hierarchy.GetItemByDataNode(each)
            or hierarchy.CreateItem(hierarchy.GetSceneItemID(), each)  # in Slicer's core alone
            for each in (self.ctNode, node)
        )
        hierarchy.SetItemParent(item, self._folder(hierarchy, ct))

    def _folder(self, hierarchy, ct: int) -> int:
        """Where earlier results lie, else a new folder. An image in none moves into it; one in a study stays."""
        top, parent = hierarchy.GetSceneItemID(), hierarchy.GetItemParent(ct)
        items = filter(None, map(hierarchy.GetItemByDataNode, self.all()))
        folders = [folder for folder in map(hierarchy.GetItemParent, items) if folder != top]
        if folders:
            return folders[0]
        folder = hierarchy.CreateFolderItem(parent, self._folderName)
        hierarchy.SetItemOwnerPluginName(folder, "Folder")
        if parent == top:
            hierarchy.SetItemParent(ct, folder)
        return folder


@dataclass
class Leftovers:
    """The nodes made for an image, itself, and the folder made for them (an item of the subject hierarchy; 0: none)."""

    scene: object
    ctNode: object
    ctItem: int
    nodes: list
    folder: int

    def remove(self) -> None:
        """Remove them; an image that is in the scene still leaves the folder."""
        hierarchy = subjectHierarchy(self.scene)
        for node in self.nodes:
            if node.GetScene() is not self.scene:
                continue
            item = hierarchy.GetItemByDataNode(node)
            if item:  # which the bare core would keep
                hierarchy.RemoveItem(item, False)
            self.scene.RemoveNode(node)
        children: list[int] = []
        if self.folder:
            hierarchy.GetItemChildren(self.folder, children)
        if self.ctItem in children and self.ctNode.GetScene() is self.scene:
            hierarchy.SetItemParent(self.ctItem, hierarchy.GetItemParent(self.folder))
        if self.folder and set(children) <= {self.ctItem}:
            hierarchy.RemoveItem(self.folder)


class SceneState:
    """What nodes cannot say: named JSON documents of one image's results, each in a text node, saved with the scene."""

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

        Raises `TypeError` or `ValueError` if `data` is not plain JSON (not a number, infinite).
        """
        text = json.dumps(data, allow_nan=False)
        node = self._nodes.getOrCreate(f"state.{name}", "vtkMRMLTextNode", f"uncertainty {name}")
        node.SetForceCreateStorageNode(node.CreateStorageNodeNever)  # the text lies in the scene file itself
        node.SetText(text)

    def change(self, name: str, **entries: Any):
        """Change entries of a document, which is made if there is none; errors as for `set`."""
        self.set(name, (self.get(name) or {}) | entries)


def subjectHierarchy(scene):
    """Return the scene's only vtkMRMLSubjectHierarchyNode."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def nodesByClass(scene, className: str) -> list:
    """`slicer.util.getNodesByClass` asks the application's scene, whatever scene it is given."""
    nodes = scene.GetNodesByClass(className)
    nodes.UnRegister(None)
    return [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]


def ijkToRas(volumeNode) -> np.ndarray:
    """4 x 4, without the transform that the volume may be under."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def shape(volumeNode) -> tuple[int, ...]:
    """Of its array: (z, y, x); () without voxels."""
    image = volumeNode.GetImageData()
    return tuple(reversed(image.GetDimensions())) if image else ()


def toWorld(ct, point: Point) -> Point:
    """Find where a point of an image's own coordinates (RAS mm) lies in the world, the image's transform applied."""
    world = [0.0, 0.0, 0.0]
    ct.TransformPointToWorld([float(value) for value in point], world)
    return tuple(world)


def fromWorld(ct, points: Iterable[Point]) -> list[Point]:
    """Find where points of the world (RAS mm) lie in an image's own coordinates."""
    inside = []
    for point in points:
        inside.append([0.0, 0.0, 0.0])
        ct.TransformPointFromWorld([float(value) for value in point], inside[-1])
    return list(map(tuple, inside))


def isBent(ct) -> bool:
    """Whether an image lies under a transform that bends it, as Slicer's DICOM module puts uneven slices."""
    transform = ct.GetParentTransformNode()
    return transform is not None and not transform.IsTransformToWorldLinear()


def isPlaced(volumeNode, matrix, size: Sequence[int]) -> bool:
    """Whether a volume lies where a matrix (4, 4) puts an array of that size (z, y, x), its transform left aside."""
    if not size or shape(volumeNode) != tuple(size):
        return False
    return largest_shift(ijkToRas(volumeNode), matrix, size) < PLACE_TOLERANCE_MM


def channelVolume(ct, name: str):
    """Return the volume of a channel, by its name; None where none was chosen."""
    return ct.GetNodeReference(f"{CHANNEL_ROLE}.{name}")


def setChannelVolume(ct, name: str, volume) -> None:
    """Choose the volume of a channel, or none."""
    ct.SetNodeReferenceID(f"{CHANNEL_ROLE}.{name}", volume.GetID() if volume else None)


def missingChannel(ct, names: Sequence[str]) -> str | None:
    """Return the first channel without a volume that holds voxels; None: all have one."""
    volumes = ((name, channelVolume(ct, name)) for name in names)
    return next((name for name, volume in volumes if volume is None or volume.GetImageData() is None), None)
