"""The picture of a prediction, `overlay.png`: three planes through the most doubtful region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, bounding_box, hull, nested, shadows, shape_of, whole, widened, within
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.output.pictures.planes import PLANES, Camera, central_voxel, extent
from MoBUncertaintyLib.output.pictures.region_pictures import Outline, draw_plane, font, outlines_of, png
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, Colour, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.regions.description import masks, organ_names, place_text
from MoBUncertaintyLib.regions.measure import uncertainty_in
from MoBUncertaintyLib.regions.region import Regions

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.model.card import Label
    from MoBUncertaintyLib.regions.prediction import Prediction

_MARGIN_MM, _SMALLEST_VIEW_MM = 20.0, 100.0
_COARSE_MM = 4.0  # what hangs together is judged on a grid about this coarse: a box needs no more
_SIDE, _EDGE, _GAP, _HEAD, _FOOT = 456, 24, 12, 112, 76  # pixels
_INK, _QUIET, _PAPER, _FRAME, _ALERT = "white", "#b0b0b0", "black", "#404040", "#ff8a80"
_BOX = 44  # pixels more, above the pictures of a case that is not ordinary
_BOX_COLOURS = {Level.UNUSUAL: ("#ffc44d", "black"), Level.NOT_USABLE: ("#c62828", "white")}


def draw_overlay(path: str | Path, image: sitk.Image, prediction: Prediction, regions: Regions, name: str = "") -> None:
    """Draw three planes through the most doubtful region to a PNG file: image with outlines above, a heat map below.

    Without a region the planes go through the organ's middle, without an organ through the volume's. Of many regions
    the first `DRAWN_REGIONS` are drawn. The image is called by its `name` where it may be. Raises `OSError`.
    """
    segmentation, labels, suitability = prediction.segmentation, prediction.labels, prediction.suitability
    places = [(box, mask) for _, box, mask in masks(replace(regions, ranked=regions.ranked[:DRAWN_REGIONS]))]
    camera = Camera(image, *_view(image, segmentation, places), _SIDE)
    scale = Scale.of(image, regions.settings)
    heat = camera.sections(uncertainty_in(camera.box, prediction, scale.measure), camera.box)
    seen, colours = segmentation[camera.box], {label.value: label.colour for label in labels}
    region_colour = palette_beside(colours.values()).region
    around = list(_region_outlines(places, segmentation.shape, camera, region_colour))
    upper = [*around[:0:-1], *outlines_of(seen, camera, colours.__getitem__, 2.4), *around[:1]]  # the first on top
    lower = outlines_of(seen, camera, colours.__getitem__, 1.6)
    head = _HEAD + (_BOX if suitability and suitability.sentence else 0)
    sheet = Image.new("RGB", (2 * _EDGE + 3 * _SIDE + 2 * _GAP, head + 2 * _SIDE + _GAP + _FOOT), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, plane in enumerate(PLANES):
        left = _EDGE + index * (_SIDE + _GAP)
        draw.text((left + _SIDE / 2, head - 14), plane.title(camera.focus), _QUIET, font(14), anchor="mm")
        pictures = draw_plane(camera, index, scale, upper), draw_plane(camera, index, scale, lower, heat)
        for top, picture in zip((head, head + _SIDE + _GAP), pictures, strict=True):
            sheet.paste(picture, (left, top))
            draw.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_FRAME)
    inside = segmentation[prediction.segmented_box]
    segmented = [label for label in labels if (inside == label.value).any()]
    first = replace(regions, ranked=regions.ranked[:1])
    place = place_text(first.ranked[0], organ_names(prediction, first)) if first.ranked else ""
    _write_head(draw, sheet.width, segmented, regions, name, prediction.region_kind, place)
    if suitability and suitability.sentence:
        colour, ink = _BOX_COLOURS[suitability.level]
        box, style = (_EDGE, 88, sheet.width - _EDGE, 88 + _BOX - 8), font(17, bold=True)
        draw.rounded_rectangle(box, 5, fill=colour)
        text = fitting(suitability.sentence, style, box[2] - box[0] - 24)
        draw.text((_EDGE + 12, 106), text, ink, style, anchor="lm")
    visible = [label for label in segmented if (seen == label.value).any()]
    _write_foot(sheet, draw, visible, regions, scale, region_colour)
    Path(path).write_bytes(png(sheet))


def _view(
    image: sitk.Image, segmentation: np.ndarray, places: Sequence[tuple[Box, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Choose focus, middle and width: the first region, and the organ's largest part if the region lies at it."""
    spacing = np.array(image.GetSpacing())[::-1]
    part = _largest_part(segmentation, spacing)
    if places:
        box, mask = places[0]
        focus = central_voxel(mask, spacing) + [side.start for side in box]
        part = hull([part, box]) if part and _are_close(image, part, box) else box
    elif part:
        focus = central_voxel(segmentation[part] > 0, spacing) + [side.start for side in part]
    else:
        part, focus = whole(segmentation.shape), np.array(segmentation.shape) // 2
    low, high = extent(image, part)
    width = max(float((high - low).max()) + 2 * _MARGIN_MM, _SMALLEST_VIEW_MM)
    return np.array(image.TransformIndexToPhysicalPoint(focus[::-1].tolist())), (low + high) / 2, width


def _largest_part(segmentation: np.ndarray, spacing: np.ndarray) -> Box | None:
    """Find the box of what hangs together and is largest: far false positives, if any, do not decide what is shown."""
    steps = [max(1, int(_COARSE_MM / step)) for step in spacing]
    parts, count = ndimage.label(segmentation[tuple(slice(None, None, step) for step in steps)] > 0)
    if not count:
        return None
    coarse = ndimage.find_objects(parts)[int(np.bincount(parts.ravel())[1:].argmax())]
    sides = tuple(slice(side.start * step, side.stop * step) for side, step in zip(coarse, steps, strict=True))
    around = widened(sides, steps, segmentation.shape)
    return nested(around, bounding_box(shadows(segmentation[around] > 0)))


def _are_close(image: sitk.Image, one: Box, other: Box) -> bool:
    (low, high), (other_low, other_high) = extent(image, one), extent(image, other)
    return bool(((low - _MARGIN_MM < other_high) & (other_low < high + _MARGIN_MM)).all())


def _region_outlines(
    places: Sequence[tuple[Box, np.ndarray]], shape: Sequence[int], camera: Camera, colour: Colour
) -> Iterator[Outline]:
    """Outline each region, with its rank."""
    for rank, (box, mask) in enumerate(places, start=1):
        # One voxel more on each side, so that the outline has its place between voxels.
        around = widened(box, (1, 1, 1), shape)
        wider = np.zeros(shape_of(around), bool)
        wider[within(box, around)] = mask
        yield Outline(camera.sections(wider, around), colour, 3.0 if rank == 1 else 1.4, str(rank))


def _write_head(
    draw: ImageDraw.ImageDraw, width: int, labels: Sequence[Label], regions: Regions, name: str, kind: str, place: str
) -> None:
    """Write what is seen: labels and image, then the region, at a place, that the planes go through."""
    notice, end = "Not for clinical use", width - _EDGE
    room = end - 2 * _EDGE - draw.textlength(notice, font(16, bold=True)) - 20
    draw.text((end - 10, 34), notice, _ALERT, font(16, bold=True), anchor="rm")
    left = end - 20 - draw.textlength(notice, font(16, bold=True))
    draw.rounded_rectangle((left, 18, end, 50), 5, outline=_ALERT, width=2)
    title = ", ".join(readable(label.name) for label in labels) or "nothing was segmented"
    title = fitting(f"{title[:1].upper()}{title[1:]}", font(22, bold=True), room)
    draw.text((_EDGE, 34), title, _INK, font(22, bold=True), anchor="lm")
    detail = f"No {kind} region"
    if regions.ranked:
        region = regions.ranked[0]
        detail = (
            f"{kind.capitalize()} region {region.rank} of {len(regions.ranked):,}: {place}, "
            f"expected error {region.expected_error_mm3:,.0f} mm³"
        )
        if regions.settings.measure is Measure.VARIANCE:
            detail += f", mean variance {region.mean_variance:.3f}"
    if name:
        detail = f"{fitting(name, font(16), room - draw.textlength(detail, font(16)))}  ·  {detail}"
    draw.text((_EDGE, 68), detail, _INK, font(16), anchor="lm")


def _write_foot(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    labels: Sequence[Label],
    regions: Regions,
    scale: Scale,
    region_colour: Colour,
) -> None:
    """Write what the lines, the colours and the greys mean."""
    top, left, count = sheet.height - _FOOT, float(_EDGE), len(regions.ranked)
    keys = [(readable(label.name), label.colour, 3) for label in labels[:6]]
    if len(labels) > 6:
        keys.append((f"and {len(labels) - 6} more", (0, 0, 0), 1))
    if count:
        keys.append(("region 1, which the planes go through", region_colour, 4))
    if count > 1:
        which = "other doubtful regions" if count <= DRAWN_REGIONS else f"regions 2 to {DRAWN_REGIONS} of {count:,}"
        keys.append((which, region_colour, 2))
    for words, colour, width in keys:
        draw.line((left, top + 24, left + 30, top + 24), fill=tuple(colour), width=width)
        words = fitting(words, font(14), sheet.width - _EDGE - left - 38)
        draw.text((left + 38, top + 24), words, _INK, font(14), anchor="lm")
        left += 38 + draw.textlength(words, font(14)) + 26
    low, high = scale.heat_ends
    words = f"{scale.measure_name}  {low}"
    draw.text((_EDGE, top + 54), words, _INK, font(14), anchor="lm")
    start = round(_EDGE + draw.textlength(words, font(14)) + 8)
    sheet.paste(Image.fromarray(np.repeat(heat_colours(180)[None], 14, axis=0)), (start, top + 47))
    draw.text((start + 188, top + 54), high, _INK, font(14), anchor="lm")
    draw.text((sheet.width - _EDGE, top + 54), f"grey: {scale.window}", _QUIET, font(14), anchor="rm")


def fitting(text: str, letters: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut the text to a width in pixels, without characters that cannot be shown."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
