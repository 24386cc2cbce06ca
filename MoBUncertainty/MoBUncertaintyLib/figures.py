"""The picture of a prediction: three planes through the most doubtful region, as a radiologist looks at them.

Patient's right is on the left, anterior and superior are up; all panels have one scale. Arrays are (z, y, x) in LPS, so
that index axes run to the left, to posterior and to superior, whatever the axes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from MoBUncertaintyLib.appearance import (
    BRIGHTEST_ENTROPY,
    LARGEST_VARIANCE,
    REGION_COLOUR,
    brightest_variance,
    readable,
)
from MoBUncertaintyLib.doubt import components, voxel_doubt
from MoBUncertaintyLib.region_settings import MEASURE_NAMES, Measure, RegionSettings
from MoBUncertaintyLib.regions import Regions

if TYPE_CHECKING:
    from MoBUncertaintyLib.card import Label
    from MoBUncertaintyLib.prediction import Prediction

CT_RANGE = (-160.0, 240.0)  # HU, black and white: the window of the abdomen (400 wide, level 40)
HOUNSFIELD_BELOW = -100.0  # without voxels below this (air, fat) an image is no CT and is shown by its own range

_MARGIN_MM, _SMALLEST_VIEW_MM, _SCALE_BAR_MM = 20.0, 100.0, 20.0
_INK, _QUIET, _PAPER = "white", "0.65", "black"


@dataclass(frozen=True)
class _Plane:
    """How a plane is cut out of an LPS volume. The letters stand at the panel's left, right, top and bottom."""

    name: str
    normal: int  # axis of the array that runs through the panel
    letters: str
    upwards: bool  # rows of the array run up the panel


_PLANES = (
    _Plane("axial", 0, "RLAP", False),
    _Plane("coronal", 1, "RLSI", True),
    _Plane("sagittal", 2, "APSI", True),
)


@dataclass(frozen=True)
class _View:
    """What is drawn: the surroundings of interest, arrays (z, y, x) in LPS.

    Attributes:
        spacing: mm.
        focus: The voxel the planes go through.
        middle: Centre of the panels, in voxels (voxel n reaches from n to n + 1).
        width: Of the panels, mm.
    """

    ct: np.ndarray
    segmentation: np.ndarray
    doubt: np.ndarray
    regions: np.ndarray
    spacing: np.ndarray
    focus: np.ndarray
    middle: np.ndarray
    width: float

    def section(self, volume: np.ndarray, plane: _Plane) -> np.ndarray:
        """The plane's voxels."""
        return volume.take(self.focus[plane.normal], axis=plane.normal)

    def in_plane(self, values: np.ndarray, plane: _Plane) -> np.ndarray:
        """(vertical, horizontal) of a value per axis."""
        return np.delete(values, plane.normal)


def draw_overlay(
    image: sitk.Image, prediction: Prediction, regions: Regions, labels: Sequence[Label], path: str | Path
) -> None:
    """Draw three planes through the most doubtful region: CT with outlines above, a heat map of the doubt below.

    Without a region the planes go through the organ's centre, without an organ through the volume's.

    Args:
        image: The CT.
        prediction: In the CT's geometry.
        regions: In the CT's geometry; the measure by which they were found is what the heat map shows.
        labels: Foreground classes.
        path: PNG file to write.

    Raises:
        OSError: The file cannot be written.
    """
    view = _look(image, prediction, regions)
    threshold, brightest = heat_scale(regions.settings)
    figure = Figure(figsize=(12.0, 8.6), dpi=120, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 4, width_ratios=(1, 1, 1, 0.04), left=0.03, right=0.92, top=0.89, bottom=0.07, wspace=0.04, hspace=0.05
    )
    black, white = display_range(image)
    colours = _heat_map(threshold / brightest)
    for column, plane in enumerate(_PLANES):
        upper, lower = (figure.add_subplot(grid[row, column]) for row in (0, 1))
        for axes in (upper, lower):
            _draw(axes, view, plane, view.ct, cmap="gray", vmin=black, vmax=white)
            _decorate(axes, view, plane)
        upper.set_title(plane.name, color=_QUIET, fontsize=11)
        heat = _draw(lower, view, plane, view.doubt, cmap=colours, vmin=0.0, vmax=brightest)
        for label in labels:
            for axes, width in ((upper, 1.6), (lower, 1.0)):
                _outline(axes, view, plane, view.segmentation == label.value, label.colour, width)
        for region in reversed(regions.regions):  # the first one lies on top and is the boldest
            _outline(upper, view, plane, view.regions == region.label, REGION_COLOUR, 2.0 if region.rank == 1 else 0.8)
    _colour_bar(figure, heat, grid[1, 3], threshold, MEASURE_NAMES[regions.settings.measure])
    _caption(figure, view, regions, labels)
    figure.savefig(path, facecolor=_PAPER)


def display_range(image: sitk.Image) -> tuple[float, float]:
    """Values shown as black and as white: the abdominal window for a CT, the central 99 % for other images."""
    values = sitk.GetArrayViewFromImage(image)
    if values.min() < HOUNSFIELD_BELOW:
        return CT_RANGE
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1.0)


def heat_scale(settings: RegionSettings) -> tuple[float, float]:
    """Doubt from which a heat map shows, and that of its last colour, which leaves room above the first."""
    brightest = {
        Measure.VARIANCE: brightest_variance(settings.variance_threshold),
        Measure.BERNOULLI: LARGEST_VARIANCE,
        Measure.ENTROPY: BRIGHTEST_ENTROPY,
    }[settings.measure]
    return settings.level, max(brightest, 1.5 * settings.level)


def _heat_map(start: float) -> ListedColormap:
    """Inferno, transparent up to a share of its range.

    Masked voxels would do the same, but what is interpolated between them and others vanishes, and with it doubt that
    is one voxel thick.
    """
    share = np.linspace(0, 1, 256)
    colours = colormaps["inferno"](share)
    colours[:, 3] = np.where(share < start, 0, 0.85)
    return ListedColormap(colours)


def _look(image: sitk.Image, prediction: Prediction, regions: Regions) -> _View:
    """Cut out what is of interest before anything is reoriented: the rest of a large CT is not copied."""
    organ = sitk.GetArrayViewFromImage(prediction.segmentation) > 0
    first = np.zeros_like(organ)
    if regions.regions:
        first = sitk.GetArrayViewFromImage(regions.labels) == regions.regions[0].label
    spacing = np.array(image.GetSpacing())[::-1]
    start, stop = _box(organ | first)
    width = max(float(((stop - start) * spacing).max()) + 2 * _MARGIN_MM, _SMALLEST_VIEW_MM)
    middle = (start + stop) / 2
    low = np.maximum(0, np.floor(middle - width / 2 / spacing)).astype(int)
    high = np.minimum(organ.shape, np.ceil(middle + width / 2 / spacing)).astype(int)

    def cut(part: sitk.Image) -> sitk.Image:
        box = sitk.RegionOfInterest(part, (high - low)[::-1].tolist(), low[::-1].tolist())
        return sitk.DICOMOrient(box, "LPS")

    ct, *maps = map(cut, (image, prediction.probability, prediction.variance))

    def carry(position: np.ndarray) -> np.ndarray:
        """From voxels of the image to voxels of the cut."""
        point = image.TransformContinuousIndexToPhysicalPoint((position - 0.5)[::-1].tolist())
        return np.array(ct.TransformPhysicalPointToContinuousIndex(point))[::-1] + 0.5

    focus = carry(_central_voxel(first if first.any() else organ, spacing) + 0.5)
    return _View(
        ct=sitk.GetArrayFromImage(ct),
        segmentation=sitk.GetArrayFromImage(cut(prediction.segmentation)),
        doubt=np.array(voxel_doubt(regions.settings.measure, *map(components, maps))),
        regions=sitk.GetArrayFromImage(cut(regions.labels)),
        spacing=np.array(ct.GetSpacing())[::-1],
        focus=np.floor(focus).astype(int),
        middle=carry(middle),
        width=width,
    )


def _box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last index of what is set, per axis; of the whole array if nothing is."""
    edges = []
    for axis, length in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        edges.append((used[0], used[-1] + 1) if len(used) else (0, length))
    start, stop = np.array(edges).T
    return start, stop


def _central_voxel(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The voxel of the mask that is nearest to its centroid (which can lie outside); of the array's if it is empty."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return np.array(mask.shape) // 2
    distance = (((voxels - voxels.mean(axis=0)) * spacing) ** 2).sum(axis=1)
    return voxels[np.argmin(distance)]


def _draw(axes: Axes, view: _View, plane: _Plane, volume: np.ndarray, **style: Any) -> AxesImage:
    """A section as picture, in mm from the cut's first corner."""
    height, width = view.in_plane(volume.shape * view.spacing, plane)
    return axes.imshow(
        view.section(volume, plane), extent=(0, width, height, 0), origin="upper", interpolation="bilinear", **style
    )


def _outline(axes: Axes, view: _View, plane: _Plane, mask: np.ndarray, colour: Sequence[int], width: float) -> None:
    section = view.section(mask, plane)
    if not section.any():
        return
    section = np.pad(section, 1)  # closes outlines that meet the edge of the volume
    rows, columns = (
        (np.arange(n) - 0.5) * step for n, step in zip(section.shape, view.in_plane(view.spacing, plane), strict=True)
    )
    lines = axes.contour(columns, rows, section, levels=[0.5], colors=[np.array(colour) / 255], linewidths=width)
    lines.set_path_effects([_rim(width)])


def _rim(width: float) -> withStroke:
    """A dark rim, so that lines and letters stand out from bright bone and from the heat map."""
    return withStroke(linewidth=width + 1.6, foreground=_PAPER, alpha=0.6)


def _decorate(axes: Axes, view: _View, plane: _Plane) -> None:
    """Limits, letters at the sides, marks that point to the focus, and a scale bar."""
    row, column = view.in_plane(view.middle * view.spacing, plane)
    half = view.width / 2
    axes.set_xlim(column - half, column + half)
    axes.set_ylim(*((row - half, row + half) if plane.upwards else (row + half, row - half)))
    axes.set_facecolor(_PAPER)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.25")
    style = {"transform": axes.transAxes, "color": _INK, "ha": "center", "path_effects": [_rim(1.0)]}
    for letter, x, y in zip(plane.letters, (0.03, 0.97, 0.5, 0.5), (0.5, 0.5, 0.96, 0.04), strict=True):
        axes.text(x, y, letter, fontsize=11, weight="bold", va="center", **style)
    focus_row, focus_column = view.in_plane((view.focus + 0.5) * view.spacing, plane)
    axes.axvline(focus_column, color=_INK, linewidth=0.5, alpha=0.45, linestyle=(0, (4, 6)))
    axes.axhline(focus_row, color=_INK, linewidth=0.5, alpha=0.45, linestyle=(0, (4, 6)))
    left, right = 0.95 - _SCALE_BAR_MM / view.width, 0.95
    axes.plot((left, right), (0.04, 0.04), transform=axes.transAxes, color=_INK, linewidth=2, solid_capstyle="butt")
    axes.text((left + right) / 2, 0.055, f"{_SCALE_BAR_MM / 10:.0f} cm", fontsize=8, va="bottom", **style)


def _colour_bar(figure: Figure, heat: AxesImage, place: SubplotSpec, threshold: float, measure: str) -> None:
    bar = figure.colorbar(heat, cax=figure.add_subplot(place), extend="max", extendfrac=0.03)
    bar.set_label(measure, color=_INK, fontsize=11)
    bar.ax.set_facecolor(_PAPER)
    bar.ax.axhline(threshold, color=_INK, linewidth=1)
    bar.ax.tick_params(color=_QUIET, labelcolor=_INK, labelsize=9)
    bar.outline.set_edgecolor(_QUIET)


def _caption(figure: Figure, view: _View, regions: Regions, labels: Sequence[Label]) -> None:
    """What is seen, above; what the outlines mean, below."""
    organs = [label for label in labels if (view.segmentation == label.value).any()]
    title = ", ".join(readable(label.name) for label in organs) or "nothing was segmented"
    if regions.regions:
        region = regions.regions[0]
        detail = (
            f"doubtful region {region.rank} of {len(regions.regions)}: {region.location}, "
            f"expected error {region.expected_error_mm3:,.0f} mm³"
        )
        if regions.settings.measure is Measure.VARIANCE:
            detail += f", mean variance {region.mean_variance:.3f}"
    else:
        detail = "no doubtful region"
    figure.text(0.03, 0.965, title[:1].upper() + title[1:], color=_INK, fontsize=17, weight="bold", va="center")
    figure.text(0.03, 0.93, detail, color=_INK, fontsize=12, va="center")
    outlines = [(readable(label.name), label.colour) for label in organs]
    if regions.regions:
        outlines.append(("doubtful region", REGION_COLOUR))
    lines = [Line2D([], [], color=np.array(colour) / 255, linewidth=2, label=name) for name, colour in outlines]
    figure.legend(
        handles=lines, loc="lower left", bbox_to_anchor=(0.022, 0.005), ncols=8, frameon=False, labelcolor=_INK
    )
