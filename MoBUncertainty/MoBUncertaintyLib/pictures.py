"""Pictures of a doubtful region: true axial, coronal and sagittal planes through it, as PNG.

The planes are the patient's, whatever the axes of the volume: each picture is sampled from the voxels by their place in
space, so flipped, permuted, oblique and anisotropic volumes come out right. Patient's right is on the left.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont

from MoBUncertaintyLib.appearance import REGION_COLOUR
from MoBUncertaintyLib.review_regions import Box, ReviewRegion

PREDICTED_COLOUR = (255, 255, 255)
CORRECTED_COLOUR = (70, 235, 110)

_PIXELS = 300  # of a side
_MARGIN_MM, _SMALLEST_MM, _LARGEST_MM = 25.0, 90.0, 240.0
_BAR_MM = 20.0
_AIR = -1024.0


@dataclass(frozen=True)
class Plane:
    """A plane of the patient.

    Attributes:
        name: As radiologists say.
        right, down: Where the picture's columns and rows run to, LPS.
        letters: At its left, right, top and bottom.
    """

    name: str
    right: tuple[int, int, int]
    down: tuple[int, int, int]
    letters: str


PLANES = (
    Plane("axial", (1, 0, 0), (0, 1, 0), "RLAP"),
    Plane("coronal", (1, 0, 0), (0, 0, -1), "RLSI"),
    Plane("sagittal", (0, 1, 0), (0, 0, -1), "APSI"),
)


@dataclass(frozen=True)
class Scale:
    """What values look like, the same in all pictures of a case.

    Attributes:
        black, white: CT values.
        measure: Of the doubt that the heat map shows, as people call it.
        threshold: Doubt from which the heat map shows.
        top: Doubt of the heat map's brightest colour.
    """

    black: float
    white: float
    measure: str
    threshold: float
    top: float


def draw_region(
    ct: sitk.Image,
    region: ReviewRegion,
    predicted: np.ndarray,
    corrected: np.ndarray,
    doubt_in: Callable[[Box], np.ndarray],
    scale: Scale,
) -> dict[str, bytes]:
    """Draw a region: CT, heat map, outlines before and after, the region's own outline and a cross.

    Args:
        ct: The CT.
        region: What to show.
        predicted, corrected: Label maps (z, y, x) on the CT's grid.
        doubt_in: Gives the doubt in a box of them.
        scale: What values look like.

    Returns:
        A PNG file for each of `PLANES`, by name. The outline of `corrected` is drawn where it differs.
    """
    focus = np.array(ct.TransformIndexToPhysicalPoint(_middle(region, ct.GetSpacing())[::-1].tolist()))
    width = float(np.clip(region.region.extent_mm + 2 * _MARGIN_MM, _SMALLEST_MM, _LARGEST_MM))
    box = _surroundings(ct, focus, width)
    around = _Surroundings(ct, box, focus, width)
    before, after = predicted[box], corrected[box]
    mask = np.zeros(before.shape, bool)
    mask[tuple(slice(r.start - b.start, r.stop - b.start) for r, b in zip(region.box, box, strict=True))] = region.mask
    outlines = [(mask, REGION_COLOUR, 1.3)]
    # The corrected outline below the predicted one, so that it is seen where it differs.
    for labels, colour in ((after, CORRECTED_COLOUR), (before, PREDICTED_COLOUR)):
        outlines += [(labels == value, colour, 1.8) for value in np.unique(labels[labels > 0])]
    images = [(around.image(shape), colour, line) for shape, colour, line in outlines]
    heat = around.image(doubt_in(box))
    return {
        plane.name: _finished(
            _composed(
                around.section(around.ct, plane, _AIR),
                around.section(heat, plane),
                [(around.section(image, plane), colour, line) for image, colour, line in images],
                scale,
            ),
            plane,
            width,
        )
        for plane in PLANES
    }


def heat_colours(count: int) -> np.ndarray:
    """Inferno without its black end, which would be lost on a dark CT; uint8 (count, 3)."""
    return (matplotlib.colormaps["inferno"](np.linspace(0.2, 1, count))[:, :3] * 255).round().astype(np.uint8)


class _Surroundings:
    """What lies around a region, cut out of the volume: a large CT is not touched as a whole."""

    def __init__(self, ct: sitk.Image, box: Box, focus: np.ndarray, width: float) -> None:
        self._focus, self._width = focus, width
        size, start = [s.stop - s.start for s in box[::-1]], [s.start for s in box[::-1]]
        self.ct = sitk.Cast(sitk.RegionOfInterest(ct, size, start), sitk.sitkFloat32)

    def image(self, values: np.ndarray) -> sitk.Image:
        """Values of the box as an image."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(values, np.float32))
        image.CopyInformation(self.ct)
        return image

    def section(self, image: sitk.Image, plane: Plane, outside: float = 0.0) -> np.ndarray:
        """The plane through the focus, (row, column), in pixels of one size both ways."""
        right, down = np.array(plane.right, float), np.array(plane.down, float)
        step = self._width / _PIXELS
        corner = self._focus - (_PIXELS - 1) / 2 * step * (right + down)
        direction = np.stack([right, down, np.cross(right, down)], axis=1)
        section = sitk.Resample(
            image,
            [_PIXELS, _PIXELS, 1],
            sitk.Transform(),
            sitk.sitkLinear,
            corner.tolist(),
            [step, step, step],
            direction.ravel().tolist(),
            outside,
        )
        return sitk.GetArrayFromImage(section)[0]


def _middle(region: ReviewRegion, spacing: Sequence[float]) -> np.ndarray:
    """The region's voxel (z, y, x) nearest to its centroid, which can lie outside of it."""
    voxels = np.argwhere(region.mask)
    distance = (((voxels - voxels.mean(axis=0)) * spacing[::-1]) ** 2).sum(axis=1)
    return voxels[np.argmin(distance)] + [s.start for s in region.box]


def _surroundings(ct: sitk.Image, focus: np.ndarray, width: float) -> Box:
    """The box of voxels that holds a cube about the focus, as far as the volume goes."""
    corners = focus + width / 2 * (np.indices((2, 2, 2)).reshape(3, 8).T * 2 - 1)
    index = np.array([ct.TransformPhysicalPointToContinuousIndex(corner.tolist()) for corner in corners])[:, ::-1]
    size = np.array(ct.GetSize())[::-1]
    start = np.clip(np.floor(index.min(axis=0)).astype(int) - 1, 0, size - 1)
    stop = np.clip(np.ceil(index.max(axis=0)).astype(int) + 2, start + 1, size)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def _composed(
    ct: np.ndarray, heat: np.ndarray, outlines: list[tuple[np.ndarray, tuple[int, int, int], float]], scale: Scale
) -> np.ndarray:
    """Grey CT, heat map over it, lines over both; uint8 (row, column, 3)."""
    grey = np.clip((ct - scale.black) / (scale.white - scale.black), 0, 1)
    grey = np.round(grey * 85) * 3  # 86 greys: no eye sees the difference, and the file is a good deal smaller
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    share = (heat - scale.threshold) / (scale.top - scale.threshold)
    warm = heat_colours(64)[(63 * np.clip(share, 0, 1)).astype(np.uint8)]
    # Clear below the threshold, with a soft edge.
    _blend(picture, warm, 0.7 * np.clip(2 * heat / scale.threshold - 1.5, 0, 1))
    for section, colour, width in outlines:
        distance = _distance(section)
        _blend(picture, (0, 0, 0), 0.5 * np.clip(width / 2 + 1.5 - distance, 0, 1))
        _blend(picture, colour, np.clip(width / 2 + 0.5 - distance, 0, 1))
    return np.round(picture).astype(np.uint8)


def _distance(section: np.ndarray) -> np.ndarray:
    """Distance to the outline of an interpolated mask, pixels; right near the outline, large elsewhere."""
    rows, columns = np.gradient(section)
    return np.abs(section - 0.5) / np.maximum(np.hypot(rows, columns), 1e-3)


def _blend(picture: np.ndarray, colour: np.ndarray | tuple[int, int, int], share: np.ndarray) -> None:
    """Mix a colour (or one for each pixel) into the picture, in place."""
    where = share > 0
    below = picture[where]
    above = colour[where] if isinstance(colour, np.ndarray) else np.array(colour)
    picture[where] = below + (above - below) * share[where][:, None]


def _finished(pixels: np.ndarray, plane: Plane, width_mm: float) -> bytes:
    """The picture with its letters, cross and scale bar, as PNG."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture, "RGBA")
    middle, end = _PIXELS / 2, _PIXELS - 1
    for near, far in ((10, middle - 22), (middle + 22, end - 10)):
        draw.line((near, middle, far, middle), fill=(255, 255, 255, 90))
        draw.line((middle, near, middle, far), fill=(255, 255, 255, 90))
    places = ((12, middle), (end - 12, middle), (middle, 12), (middle, end - 13))
    for letter, place in zip(plane.letters, places, strict=True):
        draw.text(place, letter, fill="white", font=_font(17), anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0, 200))
    right, length = end - 12, _BAR_MM / width_mm * _PIXELS
    draw.rectangle((right - length - 1, end - 15, right + 1, end - 11), fill=(0, 0, 0, 160))
    draw.rectangle((right - length, end - 14, right, end - 12), fill="white")
    label = f"{_BAR_MM / 10:.0f} cm"
    draw.text(
        (right - length / 2, end - 24), label, fill="white", font=_font(12), anchor="mm", stroke_width=2,
        stroke_fill=(0, 0, 0, 200),
    )  # fmt: skip
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)
    return file.getvalue()


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
