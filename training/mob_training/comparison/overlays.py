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
from mob_training.evaluation.naming import describe_run
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows
from MoBUncertaintyLib.base.publishing import absolute, write_file
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import draw_volumes
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.pictures.planes import PLANES, Plane
from MoBUncertaintyLib.output.pictures.scales import Scale
from MoBUncertaintyLib.regions.agreement import dice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from MoBUncertaintyLib.regions.prediction import PredictionSettings

COLUMNS = ("truth and prediction", "errors", "probability of foreground", "predictive variance")
ERRORS = {1: ("missed", "#d55e00"), 2: ("too much", "#56b4e9"), 3: ("another class", "#cc79a7")}
"""What is wrong at a voxel: foreground is called background, background foreground, or one class another."""

_TRUTH, _PREDICTED = (70 / 255, 235 / 255, 110 / 255), (1.0, 1.0, 1.0)
_MARGIN_MM = 6.0  # about the organ
_PANEL = 2.6  # width of a panel, inches
_BARS_MM = (50, 20, 10, 5, 2)


@dataclass(frozen=True)
class Section:
    """What is drawn of one model: one slice, rows from top to bottom, columns from left to right.

    Attributes:
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
    """Where the sections lie, and the image there: rows from top to bottom, columns from left to right.

    The spacing is that of rows and columns, mm; the scale, that of all models, so that they can be compared.
    """

    plane: Plane
    image: np.ndarray
    spacing: np.ndarray
    title: str
    scale: Scale


def draw_case(
    dataset: Path,
    case: str,
    models: Sequence[Path],
    plane: str = "axial",
    samples: int = 0,
    settings: PredictionSettings | None = None,
) -> Figure:
    """Draw a row for each model: outlines of truth and prediction, errors, probability and variance; or samples.

    All rows show the slice in which the first model has most wrong voxels; without any, that with most of the organ.

    Raises:
        SettingsError: There is no such held-out case or plane, or a model does not know the data set's labels.
    """
    view = next((one for one in PLANES if one.name == plane), None)
    if view is None:
        raise SettingsError(f"There is no plane {plane!r}; choose {', '.join(one.name for one in PLANES)}.")
    files = {name: paths for name, *paths in held_out_cases(Path(dataset))}
    if case not in files:
        some = ", ".join(list(files)[:5]) + (" and more" if len(files) > 5 else "")
        raise SettingsError(f"{dataset} has no held-out case {case!r}; choose one of its {len(files)}: {some}.")
    image, truth = read_image(files[case][0]).image, read_volume(files[case][1])
    index, sections, names = None, [], []
    for path in models:
        model = load_model(path)
        check_labels(Path(dataset), model.card.labels)
        predictor = Predictor(model, settings)
        scored = ScoredCase.of(predictor.predict(image), truth)
        drawn = draw_volumes(predictor, image, samples) if samples else []
        described = describe_run(model, Path(dataset))
        index = worst_slice(scored, image, view) if index is None else index
        predicted = scored.prediction
        overlaps = [dice(predicted.segmentation == one.value, scored.truth == one.value) for one in predicted.labels]
        maps = [scored.truth, predicted.segmentation, predicted.probability.sum(axis=0), *drawn]
        maps += [predicted.variance.max(axis=0)] if described["covariance"] != Covariance.DETERMINISTIC else []
        true, labels, probability, *rest = (_cut(_lps(array, image), view, index) for array in maps)
        shown, variance = tuple(rest[: len(drawn)]), rest[len(drawn) :]
        name, seed = described["model"], described["seed"]
        names.append((name, f"{name}, {model.path.name if seed is None else f'seed {seed}'}"))
        mean = float(np.mean(overlaps))
        sections.append(Section("", mean, true, labels, probability, variance[0] if variance else None, shown))
    count = Counter(short for short, _ in names)
    titles = [short if count[short] == 1 else full for short, full in names]
    sections = [replace(one, title=title) for one, title in zip(sections, titles, strict=True)]
    return draw_sections(sections, _slice(image, view, index, case))


def write_picture(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that its name says.

    Raises:
        OutputError: It cannot be written.
    """
    kind = Path(path).suffix[1:] or "png"
    try:
        write_file(absolute(path), lambda partial: figure.savefig(partial, dpi=150, format=kind))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}.") from error
    return Path(path)


def worst_slice(case: ScoredCase, image: sitk.Image, plane: Plane) -> int:
    """Find the slice of the reoriented image with most wrong voxels; without any, with most of the organ."""
    wrong = case.prediction.segmentation != case.truth
    counted = _lps((wrong if wrong.any() else case.truth > 0).astype(np.uint8), image)
    return int(counted.sum(axis=tuple({0, 1, 2} - {2 - plane.normal})).argmax())


def draw_sections(sections: Sequence[Section], where: Slice) -> Figure:
    """Draw a row for each section, cropped to the foreground of all of them plus a margin."""
    organ = np.any([(one.truth > 0) | (one.labels > 0) for one in sections], axis=0)
    left, right, top, bottom = view_mm(organ, where.spacing)
    drawn = len(sections[0].samples)
    titles = (COLUMNS[0], *(f"sample {n}" for n in range(1, drawn + 1))) if drawn else COLUMNS
    tall = _PANEL * (bottom - top) / (right - left)
    figure = Figure(figsize=(1 + _PANEL * len(titles), 1.2 + tall * len(sections)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(sections), len(titles), squeeze=False)
    height, width = where.image.shape * where.spacing
    place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    grey = {**place, "interpolation": "bilinear", "cmap": "gray", "vmin": where.scale.black, "vmax": where.scale.white}
    spread = ScalarMappable(Normalize(0, where.scale.top), "inferno")
    likely = ScalarMappable(Normalize(0, 1), "cividis")
    for row, section in zip(grid, sections, strict=True):
        for axes in row:
            axes.set(xticks=[], yticks=[], facecolor="black")
        shown: list[np.ndarray | None] = [section.labels, *section.samples]
        if not drawn:
            _, errors, probability, variance = row
            errors.imshow(where.image, **grey)
            errors.imshow(np.ma.masked_equal(section.errors, 0), cmap=_ERROR_COLOURS, vmin=1, vmax=len(ERRORS), **place)
            probability.imshow(section.probability, cmap=likely.cmap, norm=likely.norm, **place)
            if section.variance is None:
                variance.text(0.5, 0.5, "none", transform=variance.transAxes, color="0.6", ha="center", va="center")
            else:
                variance.imshow(section.variance, cmap=spread.cmap, norm=spread.norm, **place)
            shown += [None, section.labels, section.labels]
        for axes, labels in zip(row, shown, strict=True):
            if not axes.images and not axes.texts:
                axes.imshow(where.image, **grey)
            if labels is not None:
                _outline(axes, section.truth, where.spacing, _TRUTH)
                _outline(axes, labels, where.spacing, _PREDICTED)
            axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        name = "\n".join(textwrap.wrap(section.title, 26, break_on_hyphens=False))
        row[0].set_ylabel(f"{name}\nDice {section.dice:.3f}", fontsize=9)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    _orient(grid[0, 0], where.plane, right - left)
    if not drawn:
        bar: dict[str, Any] = {"orientation": "horizontal", "fraction": 0.05, "shrink": 0.9, "aspect": 15}
        figure.colorbar(likely, ax=list(grid[:, 2]), **bar)
        figure.colorbar(spread, ax=list(grid[:, 3]), extend="max", **bar)
    _legend(figure, sections)
    figure.suptitle(f"{where.title}; grey: {where.scale.window}", fontsize=11)
    return figure


def view_mm(organ: np.ndarray, spacing: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of the view in mm from the slice's first corner, with a limited aspect ratio.

    Without an organ, a mask (rows, columns), all is shown.
    """
    box = bounding_box(shadows(organ), np.ceil(_MARGIN_MM / spacing)) if organ.any() else map(slice, organ.shape)
    low, high = np.array([(part.start or 0, part.stop) for part in box]).T * spacing
    half = (high - low) / 2
    half = np.maximum(half, half.max() / 1.6)
    (top, left), (bottom, right) = (low + high) / 2 - half, (low + high) / 2 + half
    return float(left), float(right), float(top), float(bottom)


_ERROR_COLOURS = ListedColormap([colour for _, colour in ERRORS.values()])


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


def _legend(figure: Figure, sections: Sequence[Section]) -> None:
    """Explain the colours without a bar."""
    rim = [withStroke(linewidth=3, foreground="0.4")]
    entries: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=name, path_effects=rim)
        for name, colour in (("truth", _TRUTH), ("sample" if sections[0].samples else "prediction", _PREDICTED))
    ]
    there = {int(key) for one in sections if not one.samples for key in np.unique(one.errors)}
    entries += [Patch(color=colour, label=name) for key, (name, colour) in ERRORS.items() if key in there]
    figure.legend(handles=entries, loc="outside lower left", ncols=len(entries), frameon=False, fontsize=9)


def _lps(array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Turn an array on an image's grid to LPS."""
    stored = sitk.GetImageFromArray(array)
    stored.CopyInformation(image)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(stored, "LPS"))


def _cut(volume: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """Take a slice of an LPS array (z, y, x), with rows and columns as the plane is viewed.

    In all planes columns run along the array's axis; rows run along it or against it.
    """
    section = volume.take(index, axis=2 - plane.normal)
    return section[::-1] if sum(plane.down) < 0 else section


def _slice(image: sitk.Image, plane: Plane, index: int, case: str) -> Slice:
    oriented = sitk.DICOMOrient(image, "LPS")
    middle = [(n - 1) / 2 for n in oriented.GetSize()]
    middle[plane.normal] = float(index)
    title = plane.title(np.array(oriented.TransformContinuousIndexToPhysicalPoint(middle)))
    voxels, spacing = sitk.GetArrayViewFromImage(oriented), np.delete(oriented.GetSpacing(), plane.normal)[::-1]
    return Slice(plane, _cut(voxels, plane, index), spacing, f"{case}, {title}", Scale.of(image, RegionSettings()))
