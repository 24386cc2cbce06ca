"""Predictions of several models and the truth, in one plane of a case (the paper's Figures 5 and 6)."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mob_training.evaluation.bases import OrganTile, case_bases
from mob_training.evaluation.case_scores import ScoredCase
from mob_training.evaluation.held_out import check_labels, held_out_cases
from mob_training.evaluation.score_files import describe_run, write_content
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows, whole
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import draw_volumes
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.pictures.planes import PLANES, Camera, Plane, central_voxel, extent
from MoBUncertaintyLib.output.pictures.region_pictures import draw_plane, font, outlines_of, png
from MoBUncertaintyLib.output.pictures.style import Colour, Scale
from MoBUncertaintyLib.regions.agreement import dice

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.regions.prediction import PredictionSettings

COLUMNS = ("probability of foreground", "predictive variance")
TRUTH, PREDICTED = (70, 235, 110), (255, 255, 255)
OF_BASES = ((230, 159, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""Colours of bases, again from the first after the last; fit for the colour-blind (Okabe and Ito)."""
SURE = 0.05
"""Probability from which the map of it shows; bases are shown where it is as far from 1, too."""

_MARGIN_MM = 15.0  # about the organ
_SIDE, _GAP, _NAMES, _HEAD, _FOOT = 300, 8, 190, 64, 40  # pixels


@dataclass(frozen=True)
class Row:
    """The name of a model, which of that name it is, its Dice in the whole case, and its pictures."""

    name: str
    seed: str
    dice: float
    pictures: Sequence[Image.Image]


@dataclass(frozen=True)
class View:
    """Where and how all rows show a case: a camera, the place of its plane in `PLANES`, and what values look like."""

    camera: Camera
    plane: int
    scale: Scale

    @classmethod
    def of(cls, case: ScoredCase, image: sitk.Image, plane: int) -> View:
        """Look at the worst place of a case, and at the organ around it."""
        organ = (case.truth > 0) | (case.prediction.segmentation > 0)
        low, high = extent(image, bounding_box(shadows(organ)) if organ.any() else whole(organ.shape))
        voxel = worst_place(case, image, PLANES[plane])[::-1].tolist()
        focus = np.array(image.TransformIndexToPhysicalPoint(voxel))
        width = float((high - low).max()) + 2 * _MARGIN_MM
        camera = Camera(image, focus, (low + high) / 2, width, _SIDE)
        return cls(camera, plane, Scale.of(image, RegionSettings()))

    def outlined(self, truth: np.ndarray, labels: np.ndarray) -> Image.Image:
        """Draw the outlines of two label maps."""
        box, camera = self.camera.box, self.camera
        drawn = outlines_of(truth[box], camera, lambda _: TRUTH, 1.6)
        drawn += outlines_of(labels[box], camera, lambda _: PREDICTED, 1.6)
        return draw_plane(camera, self.plane, self.scale, drawn)

    def heated(self, values: np.ndarray, threshold: float, top: float) -> Image.Image:
        """Draw values from a threshold on, as a heat map."""
        scale, box = replace(self.scale, threshold=threshold, top=top), self.camera.box
        return draw_plane(self.camera, self.plane, scale, (), self.camera.sections(values[box], box))


class Columns:
    """What a row shows beside the outlines of truth and prediction: probability and variance."""

    def titles(self) -> tuple[str, ...]:
        """Return what stands above each column."""
        return COLUMNS

    def lines(self, covariances: Sequence[CovarianceSpec]) -> dict[str, Colour]:
        """Name what is outlined, by any of the models' covariances, with its colour."""
        return {"truth": TRUTH, "prediction": PREDICTED}

    def colours(self, scale: Scale) -> str:
        """Say what the colours of heat maps mean; empty if no column has any."""
        return f"colours: probability {SURE:g} to 1, variance {' to '.join(scale.heat_ends)}"

    def draw(self, view: View, predictor: Predictor, image: sitk.Image, case: ScoredCase) -> list[Image.Image]:
        """Draw a row's columns."""
        predicted = case.prediction
        shown = [view.heated(predicted.probability.sum(axis=0), SURE, 1.0)]
        if predictor.model.card.covariance.kind is not Covariance.DETERMINISTIC:
            shown.append(view.heated(predicted.variance.max(axis=0), view.scale.threshold, view.scale.top))
        return shown


@dataclass(frozen=True)
class Samples(Columns):
    """Some segmentations drawn from the model."""

    count: int

    def titles(self) -> tuple[str, ...]:
        return tuple(f"sample {n}" for n in range(1, self.count + 1))

    def lines(self, covariances: Sequence[CovarianceSpec]) -> dict[str, Colour]:
        return {"truth": TRUTH, "sample": PREDICTED}

    def colours(self, scale: Scale) -> str:
        return ""

    def draw(self, view: View, predictor: Predictor, image: sitk.Image, case: ScoredCase) -> list[Image.Image]:
        return [view.outlined(case.truth, drawn) for drawn in draw_volumes(predictor, image, self.count)]


def _count_bases(covariance: CovarianceSpec) -> int:
    return {Covariance.SINGLE_BASIS: 1, Covariance.MIXTURE_OF_BASES: covariance.bases}.get(covariance.kind, 0)


def _basis_colour(number: int) -> Colour:
    return OF_BASES[(number - 1) % len(OF_BASES)]


class Bases(Columns):
    """Where the label is in doubt: the fraction of the variance that bases carry, and which basis a cell has."""

    def titles(self) -> tuple[str, ...]:
        return "variance that bases carry", "basis"

    def lines(self, covariances: Sequence[CovarianceSpec]) -> dict[str, Colour]:
        most = min(max(map(_count_bases, covariances)), len(OF_BASES))
        return super().lines(covariances) | {f"basis {n}": _basis_colour(n) for n in range(1, most + 1)}

    def colours(self, scale: Scale) -> str:
        return "colours: 0 to 100 % of the variance"

    def draw(self, view: View, predictor: Predictor, image: sitk.Image, case: ScoredCase) -> list[Image.Image]:
        bases = case_bases(OrganTile.of(predictor, image, case.truth))
        if bases is None:
            return []
        probability = case.prediction.probability.sum(axis=0)
        doubtful = np.minimum(probability, 1 - probability) > SURE
        share, chosen = (bases.in_image(values) * doubtful for values in (bases.share, bases.chosen))
        cells = outlines_of(chosen[view.camera.box], view.camera, _basis_colour, 1.6)
        return [view.heated(share, 1e-3, 1.0), draw_plane(view.camera, view.plane, view.scale, cells)]


def draw_case(
    dataset: Path,
    case: str,
    models: Sequence[Path],
    plane: str = "axial",
    columns: Columns | None = None,
    settings: PredictionSettings | None = None,
) -> Image.Image:
    """Draw a row for each model: outlines of truth and prediction, and the columns. Default: probability and variance.

    All rows show the plane in which the first model has most wrong voxels; without any, that with most of the organ.

    Raises:
        SettingsError: There is no such held-out case or plane, or a model does not know the data set's labels.
    """
    names, columns = [one.name for one in PLANES], columns or Columns()
    if plane not in names:
        raise SettingsError(f"There is no plane {plane!r}; choose {', '.join(names)}.")
    files = {name: paths for name, *paths in held_out_cases(Path(dataset))}
    if case not in files:
        some = ", ".join(list(files)[:5]) + (" and more" if len(files) > 5 else "")
        raise SettingsError(f"{dataset} has no held-out case {case!r}; choose one of its {len(files)}: {some}.")
    image, truth = read_image(files[case][0]).image, read_volume(files[case][1])
    view, rows, covariances = None, [], []
    for path in models:
        model = loaded(path)
        covariances.append(model.card.covariance)
        check_labels(Path(dataset), model.card.labels)
        predictor = Predictor(model, settings)
        scored = ScoredCase.of(predictor.predict(image), truth)
        view = view or View.of(scored, image, names.index(plane))
        described, predicted = describe_run(model, Path(dataset)), scored.prediction
        pictures = [view.outlined(scored.truth, predicted.segmentation)]
        pictures += columns.draw(view, predictor, image, scored)
        overlaps = [dice(predicted.segmentation == one.value, scored.truth == one.value) for one in predicted.labels]
        seed = model.path.name if described["seed"] is None else f"seed {described['seed']}"
        rows.append(Row(described["model"], seed, float(np.mean(overlaps)), pictures))
    assert view is not None
    title = f"{case}, {PLANES[view.plane].title(view.camera.focus)}; grey: {view.scale.window}"
    titles = ("truth and prediction", *columns.titles())
    return _sheet(rows, title, titles, columns.lines(covariances), columns.colours(view.scale))


def write_picture(picture: Image.Image, path: Path) -> Path:
    """Write a picture as PNG.

    Raises:
        OutputError: It cannot be written.
    """
    write_content(png(picture), path)
    return path


def worst_place(case: ScoredCase, image: sitk.Image, plane: Plane) -> np.ndarray:
    """Find the middle (z, y, x) of the errors in the slice with most of them; without any, of the organ."""
    wrong = case.prediction.segmentation != case.truth
    shown = wrong if wrong.any() else case.truth > 0
    if not shown.any():
        return np.array(shown.shape) // 2
    along = np.reshape(image.GetDirection(), (3, 3))[plane.normal]
    slices = np.moveaxis(shown, 2 - int(np.abs(along).argmax()), 0).copy()
    counts = slices.sum(axis=(1, 2))
    slices[np.arange(len(slices)) != counts.argmax()] = False
    return central_voxel(np.moveaxis(slices, 0, 2 - int(np.abs(along).argmax())), case.prediction.grid.spacing)


def _sheet(
    rows: Sequence[Row], title: str, titles: Sequence[str], lines: Mapping[str, Colour], colours: str
) -> Image.Image:
    """Put the pictures of all rows on one sheet, and say what they are; a model without variance has none."""
    step, count = _SIDE + _GAP, Counter(row.name for row in rows)
    sheet = Image.new("RGB", (_NAMES + step * len(titles), _HEAD + step * len(rows) + _FOOT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_NAMES, 18), title, "black", font(15), anchor="lm")
    for column, words in enumerate(titles):
        draw.text((_NAMES + column * step + _SIDE / 2, 48), words, "black", font(14), anchor="mm")
    for number, row in enumerate(rows):
        top = _HEAD + number * step
        name = row.name if count[row.name] == 1 else f"{row.name}, {row.seed}"
        name = "\n".join([*textwrap.wrap(name, 22, break_on_hyphens=False), f"Dice {row.dice:.3f}"])
        draw.multiline_text((10, top + _SIDE / 2), name, "black", font(14), anchor="lm")
        for column in range(len(titles)):
            if column < len(row.pictures):
                sheet.paste(row.pictures[column], (_NAMES + column * step, top))
            else:
                draw.text((_NAMES + column * step + _SIDE / 2, top + _SIDE / 2), "none", "#808080", font(14), "mm")
    left, line = float(_NAMES), sheet.height - _FOOT / 2
    for words, colour in lines.items():
        draw.line((left, line, left + 24, line), fill="black", width=5)
        draw.line((left, line, left + 24, line), fill=colour, width=3)
        draw.text((left + 30, line), words, "black", font(14), anchor="lm")
        left += 30 + draw.textlength(words, font(14)) + 16
    draw.text((left, line), colours, "black", font(14), anchor="lm")
    return sheet
