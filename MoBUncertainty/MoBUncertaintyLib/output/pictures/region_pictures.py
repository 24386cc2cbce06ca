"""Pictures of a doubtful region: CT, heat map, outlines, letters, cross and scale bar, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Box, intersection, shape_of, within
from MoBUncertaintyLib.output.pictures.palette import Colour, palette_beside
from MoBUncertaintyLib.output.pictures.planes import PLANES, Camera, Plane, View, central_voxel
from MoBUncertaintyLib.output.pictures.scales import Scale, heat_colours
from MoBUncertaintyLib.regions.measure import uncertainty_in, voxel_uncertainty
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.region import ReviewRegion

if TYPE_CHECKING:
    import SimpleITK as sitk

CORRECTED_COLOUR = (255, 255, 255)
"""White: in no label's colour, and light on every heat map. What is predicted has the label's own colour."""

_PIXELS = 300  # of a side
_MARGIN_MM, _SMALLEST_MM, _LARGEST_MM = 25.0, 90.0, 240.0
_BARS_MM = (50, 20, 10, 5, 2)
_GAP = 22  # pixels about the focus that the cross leaves free
_NEAR_MM = 2.5  # of a plane, that a mark is drawn on it
_BACKGROUND_MARK = (20, 20, 20)


@dataclass(frozen=True)
class Outline:
    """A line around a part of the volume.

    Attributes:
        sections: The part in each of `PLANES`, as `Camera.sections` samples a mask.
        colour: Of the line.
        width: Of the line, pixels.
        number: Written beside it, if it is not empty.
    """

    sections: Sequence[np.ndarray]
    colour: Colour
    width: float
    number: str = ""


@dataclass(frozen=True)
class Mark:
    """A dot.

    Attributes:
        place: LPS mm.
        colour: Its own; its rim is white.
    """

    place: np.ndarray
    colour: Colour


def draw_region(
    ct: sitk.Image,
    region: ReviewRegion,
    prediction: Prediction,
    corrected: np.ndarray,
    scale: Scale,
    *,
    maps: Callable[[Box], tuple[np.ndarray, np.ndarray]] | None = None,
    clicks: Sequence[Click] = (),
) -> dict[str, bytes]:
    """Draw a region: CT, heat map, outlines before and after, the region's own outline and a cross.

    Args:
        ct: The CT.
        region: What to show.
        prediction: Of the CT.
        corrected: The segmentation as it is now.
        scale: What values look like, and the measure that the heat map shows.
        maps: Copies probability and variance of a box as they are now; None: they are as predicted.
        clicks: To be marked; the planes go through the last of those that were given in the region: of a stroke,
            through its point nearest to the middle of the region.

    Returns:
        A PNG file for each of `PLANES`, by its title. The outline of `corrected` is drawn where it differs.
    """
    spacing = np.array(ct.GetSpacing())[::-1]
    middle = central_voxel(region.found.mask, spacing) + [part.start for part in region.box]
    focus = np.array(ct.TransformIndexToPhysicalPoint(middle[::-1].tolist()))
    own = [click for click in clicks if click.region_id == region.region_id]
    if own:
        points = np.array(own[-1].points_ras) * LPS_TO_RAS
        focus = points[np.linalg.norm(points - focus, axis=1).argmin()]  # a stroke may lead far away
    width = float(np.clip(region.found.region.extent_mm + 2 * _MARGIN_MM, _SMALLEST_MM, _LARGEST_MM))
    camera = Camera(ct, View.of(ct, focus, focus, width), _PIXELS)
    before, after = prediction.segmentation[camera.box], corrected[camera.box]
    colours = {label.value: label.colour for label in prediction.labels}
    region_colour = palette_beside(colours.values()).region
    outlines = [Outline(camera.sections(mask_in(camera.box, region), camera.box), region_colour, 1.6)]
    # The corrected outline below the predicted one, so that it is seen where it differs.
    for labels, colour_of in ((after, lambda _: CORRECTED_COLOUR), (before, colours.__getitem__)):
        outlines += outlines_of(labels, camera, colour_of, 1.8)
    if maps is None:
        uncertainty = uncertainty_in(camera.box, prediction, scale.measure)
    else:
        probability, variance = maps(camera.box)
        uncertainty = voxel_uncertainty(scale.measure, list(probability), list(variance))
    heat = camera.sections(uncertainty, camera.box)
    colours |= {0: _BACKGROUND_MARK}
    marks = [Mark(np.array(point) * LPS_TO_RAS, colours[click.label]) for click in clicks for point in click.points_ras]
    return {
        plane.title(focus): png(draw_plane(camera, index, scale, outlines, heat, marks))
        for index, plane in enumerate(PLANES)
    }


def mask_in(box: Box, region: ReviewRegion) -> np.ndarray:
    """Return where a region lies in a box of the volume, which may hold only a part of it, or nothing."""
    mask = np.zeros(shape_of(box), bool)
    if common := intersection(box, region.box):
        mask[within(common, box)] = region.mask[within(common, region.box)]
    return mask


def outlines_of(labels: np.ndarray, camera: Camera, colour_of: Callable[[int], Colour], width: float) -> list[Outline]:
    """Outline each label in the camera's box."""
    return [
        Outline(camera.sections(labels == value, camera.box), colour_of(int(value)), width)
        for value in np.unique(labels[labels > 0])
    ]


def draw_plane(
    camera: Camera,
    index: int,
    scale: Scale,
    outlines: Sequence[Outline],
    heat: Sequence[np.ndarray] | None = None,
    marks: Sequence[Mark] = (),
) -> Image.Image:
    """Draw one plane.

    Args:
        camera: Where.
        index: Of the plane in `PLANES`.
        scale: What values look like.
        outlines: In the order in which they are drawn.
        heat: The uncertainty in each of `PLANES`, if it is to be shown.
        marks: Drawn where they are near the plane.
    """
    plane = PLANES[index]
    grey = np.clip((camera.ct(plane) - scale.black) / (scale.white - scale.black), 0, 1)
    grey = np.round(grey * 85) * 3  # 86 greys: no eye sees the difference, and the file is a good deal smaller
    pixels = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    if heat is not None:
        fraction = (heat[index] - scale.threshold) / (scale.top - scale.threshold)
        warm = heat_colours(64)[(63 * np.clip(fraction, 0, 1)).astype(np.uint8)]
        # Clear below the threshold, with a soft edge.
        _blend(pixels, warm, 0.7 * np.clip(2 * heat[index] / scale.threshold - 1.5, 0, 1))
    for outline in outlines:
        distance = _distance(outline.sections[index])
        _blend(pixels, (0, 0, 0), 0.75 * np.clip(outline.width / 2 + 2.0 - distance, 0, 1))  # a rim, for bright places
        _blend(pixels, outline.colour, np.clip(outline.width / 2 + 0.5 - distance, 0, 1))
    picture = Image.fromarray(np.round(pixels).astype(np.uint8))
    _annotate(picture, plane, camera)
    for mark in marks:
        if abs(mark.place - camera.view.focus)[plane.normal] <= _NEAR_MM:
            (column, row), draw = camera.pixel(plane, mark.place), ImageDraw.Draw(picture, "RGBA")
            if max(abs(column), abs(row)) > 2 * camera.pixels:  # numbers too large to draw with
                continue
            for radius, fill, rim in ((7, (0, 0, 0, 150), None), (5, tuple(mark.colour), "white")):
                around = (column - radius, row - radius, column + radius, row + radius)
                draw.ellipse(around, fill=fill, outline=rim, width=2)
    _write_numbers(picture, [(outline, outline.sections[index]) for outline in outlines if outline.number])
    return picture


def png(picture: Image.Image) -> bytes:
    """Write the picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)
    return file.getvalue()


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), f"fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf"), size)


def _distance(section: np.ndarray) -> np.ndarray:
    """Distance to the outline of an interpolated mask, pixels; right near the outline, large elsewhere."""
    rows, columns = np.gradient(section)
    return np.asarray(np.abs(section - 0.5) / np.maximum(np.hypot(rows, columns), 1e-3))


def _blend(picture: np.ndarray, colour: np.ndarray | Colour, opacity: np.ndarray) -> None:
    """Mix a colour (or one for each pixel) into the picture, in place."""
    where = opacity > 0
    below = picture[where]
    above = colour[where] if isinstance(colour, np.ndarray) else np.array(colour)
    picture[where] = below + (above - below) * opacity[where][:, None]


def _annotate(picture: Image.Image, plane: Plane, camera: Camera) -> None:
    """Letters at the sides, a cross about the focus, a scale bar on a ground of its own."""
    draw = ImageDraw.Draw(picture, "RGBA")
    side, (column, row) = picture.width, camera.pixel(plane)
    middle, end, faint = side / 2, side - 1, (255, 255, 255, 90)
    for start, stop in ((10, column - _GAP), (column + _GAP, end - 10)):
        if start < stop:
            draw.line((start, row, stop, row), fill=faint)
    for start, stop in ((10, row - _GAP), (row + _GAP, end - 10)):
        if start < stop:
            draw.line((column, start, column, stop), fill=faint)
    places = ((12, middle), (end - 12, middle), (middle, 12), (middle, end - 13))
    for letter, place in zip(plane.letters, places, strict=True):
        _write(draw, place, letter, "white", font(15, bold=True))
    length_mm = next((bar for bar in _BARS_MM if bar <= camera.view.width / 4), _BARS_MM[-1])
    length = length_mm / camera.view.width * side
    words = f"{length_mm / 10:.0f} cm" if length_mm >= 10 else f"{length_mm} mm"
    half = max(length, draw.textlength(words, font(12))) / 2
    centre = end - 13 - half
    draw.rounded_rectangle((centre - half - 7, end - 36, end - 6, end - 6), 4, fill=(0, 0, 0, 190))
    draw.rectangle((centre - length / 2, end - 14, centre + length / 2, end - 12), fill="white")
    draw.text((centre, end - 25), words, fill="white", font=font(12), anchor="mm")


def _write_numbers(picture: Image.Image, numbered: Sequence[tuple[Outline, np.ndarray]]) -> None:
    """Each outline's number at the corner of it that is freest; the last outline, which lies on top, chooses first."""
    draw, taken = ImageDraw.Draw(picture), [np.full(2, -np.inf)]
    for outline, section in reversed(numbered):
        rows, columns = np.nonzero(section > 0.5)
        if not len(rows):
            continue
        places = []
        for right, down in ((1, -1), (-1, -1), (1, 1), (-1, 1)):
            corner = int((right * columns + down * rows).argmax())
            place = (columns[corner] + 9 * right, rows[corner] + 9 * down)
            places.append(np.clip(place, 12, picture.width - 13).astype(float))
        room = [min(np.linalg.norm(place - other) for other in taken) for place in places]
        place = next((spot for spot, free in zip(places, room, strict=True) if free > 22), places[int(np.argmax(room))])
        taken.append(place)
        size = 12 + 2 * (outline.width > 2)
        _write(draw, (float(place[0]), float(place[1])), outline.number, tuple(outline.colour), font(size, bold=True))


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: str | tuple[int, ...],
    letters: ImageFont.FreeTypeFont,
) -> None:
    """Letters with a dark rim."""
    draw.text(place, text, fill=colour, font=letters, anchor="mm", stroke_width=2, stroke_fill="black")
