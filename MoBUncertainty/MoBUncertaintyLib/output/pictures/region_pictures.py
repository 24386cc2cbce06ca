"""Pictures of a doubtful region: CT, heat map, outlines, letters, cross and scale bar, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pictures.planes import PLANES, Camera, Plane, central_voxel
from MoBUncertaintyLib.output.pictures.style import Colour, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.regions.measure import uncertainty_in
from MoBUncertaintyLib.review.refinement.clicks import marked_points
from MoBUncertaintyLib.review.region import ReviewRegion

CORRECTED_COLOUR = (255, 255, 255)
"""White: in no label's colour, and light on every heat map. What is predicted has the label's own colour."""

_PIXELS = 300  # of a side
_MARGIN_MM, _SMALLEST_MM, _LARGEST_MM = 25.0, 90.0, 240.0
_BARS_MM = (50, 20, 10, 5, 2)
_GAP = 22  # pixels about the focus that the cross leaves free
_NEAR_MM = 2.5  # of a plane, that a mark is drawn on it
_BACKGROUND_MARK = (20, 20, 20)
_RIMMED: dict[str, Any] = {"anchor": "mm", "stroke_width": 2, "stroke_fill": "black"}  # letters with a dark rim


@dataclass(frozen=True, eq=False)
class Outline:
    """A line around a part of the volume."""

    sections: Sequence[np.ndarray]  # the part in each of `PLANES`, as `Camera.sections` samples a mask
    colour: Colour
    width: float  # of the line, pixels
    number: str = ""  # written beside it, if it is not empty


def draw_region(case: Case, region: ReviewRegion, corrected: np.ndarray, scale: Scale) -> dict[str, dict[str, bytes]]:
    """Draw a region: image, heat map, outlines before and after, the region's own outline, a cross and the clicks.

    The planes go through the point nearest to the region's middle of the last click in it, else through that middle.
    There is a PNG file for each of `PLANES` by its title, as it is now: "" or, of a region with clicks, "After clicks",
    and of that "As predicted".
    """
    review, prediction, image = case.review, case.review.prediction, case.image
    spacing = np.array(image.GetSpacing())[::-1]
    middle = central_voxel(region.found.mask, spacing) + [part.start for part in region.box]
    focus = np.array(image.TransformIndexToPhysicalPoint(middle[::-1].tolist()))
    own = [click for click in review.clicks if click.region_id == region.region_id]
    if own:
        points = np.array(own[-1].points_ras) * LPS_TO_RAS
        focus = points[np.linalg.norm(points - focus, axis=1).argmin()]  # a stroke may lead far away
    width = float(np.clip(region.found.region.extent_mm + 2 * _MARGIN_MM, _SMALLEST_MM, _LARGEST_MM))
    camera = Camera(image, focus, focus, width, _PIXELS)
    colours = {label.value: label.colour for label in prediction.labels}
    region_colour = palette_beside(colours.values()).region
    marks = [
        (np.array(point) * LPS_TO_RAS, colours.get(click.label, _BACKGROUND_MARK))
        for click in review.drawn
        for point in marked_points(click)
    ]
    before = outlines_of(prediction.segmentation[camera.box], camera, colours.__getitem__, 1.8)

    def drawn(shown: ReviewRegion, uncertainty: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
        around = Outline(camera.sections(shown.mask_in(camera.box), camera.box), region_colour, 1.6)
        # The corrected outline below the predicted one, so that it is seen where it differs.
        after = outlines_of(labels[camera.box], camera, lambda _: CORRECTED_COLOUR, 1.8)
        heat = camera.sections(uncertainty, camera.box)
        return {
            plane.title(focus): png(draw_plane(camera, index, scale, [around, *after, *before], heat, marks))
            for index, plane in enumerate(PLANES)
        }

    now = drawn(region, review.uncertainty_in(camera.box, scale.measure), corrected)
    if not own:
        return {"": now}
    uncertainty = uncertainty_in(camera.box, prediction, scale.measure)
    before_clicks = drawn(replace(region, mask=region.found.mask), uncertainty, prediction.segmentation)
    return {"As drawn" if prediction.checked else "As predicted": before_clicks, "After clicks": now}


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
    marks: Sequence[tuple[np.ndarray, Colour]] = (),
) -> Image.Image:
    """Draw one of `PLANES`: outlines in their order, uncertainty if given, and dots (LPS mm) near the plane."""
    plane = PLANES[index]
    grey = np.clip((camera.image_sections[index] - scale.black) / (scale.white - scale.black), 0, 1)
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
    for place, colour in marks:
        if abs(place - camera.focus)[plane.normal] <= _NEAR_MM:
            (column, row), draw = camera.pixel(plane, place), ImageDraw.Draw(picture, "RGBA")
            for radius, fill, rim in ((7, (0, 0, 0, 150), None), (5, tuple(colour), "white")):
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
    for along, across, turn in ((column, row, 1), (row, column, -1)):
        for start, stop in ((10, along - _GAP), (along + _GAP, end - 10)):
            if start < stop:
                draw.line(((start, across)[::turn], (stop, across)[::turn]), fill=faint)
    places = ((12, middle), (end - 12, middle), (middle, 12), (middle, end - 13))
    for letter, place in zip(plane.letters, places, strict=True):
        draw.text(place, letter, "white", font(15, bold=True), **_RIMMED)
    length_mm = next((bar for bar in _BARS_MM if bar <= camera.width / 4), _BARS_MM[-1])
    length = length_mm / camera.width * side
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
            place = columns[corner] + 9 * right, rows[corner] + 9 * down
            places.append(np.clip(place, 12, picture.width - 13).astype(float))
        room = [min(np.linalg.norm(place - other) for other in taken) for place in places]
        place = next((spot for spot, free in zip(places, room, strict=True) if free > 22), places[int(np.argmax(room))])
        taken.append(place)
        letters = font(12 + 2 * (outline.width > 2), bold=True)
        draw.text(tuple(place.tolist()), outline.number, tuple(outline.colour), letters, **_RIMMED)
