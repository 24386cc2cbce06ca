"""Predictions of several models and the truth, in one plane of a case (the paper's Figures 5 and 6)."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mob_training.evaluation.case_scores import ScoredCase
from mob_training.evaluation.held_out import check_labels, held_out_cases
from mob_training.evaluation.score_files import describe_run, write_content
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows, whole
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import draw_volumes
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.pictures.planes import PLANES, Camera, Plane, central_voxel, extent
from MoBUncertaintyLib.output.pictures.region_pictures import draw_plane, font, outlines_of, png
from MoBUncertaintyLib.output.pictures.style import Scale
from MoBUncertaintyLib.regions.agreement import dice

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.regions.prediction import PredictionSettings

COLUMNS = ("truth and prediction", "probability of foreground", "predictive variance")
TRUTH, PREDICTED = (70, 235, 110), (255, 255, 255)
SURE = 0.05
"""Probability from which the map of it shows."""

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


def draw_case(
    dataset: Path,
    case: str,
    models: Sequence[Path],
    plane: str = "axial",
    samples: int = 0,
    settings: PredictionSettings | None = None,
) -> Image.Image:
    """Draw a row for each model: outlines of truth and prediction, probability and variance; or so many samples.

    All rows show the plane in which the first model has most wrong voxels; without any, that with most of the organ.

    Raises:
        SettingsError: There is no such held-out case or plane, or a model does not know the data set's labels.
    """
    names = [one.name for one in PLANES]
    if plane not in names:
        raise SettingsError(f"There is no plane {plane!r}; choose {', '.join(names)}.")
    files = {name: paths for name, *paths in held_out_cases(Path(dataset))}
    if case not in files:
        some = ", ".join(list(files)[:5]) + (" and more" if len(files) > 5 else "")
        raise SettingsError(f"{dataset} has no held-out case {case!r}; choose one of its {len(files)}: {some}.")
    image, truth = read_image(files[case][0]).image, read_volume(files[case][1])
    view, rows = None, []
    for path in models:
        model = loaded(path)
        check_labels(Path(dataset), model.card.labels)
        predictor = Predictor(model, settings)
        scored = ScoredCase.of(predictor.predict(image), truth)
        view = view or View.of(scored, image, names.index(plane))
        described, predicted = describe_run(model, Path(dataset)), scored.prediction
        shown = [view.outlined(scored.truth, predicted.segmentation)]
        if samples:
            shown += [view.outlined(scored.truth, drawn) for drawn in draw_volumes(predictor, image, samples)]
        else:
            shown.append(view.heated(predicted.probability.sum(axis=0), SURE, 1.0))
            if described["covariance"] != Covariance.DETERMINISTIC:
                shown.append(view.heated(predicted.variance.max(axis=0), view.scale.threshold, view.scale.top))
        overlaps = [dice(predicted.segmentation == one.value, scored.truth == one.value) for one in predicted.labels]
        seed = model.path.name if described["seed"] is None else f"seed {described['seed']}"
        rows.append(Row(described["model"], seed, float(np.mean(overlaps)), shown))
    assert view is not None
    title = f"{case}, {PLANES[view.plane].title(view.camera.focus)}; grey: {view.scale.window}"
    titles = (COLUMNS[0], *(f"sample {n}" for n in range(1, samples + 1))) if samples else COLUMNS
    colours = f"colours: probability {SURE:g} to 1, variance {' to '.join(view.scale.heat_ends)}"
    return _sheet(rows, title, titles, "" if samples else colours)


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


def _sheet(rows: Sequence[Row], title: str, titles: Sequence[str], colours: str) -> Image.Image:
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
    for words, colour in (("truth", TRUTH), ("prediction" if colours else "sample", PREDICTED)):
        draw.line((left, line, left + 30, line), fill="black", width=5)
        draw.line((left, line, left + 30, line), fill=colour, width=3)
        draw.text((left + 38, line), words, "black", font(14), anchor="lm")
        left += 38 + draw.textlength(words, font(14)) + 26
    draw.text((left, line), colours, "black", font(14), anchor="lm")
    return sheet
