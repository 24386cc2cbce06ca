"""The maps of a prediction as volumes, and the one of them that is shown over the image."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from MoBUncertaintyLib.base.geometry import Box, hull, occupied, shape_of, within
from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, MAX_VARIANCE, Measure
from MoBUncertaintyLib.output.pictures.style import BRIGHTEST_ENTROPY, NEGLIGIBLE, brightest_variance
from MoBUncertaintyLib.regions.measure import voxel_uncertainty
from MoBUncertaintyLib.review.view import ReviewView
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, ijkToRas

SLAB = 8  # slices of which a map is derived in one step: a few milliseconds
MAP_ROLES = ("probability", "variance")
LABEL_ATTRIBUTE = "MoBUncertainty.label"  # of a volume: the label's value

# Every fifth of matplotlib's 256 Inferno colours; straight lines between them are true to 2/255.
_INFERNO = (
    "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e61136e69166e71196e781c6d"
    "801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711f"
    "f47918f78212f98b0bfa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
)


class MapKind(StrEnum):
    """What may be shown over the image."""

    VARIANCE = "variance"
    STANDARD_DEVIATION = "standard deviation"
    PROBABILITY = "probability"
    ENTROPY = "entropy"


OF_PROBABILITY = (MapKind.PROBABILITY, MapKind.ENTROPY)
OF_VARIANCE = (MapKind.VARIANCE, MapKind.STANDARD_DEVIATION)
"""What each kind is derived from."""


@dataclass(frozen=True)
class MapStyle:
    """How a kind of map is shown at first.

    The windows are the same for every case of a model, so that colours can be compared. Those of variance and standard
    deviation end at `brightest_variance`, that of the entropy at `BRIGHTEST_ENTROPY`.
    """

    window: tuple[float, float]  # the values drawn in the first and the last colour
    threshold: float  # below this nothing is drawn; that of the variance is what `regions` calls doubtful
    largest: float  # value that the map can have at all (entropy: with three labels)


def mapStyle(kind: MapKind, varianceThreshold: float = DEFAULT_THRESHOLD[Measure.VARIANCE]) -> MapStyle:
    """How a kind of map is shown at first."""
    variance = MapStyle((0.0, brightest_variance(varianceThreshold)), varianceThreshold, MAX_VARIANCE)
    return {
        MapKind.VARIANCE: variance,
        MapKind.STANDARD_DEVIATION: MapStyle((0.0, variance.window[1] ** 0.5), variance.threshold**0.5, 0.5),
        MapKind.PROBABILITY: MapStyle((0.0, 1.0), 0.05, 1.0),
        MapKind.ENTROPY: MapStyle((0.0, BRIGHTEST_ENTROPY), DEFAULT_THRESHOLD[Measure.ENTROPY], 1.4),
    }[kind]


class UncertaintyMaps:
    """Probability and variance of each label as volumes, as predicted, and the one map that is shown of them.

    The map shown is derived from them and from the clicks of `review`, if there is one; of these only what they change
    is written anew.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes
        self._shown: tuple[tuple, Box] | None = None  # what the volume of the map holds: its key, and where
        self.review: ReviewView | None = None

    def set(self, probability: dict[int, np.ndarray], variance: dict[int, np.ndarray]):
        """Put the maps into volumes as float32; volumes of labels that are not among them are removed.

        Arrays that can be become the volumes' voxels, without a copy: they must not be changed afterwards.
        """
        for role, title, arrays in (
            ("probability", _("probability"), probability),
            ("variance", _("predictive variance"), variance),
        ):
            volumes = self.volumes(role)
            for gone in set(volumes) - set(arrays):
                self._nodes.scene.RemoveNode(volumes[gone])
            for label, array in arrays.items():
                node = volumes.get(label) or self._nodes.add(role, "vtkMRMLScalarVolumeNode", title)
                node.SetAttribute(LABEL_ATTRIBUTE, str(label))
                _fill(node, array, ijkToRas(self._nodes.ctNode))

    def volumes(self, role: str) -> dict[int, object]:
        """Return the volumes of `probability` or `variance`, by label."""
        volumes = {node.GetAttribute(LABEL_ATTRIBUTE): node for node in self._nodes.nodes(role)}
        return {label: volumes[str(label)] for label in sorted(int(label) for label in volumes if label)}

    def arrays(self, role: str) -> dict[int, np.ndarray]:
        """Return the voxels of `probability` or `variance` by label, not copied; all have the image's shape."""
        return {label: slicer.util.arrayFromVolume(node) for label, node in self.volumes(role).items()}

    def derive(self, kind: MapKind, label: int | None) -> Iterator[None]:
        """Put a map as it is now into its volume, in the last of many steps; returns the volume, or None without maps.

        It is that of a label or, without one or its maps, of all: the largest variance and standard deviation of any
        label, the probability of any label, the entropy of all classes together.
        """
        state = None
        while state != (state := (self._key(kind, label), self._reach)):  # which may change meanwhile
            (key, reach), labels = state, self._labels(label)
            if not labels:
                return None
            probability, variance = ([self.arrays(role)[value] for value in labels] for role in MAP_ROLES)
            boxes = list(reach)
            for array in probability:
                boxes.append(occupied(array, NEGLIGIBLE))
                yield
            box = hull(boxes)
            voxels = np.zeros(shape_of(box), np.float32)
            for start in range(0, len(voxels), SLAB):
                slab = np.s_[start : start + SLAB]
                maps = probability if kind in OF_PROBABILITY else variance
                voxels[slab] = _derived(kind, [array[box][slab] for array in maps])
                yield
        if self._nodes.ctNode.GetScene() is None:
            return None
        for changed in reach:
            voxels[within(changed, box)] = self._current(kind, label, changed)
        matrix = ijkToRas(self._nodes.ctNode)
        matrix[:3, 3] += matrix[:3, :3] @ [axis.start for axis in reversed(box)]
        node = self._nodes.getOrCreate("map", "vtkMRMLScalarVolumeNode", _("uncertainty map"))
        _fill(node, voxels, matrix)
        self._shown = key, box
        return node

    def holds(self, kind: MapKind, label: int | None) -> bool:
        """Whether the volume of the map holds that map, so that `update` can change it."""
        return self._shown is not None and self._shown[0] == self._key(kind, label)

    def update(self, kind: MapKind, label: int | None, box: Box) -> bool:
        """Write what clicks have changed in a box into the map; costs as much as the box.

        Returns whether the volume holds that map, and the box lies in it.
        """
        node = self._nodes.node("map")
        if node is None or not self.holds(kind, label) or hull((box, self._shown[1])) != self._shown[1]:
            return False
        slicer.util.arrayFromVolume(node)[within(box, self._shown[1])] = self._current(kind, label, box)
        slicer.util.arrayFromVolumeModified(node)
        return True

    def _labels(self, label: int | None) -> list[int]:
        """List a label or, where it has no maps, all that have."""
        probability = self.volumes("probability")
        labels = [value for value in self.volumes("variance") if value in probability]
        return [label] if label in labels else labels

    def _key(self, kind: MapKind, label: int | None) -> tuple:
        """Tell a map from all others, and from those of other voxels."""
        volumes = [*self.volumes("probability").values(), *self.volumes("variance").values()]
        times = (node.GetImageData().GetPointData().GetScalars().GetMTime() for node in volumes)
        return (kind, *self._labels(label), *times)

    @property
    def _reach(self) -> list[Box]:
        """Where clicks have changed the maps: one box, or none."""
        return [self.review.changed_box] if self.review and all(shape_of(self.review.changed_box)) else []

    def _current(self, kind: MapKind, label: int | None, box: Box) -> np.ndarray:
        """Derive a map as it is now in a box."""
        probability, variance = self.review.maps_in(box)
        maps, chosen = probability if kind in OF_PROBABILITY else variance, self._labels(label)
        labels = [each.value for each in self.review.prediction.labels]
        return _derived(kind, [array for value, array in zip(labels, maps, strict=True) if value in chosen])


def drawInInferno(nodes: CtNodes, node, window: tuple[float, float], threshold: float):
    """Draw a volume in Inferno, from the threshold on."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_inferno(nodes).GetID())
    display.SetWindowLevelMinMax(*window)
    display.SetThreshold(threshold, max(10.0, threshold))  # 10: above all that a map can hold
    display.SetAutoThreshold(False)
    display.SetApplyThreshold(True)


def _inferno(nodes: CtNodes):
    """Make a colour table of our own, saved with the scene: the Slicer core has no Inferno."""
    node = nodes.getOrCreate("inferno", "vtkMRMLColorTableNode", "Inferno")
    if node.GetNumberOfColors() != 256:  # new, or its file was lost
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        for index, (red, green, blue) in enumerate(infernoColours()):
            node.SetColor(index, f"{index / 255:.3f}", red, green, blue)
    return node


def _fill(node, array: np.ndarray, matrix: np.ndarray):
    """Put an array (z, y, x) into a volume as float32; it shares the array's memory if possible."""
    voxels = np.ascontiguousarray(array, np.float32)
    if not voxels.flags.writeable:  # a file's, perhaps
        voxels = voxels.copy()
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=False))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    # Before the voxels: automatic levels would take a histogram of them.
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetAutoThreshold(False)
    node.SetAndObserveImageData(image)


def mapName(kind: MapKind) -> str:
    """As the user reads it."""
    return {
        MapKind.VARIANCE: _("Variance"),
        MapKind.STANDARD_DEVIATION: _("Standard deviation"),
        MapKind.PROBABILITY: _("Probability"),
        MapKind.ENTROPY: _("Entropy (nats)"),
    }[kind]


def infernoColours() -> np.ndarray:
    """Matplotlib's Inferno to 2/255: (256, 3), 0 to 1."""
    stops = np.frombuffer(bytes.fromhex(_INFERNO), np.uint8).reshape(-1, 3) / 255
    return np.stack([np.interp(np.arange(256), np.arange(0, 256, 5), channel) for channel in stops.T], axis=1)


def _derived(kind: MapKind, maps: list[np.ndarray]) -> np.ndarray:
    """Derive a map, made of each label's; only where there is anything."""
    negligible = NEGLIGIBLE if kind in OF_PROBABILITY else 0
    where = functools.reduce(np.logical_or, [array > negligible for array in maps])
    derived, values = np.zeros(where.shape, np.float32), [array[where] for array in maps]
    if kind == MapKind.PROBABILITY:
        derived[where] = np.minimum(sum(values), 1)
    elif kind == MapKind.ENTROPY:
        derived[where] = voxel_uncertainty(Measure.ENTROPY, values, [])
    else:
        variance = voxel_uncertainty(Measure.VARIANCE, [], values)
        derived[where] = variance if kind == MapKind.VARIANCE else np.sqrt(variance)
    return derived
