"""The maps of a prediction as volumes, and the one of them that is shown over the CT."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.base.geometry import Box, hull, intersection, occupied, shape_of, within
from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, MAX_VARIANCE, Measure
from MoBUncertaintyLib.output.pictures.style import BRIGHTEST_ENTROPY, NEGLIGIBLE, brightest_variance
from MoBUncertaintyLib.regions.measure import voxel_uncertainty
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, ijkToRas

MAPS_KEPT = 3  # derived ones, each of up to the size of the CT
SLAB = 8  # slices of which a map is derived in one step: a few milliseconds
LABEL_ATTRIBUTE = "MoBUncertainty.label"  # of a volume: the label's value

# Every fifth of matplotlib's 256 Inferno colours; straight lines between them are true to 2/255.
_INFERNO = (
    "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e61136e69166e71196e781c6d"
    "801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711f"
    "f47918f78212f98b0bfa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
)


class MapKind(StrEnum):
    """What may be shown over the CT."""

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

    Attributes:
        window: The values drawn in the first and the last colour.
        threshold: Below this nothing is drawn; that of the variance is what `regions` calls doubtful.
        largest: Value that the map can have at all (entropy: with three labels).
    """

    window: tuple[float, float]
    threshold: float
    largest: float


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
    """Probability and variance of each label as volumes, and what is derived from them.

    The volumes of probability and variance stay as predicted. What is shown after clicks is a derived map, in which
    only what a click changes is written anew.

    Attributes:
        review: Whose clicks have changed the maps; None: they are as predicted.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes
        self._derived: dict[tuple, tuple] = {}  # by kind and what it is derived from: its box and vtkImageData
        self._shown: tuple | None = None  # what the derived volume holds: its key and box, where clicks are written in
        self.review: Review | None = None

    def set(self, probability: dict[int, np.ndarray], variance: dict[int, np.ndarray]):
        """Put the maps into volumes as float32; volumes of labels that are not among them are removed.

        Arrays that can be become the volumes' voxels, without a copy: they must not be changed afterwards.
        """
        self._derived.clear()
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
                _fill(node, _image(array), ijkToRas(self._nodes.ctNode))

    def volumes(self, role: str) -> dict[int, object]:
        """Return the volumes of `probability` or `variance`, by label."""
        volumes = {node.GetAttribute(LABEL_ATTRIBUTE): node for node in self._nodes.nodes(role)}
        return {label: volumes[str(label)] for label in sorted(int(label) for label in volumes if label)}

    def arrays(self, role: str) -> dict[int, np.ndarray]:
        """Return the voxels of `probability` or `variance` by label, not copied; all have the CT's shape."""
        return {label: slicer.util.arrayFromVolume(node) for label, node in self.volumes(role).items()}

    def volumeFor(self, kind: MapKind, label: int | None):
        """Return the volume that shows a kind of map, derived if necessary, or None without maps.

        Args:
            label: Its value; None: all, which means the maximum variance and standard deviation of any label,
                the probability of any label, and the entropy of all classes together.
        """
        sources = self._sources(kind, label)
        if not self._isDerived(kind, sources):
            return sources[0] if sources else None
        node, key = self._nodes.node("map"), _key(kind, sources)
        if node is not None and self._isChanged and self._shown is not None and self._shown[0] == key:
            return node
        for _step in self.deriveInSteps(kind, label):
            pass
        box, image = self._derived[key]
        self._shown = None
        if self._isChanged:
            del self._derived[key]  # it is as predicted no more
            box, image = self._withChanges(kind, label, box, image)
            self._shown = key, box
        matrix = ijkToRas(self._nodes.ctNode)
        matrix[:3, 3] += matrix[:3, :3] @ [axis.start for axis in reversed(box)]
        node = self._nodes.getOrCreate("map", "vtkMRMLScalarVolumeNode", _("uncertainty map"))
        _fill(node, image, matrix)
        return node

    def update(self, kind: MapKind, label: int | None, box: Box):
        """Bring what is shown of a box up to date; costs as much as the box, but for the first click.

        Returns:
            The volume that shows the map, as `volumeFor`.
        """
        node, key = self._nodes.node("map"), _key(kind, self._sources(kind, label))
        if node is None or self._shown is None or self._shown[0] != key:
            return self.volumeFor(kind, label)
        shown = self._shown[1]
        if intersection(box, shown) != box:  # a click beyond it
            self._shown = None
            return self.volumeFor(kind, label)
        slicer.util.arrayFromVolume(node)[within(box, shown)] = self._changed(kind, label, box)
        slicer.util.arrayFromVolumeModified(node)
        return node

    def deriveInSteps(self, kind: MapKind, label: int | None, always: bool = False) -> Iterator[None]:
        """Get ready for `volumeFor`, in each step one label or some slices; nothing in the scene changes.

        The last few maps derived are kept.
        """
        sources = self._sources(kind, label)
        if not sources or not (always or self._isDerived(kind, sources)):
            return
        key = _key(kind, sources)
        if always and self._shown is not None and self._shown[0] == key:
            return
        if key not in self._derived:
            arrays, probability = (
                [slicer.util.arrayFromVolume(node) for node in nodes]
                for nodes in (sources, self._sources(MapKind.PROBABILITY, label))
            )
            boxes = []
            for array in probability:
                boxes.append(occupied(array, NEGLIGIBLE))
                yield
            box = hull(boxes)
            derived = np.zeros(shape_of(box), np.float32)
            for start in range(0, len(derived), SLAB):
                slab = np.s_[start : start + SLAB]
                derived[slab] = _derivedArray(kind, [array[box][slab] for array in arrays])
                yield
            self._derived[key] = box, _image(derived)
        self._derived[key] = self._derived.pop(key)  # as the last one
        while len(self._derived) > MAPS_KEPT:
            del self._derived[next(iter(self._derived))]

    def _sources(self, kind: MapKind, label: int | None) -> list:
        """List the volumes that a map is derived from, or the map's own; none without maps."""
        probability, variance = self.volumes("probability"), self.volumes("variance")
        labels = [label] if label is not None else list(variance)
        if not set(labels) <= set(variance) & set(probability):
            return []
        return [(probability if kind in OF_PROBABILITY else variance)[value] for value in labels]

    @property
    def _isChanged(self) -> bool:
        return self.review is not None and all(shape_of(self.review.changed_box))

    def _isDerived(self, kind: MapKind, sources: list) -> bool:
        several = len(sources) > 1 or kind not in (MapKind.VARIANCE, MapKind.PROBABILITY)
        return bool(sources) and (several or self._isChanged)

    def _withChanges(self, kind: MapKind, label: int | None, box: Box, image) -> tuple[Box, object]:
        """Write into a map as predicted what clicks have changed; where they reach beyond it, into a larger one."""
        changed = self.review.changed_box
        union = hull((box, changed))
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape_of(box))
        if union != box:
            predicted, voxels = voxels, np.zeros(shape_of(union), np.float32)
            voxels[within(box, union)] = predicted
            image = _image(voxels)
        voxels[within(changed, union)] = self._changed(kind, label, changed)
        return union, image

    def _changed(self, kind: MapKind, label: int | None, box: Box) -> np.ndarray:
        """Derive a map as it is now in a box."""
        probability, variance = self.review.maps_in(box)
        maps = probability if kind in OF_PROBABILITY else variance
        labels = list(self.volumes("variance"))
        return _derivedArray(kind, [maps[index] for index, value in enumerate(labels) if label in (None, value)])


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


def _fill(node, image, matrix: np.ndarray):
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


def _image(array: np.ndarray):
    """Make a vtkImageData of an array (z, y, x) as float32, which shares its memory if possible."""
    voxels = np.ascontiguousarray(array, np.float32)
    if not voxels.flags.writeable:  # a file's, perhaps
        voxels = voxels.copy()
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=False))
    return image


def _key(kind: MapKind, sources: list) -> tuple:
    """Under which a derived map is kept; another one once a map has other voxels."""
    return (kind, *(node.GetImageData().GetPointData().GetScalars().GetMTime() for node in sources))


def _derivedArray(kind: MapKind, arrays: list[np.ndarray]) -> np.ndarray:
    """Derive a map, made of each label's; only where there is anything."""
    negligible = NEGLIGIBLE if kind in OF_PROBABILITY else 0
    where = functools.reduce(np.logical_or, [array > negligible for array in arrays])
    derived = np.zeros(where.shape, np.float32)
    derived[where] = _derivedVoxels(kind, [array[where] for array in arrays])
    return derived


def _derivedVoxels(kind: MapKind, values: list[np.ndarray]) -> np.ndarray:
    if kind == MapKind.PROBABILITY:
        return np.minimum(sum(values), 1)
    if kind == MapKind.ENTROPY:
        return voxel_uncertainty(Measure.ENTROPY, values, [])
    variance = voxel_uncertainty(Measure.VARIANCE, [], values)
    return variance if kind == MapKind.VARIANCE else np.sqrt(variance)
