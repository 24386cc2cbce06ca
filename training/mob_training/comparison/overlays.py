"""Predictions of several models and the truth, in one slice of a case (the paper's Figures 5 and 6)."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mob_training.evaluation.case_scores import ScoredCase
from mob_training.evaluation.held_out import check_labels, held_out_cases
from mob_training.evaluation.metrics import dice
from mob_training.evaluation.naming import describe_run
from MoBUncertaintyLib.errors import OutputError, SettingsError
from MoBUncertaintyLib.files.publishing import absolute, write_file
from MoBUncertaintyLib.geometry import bounding_box, shadows
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import draw_volumes
from MoBUncertaintyLib.inference.predictor import Predictor, predict
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.output.pictures.planes import PLANES, Plane
from MoBUncertaintyLib.output.pictures.style import CT_RANGE, brightest_variance
from MoBUncertaintyLib.prediction import PredictionSettings
from MoBUncertaintyLib.regions.settings import RegionSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("truth and prediction", "errors", "probability of foreground", "predictive variance")
ERRORS = {1: ("missed", "#d55e00"), 2: ("too much", "#56b4e9"), 3: ("another class", "#cc79a7")}
"""What is wrong at a voxel: foreground is called background, background foreground, or one class another."""

_TRUTH, _PREDICTED = (70 / 255, 235 / 255, 110 / 255), (1.0, 1.0, 1.0)
_MARGIN_MM = 6.0  # about the organ
_PANEL = 2.5  # width of a panel, inches
_BARS_MM = (50, 20, 10, 5, 2)


@dataclass(frozen=True)
class Section:
    """What is drawn of one model: one slice, rows from top to bottom, columns from left to right.

    Attributes:
        title: Which model.
        dice: Of the whole case.
        truth, labels: Label maps (rows, columns).
        probability: Of any foreground, the same shape.
        variance: Maximum over the foreground classes, the same shape; None: the model has no covariance, and what would
            be drawn is where its tiles disagree.
        samples: Label maps drawn from the model, the same shape; if any, they take the place of the maps.
    """

    title: str
    dice: float
    truth: np.ndarray
    labels: np.ndarray
    probability: np.ndarray
    variance: np.ndarray | None
    samples: tuple[np.ndarray, ...] = ()

    @property
    def errors(self) -> np.ndarray:
        """Keys of `ERRORS`, 0 where the label is right."""
        true, predicted = self.truth > 0, self.labels > 0
        wrong = self.truth != self.labels
        return np.select([wrong & ~predicted, wrong & ~true, wrong], list(ERRORS), 0)


@dataclass(frozen=True)
class Slice:
    """Where the sections lie, and the image there.

    Attributes:
        plane: Its orientation.
        image: Rows from top to bottom, columns from left to right.
        spacing: mm, of rows and columns.
        title: Says where it is.
        window: Values shown as black and as white.
        window_title: Names them.
    """

    plane: Plane
    image: np.ndarray
    spacing: np.ndarray
    title: str
    window: tuple[float, float]
    window_title: str


def draw_case(
    dataset: Path,
    case: str,
    models: Sequence[Path],
    output: Path,
    plane: str = "axial",
    settings: PredictionSettings | None = None,
    samples: int = 0,
) -> Path:
    """Draw a row for each model: outlines of truth and prediction, errors, probability and variance; or samples.

    All rows show the slice in which the first model has most wrong voxels; without any, that with most of the organ.

    Args:
        dataset: Raw nnU-Net data set with held-out cases.
        case: Name of one of them.
        models: Model folders, zips, or training folders of nnU-Net.
        output: PNG to write.
        plane: `axial`, `coronal` or `sagittal`.
        settings: How to predict.
        samples: Draw so many segmentations from each model instead of the maps.

    Returns:
        `output`.

    Raises:
        SettingsError: There is no such case or plane, or a model does not know the data set's labels.
        OutputError: The picture cannot be written.
    """
    view = _plane(plane)
    files = {name: paths for name, *paths in held_out_cases(Path(dataset))}
    if case not in files:
        some = ", ".join(list(files)[:5]) + (" and more" if len(files) > 5 else "")
        raise SettingsError(f"{dataset} has no held-out case {case!r}; choose one of its {len(files)}: {some}.")
    image, truth = read_image(files[case][0]).image, read_volume(files[case][1])
    index, sections, names, channel = None, [], [], ""
    for path in models:
        with load_model(path) as model:
            check_labels(Path(dataset), model.card.labels)
            scored = _predicted(model, image, truth, settings)
            drawn = draw_volumes(Predictor(model, settings), image, samples) if samples else []
            channel = channel or str(next(iter(model.dataset["channel_names"].values())))
            names.append(_names(model, Path(dataset)))
            sampled = model.card.covariance.kind is not Covariance.DETERMINISTIC
        index = worst_slice(scored, view) if index is None else index
        turned = [_oriented(each, image) for each in drawn]
        shown = tuple(_cut(each, view, index) for each in turned)
        section = replace(_section(scored, view, index), samples=shown)
        sections.append(section if sampled else replace(section, variance=None))
    sections = [replace(one, title=title) for one, title in zip(sections, _titles(names), strict=True)]
    where = _slice(image, view, index, case, channel)
    figure, kind = draw_sections(sections, where), Path(output).suffix[1:] or "png"
    try:
        write_file(absolute(output), lambda partial: figure.savefig(partial, dpi=150, format=kind))
    except (OSError, ValueError) as error:
        raise OutputError(f"{output} cannot be written: {error}.") from error
    return Path(output)


def worst_slice(case: ScoredCase, plane: Plane) -> int:
    """Find the slice along the plane's normal with most wrong voxels; without any, with most of the organ.

    Args:
        case: Arrays (z, y, x) in LPS.
        plane: Its orientation.
    """
    wrong = case.prediction.segmentation != case.truth
    counted = wrong if wrong.any() else case.truth > 0
    axis = _normal(plane)
    return int(counted.sum(axis=tuple({0, 1, 2} - {axis})).argmax())


def window(image: sitk.Image, channel: str) -> tuple[tuple[float, float], str]:
    """Choose the values shown as black and as white, and name them.

    Args:
        image: All of it.
        channel: nnU-Net's name of what it shows; `CT` means Hounsfield units.
    """
    if channel.casefold() == "ct":
        return CT_RANGE, f"abdominal window, {CT_RANGE[0]:g} to {CT_RANGE[1]:g} HU".replace("-", "−")
    low, high = (float(value) for value in np.percentile(sitk.GetArrayViewFromImage(image), (0.5, 99.5)))
    return (low, max(high, low + 1e-6)), "window of the central 99 % of the values"


def draw_sections(sections: Sequence[Section], where: Slice) -> Figure:
    """Draw a row for each section, cropped to the foreground of all of them plus a margin.

    Args:
        sections: Of the models.
        where: The slice they share.
    """
    organ = np.any([(one.truth > 0) | (one.labels > 0) for one in sections], axis=0)
    left, right, top, bottom = view_mm(organ, where.spacing)
    drawn = len(sections[0].samples)
    titles = (COLUMNS[0], *(f"sample {n}" for n in range(1, drawn + 1))) if drawn else COLUMNS
    figure, grid = _panels(len(sections), len(titles), (bottom - top) / (right - left))
    height, width = where.image.shape * where.spacing
    place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    grey = {**place, "interpolation": "bilinear", "cmap": "gray", "vmin": where.window[0], "vmax": where.window[1]}
    # The default scale for all models, so that colours can be compared.
    spread = ScalarMappable(Normalize(0, brightest_variance(RegionSettings().variance_threshold)), "inferno")
    for row, section in zip(grid, sections, strict=True):
        outlines = row[0]
        outlines.imshow(where.image, **grey)
        _outline(outlines, section.truth, where.spacing, _TRUTH)
        _outline(outlines, section.labels, where.spacing, _PREDICTED)
        for axes, sample in zip(row[1:], section.samples, strict=False):
            axes.imshow(where.image, **grey)
            _outline(axes, section.truth, where.spacing, _TRUTH)
            _outline(axes, sample, where.spacing, _PREDICTED)
        for axes in row:
            axes.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top), facecolor="black")
        name = "\n".join(textwrap.wrap(section.title, 26, break_on_hyphens=False))
        outlines.set_ylabel(f"{name}\nDice {section.dice:.3f}", fontsize=9)
        if drawn:
            continue
        _, errors, probability, variance = row
        errors.imshow(where.image, **grey)
        errors.imshow(np.ma.masked_equal(section.errors, 0), cmap=_ERROR_COLOURS, vmin=1, vmax=len(ERRORS), **place)
        likely = probability.imshow(section.probability, cmap="cividis", vmin=0, vmax=1, **place)
        if section.variance is None:
            variance.text(0.5, 0.5, "none", transform=variance.transAxes, color="0.6", ha="center", va="center")
        else:
            variance.imshow(section.variance, cmap=spread.cmap, norm=spread.norm, **place)
        for axes in (probability, variance):
            _outline(axes, section.truth, where.spacing, _TRUTH)
            _outline(axes, section.labels, where.spacing, _PREDICTED)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    _orient(grid[0, 0], where.plane, right - left)
    if not drawn:
        _colour_bar(figure, likely, grid[-1, 2])
        _colour_bar(figure, spread, grid[-1, 3], extend="max")
    _legend(figure, sections, grid[-1, 0])
    figure.suptitle(f"{where.title}; {where.window_title}", fontsize=11, y=1 - 0.12 / figure.get_figheight(), va="top")
    return figure


def view_mm(organ: np.ndarray, spacing: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of the view in mm from the slice's first corner, with a limited aspect ratio.

    Args:
        organ: Mask (rows, columns); if it is empty, all is shown.
        spacing: mm, of rows and columns.
    """
    box = bounding_box(shadows(organ), np.ceil(_MARGIN_MM / spacing)) if organ.any() else map(slice, organ.shape)
    low, high = np.array([(part.start or 0, part.stop) for part in box]).T * spacing
    half = (high - low) / 2
    half = np.maximum(half, half.max() / 1.6)
    (top, left), (bottom, right) = (low + high) / 2 - half, (low + high) / 2 + half
    return float(left), float(right), float(top), float(bottom)


_ERROR_COLOURS = ListedColormap([colour for _, colour in ERRORS.values()])


def _plane(name: str) -> Plane:
    known = {plane.name: plane for plane in PLANES}
    if name not in known:
        raise SettingsError(f"There is no plane {name!r}; choose {', '.join(known)}.")
    return known[name]


def _predicted(model: Model, image: sitk.Image, truth: sitk.Image, settings: PredictionSettings | None) -> ScoredCase:
    """Predict and pair with the truth, arrays (z, y, x) in LPS."""
    prediction = predict(image, model, settings)
    case = ScoredCase.of(prediction, truth)

    turned = replace(
        prediction,
        segmentation=_oriented(prediction.segmentation, image),
        probability=np.stack([_oriented(each, image) for each in prediction.probability]),
        variance=np.stack([_oriented(each, image) for each in prediction.variance]),
        grid=grid_of(_lps(truth)),
    )
    return ScoredCase(turned, _oriented(case.truth, image))


def _oriented(array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Turn an array on an image's grid to LPS."""
    stored = sitk.GetImageFromArray(array)
    stored.CopyInformation(image)
    return sitk.GetArrayFromImage(_lps(stored))


def _lps(image: sitk.Image) -> sitk.Image:
    """Reorient an image to LPS."""
    return sitk.DICOMOrient(image, "LPS")


def _normal(plane: Plane) -> int:
    """Return the axis of an LPS array (z, y, x) that is normal to a plane."""
    return 2 - int(np.argmax(np.abs(np.cross(plane.right, plane.down))))


def _cut(volume: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """Take a slice of an LPS array (z, y, x), with rows and columns as the plane is viewed.

    In all planes columns run along the array's axis; rows run along it or against it.
    """
    section = volume.take(index, axis=_normal(plane))
    return section[::-1] if sum(plane.down) < 0 else section


def _section(case: ScoredCase, plane: Plane, index: int) -> Section:
    found, truth = case.prediction, case.truth
    overlaps = [dice(found.segmentation == label.value, truth == label.value) for label in found.labels]
    maps = (truth, found.segmentation, found.probability.sum(axis=0), found.variance.max(axis=0))
    return Section("", float(np.mean(overlaps)), *(_cut(volume, plane, index) for volume in maps))


def _slice(image: sitk.Image, plane: Plane, index: int, case: str, channel: str) -> Slice:
    oriented, axis = _lps(image), _normal(plane)
    middle = [(n - 1) / 2 for n in oriented.GetSize()]
    middle[2 - axis] = float(index)
    right, anterior, superior = np.multiply(oriented.TransformContinuousIndexToPhysicalPoint(middle), (-1, -1, 1))
    place = {0: f"S {superior:.1f}", 1: f"A {anterior:.1f}", 2: f"R {right:.1f}"}[axis].replace("-", "−")
    return Slice(
        plane,
        _cut(sitk.GetArrayViewFromImage(oriented), plane, index),
        np.delete(np.array(oriented.GetSpacing())[::-1], axis),
        f"{case}, {plane.name} slice at {place} mm",
        *window(image, channel),
    )


def _names(model: Model, dataset: Path) -> tuple[str, str]:
    """Return a row's name, and a longer one that distinguishes it from others of that name."""
    described = describe_run(model, dataset)
    name, seed = described["model"], described["seed"]
    return name, f"{name}, {model.path.name if seed is None else f'seed {seed}'}"


def _titles(names: Sequence[tuple[str, str]]) -> list[str]:
    count = Counter(short for short, _ in names)
    return [short if count[short] == 1 else full for short, full in names]


def _outline(axes: Axes, labels: np.ndarray, spacing: np.ndarray, colour: tuple[float, ...]) -> None:
    """Outline each class, with a dark rim that makes it visible on any background."""
    rows, columns = ((np.arange(-1, n + 1) + 0.5) * step for n, step in zip(labels.shape, spacing, strict=True))
    for value in np.unique(labels[labels > 0]):
        mask = np.pad(labels == value, 1)  # closes what meets the edge
        lines = axes.contour(columns, rows, mask, levels=[0.5], colors=[colour], linewidths=1.1)
        lines.set_path_effects([withStroke(linewidth=2.2, foreground="black", alpha=0.5)])


def _orient(axes: Axes, plane: Plane, width: float) -> None:
    """Draw the letters of the patient's sides, and a scale bar."""
    style: dict[str, Any] = {
        "color": "white",
        "ha": "center",
        "path_effects": [withStroke(linewidth=2, foreground="black", alpha=0.7)],
    }
    for letter, x, y in zip(plane.letters, (0.04, 0.96, 0.5, 0.5), (0.5, 0.5, 0.95, 0.05), strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, fontsize=9, weight="bold", va="center", **style)
    length = next((length for length in _BARS_MM if length <= width / 3), _BARS_MM[-1])
    left, right, height = 0.95 - length / width, 0.95, 0.04
    axes.plot(
        (left, right), (height, height), transform=axes.transAxes, color="white", linewidth=2, solid_capstyle="butt"
    )
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate(f"{length} mm", ((left + right) / 2, height), (0, 3), fontsize=7, **place, **style)


def _panels(rows: int, columns: int, ratio: float) -> tuple[Figure, np.ndarray]:
    """Make a figure with a grid of equal panels, whose height is their width times a ratio; sizes in inches."""
    wide, tall = _PANEL, _PANEL * ratio
    before, after, above, below, gap = 0.75, 0.1, 0.62, 0.62, 0.05
    width = before + columns * wide + (columns - 1) * gap + after
    height = above + rows * tall + (rows - 1) * gap + below
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    place = {"left": before / width, "right": 1 - after / width, "top": 1 - above / height, "bottom": below / height}
    place |= {"wspace": gap / wide, "hspace": gap / tall}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=place)


def _colour_bar(figure: Figure, drawn: ScalarMappable, above: Axes, **style: Any) -> None:
    """Draw a horizontal colour bar below a panel."""
    box, inch = above.get_position(), 1 / figure.get_figheight()
    place = (box.x0 + 0.06 * box.width, box.y0 - 0.28 * inch, 0.88 * box.width, 0.13 * inch)
    bar = figure.colorbar(drawn, cax=figure.add_axes(place), orientation="horizontal", **style)
    bar.ax.tick_params(labelsize=8)


def _legend(figure: Figure, sections: Sequence[Section], above: Axes) -> None:
    """Explain the colours below the panels without a bar."""
    rim = [withStroke(linewidth=3, foreground="0.4")]
    entries: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=name, path_effects=rim)
        for name, colour in (("truth", _TRUTH), ("sample" if sections[0].samples else "prediction", _PREDICTED))
    ]
    there = set(np.concatenate([np.unique(one.errors) for one in sections if not one.samples] or [[]]).tolist())
    entries += [Patch(color=colour, label=name) for key, (name, colour) in ERRORS.items() if key in there]
    box = above.get_position()
    figure.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(box.x0, box.y0 - 0.12 / figure.get_figheight()),
        borderaxespad=0,
        borderpad=0,
        ncols=len(entries),
        columnspacing=1.0,
        handlelength=1.5,
        handletextpad=0.5,
        frameon=False,
        fontsize=9,
    )
