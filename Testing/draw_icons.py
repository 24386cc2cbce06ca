"""Draws the icon of extension and module, and the sample's picture in Sample Data: `make icons`.

The icon is a pancreas as this project sees one: a sharp outline, and one end where the doubt glows.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from PIL import Image

RESOURCES = Path(__file__).parents[1] / "MoBUncertainty" / "Resources"
SIZE, FINE = 128, 8  # pixels, and steps in each
THUMBNAIL = 256
WINDOW_HU = (-160.0, 240.0)

# The organ's middle line, from the head to the tail, and its radius there; the tile is the square from -1 to 1.
LINE = np.array([(-0.38, 0.56), (-0.52, 0.22), (-0.40, -0.08), (-0.02, -0.12), (0.36, -0.22), (0.72, -0.52)])
RADIUS = np.array([0.15, 0.31, 0.29, 0.17, 0.20, 0.11])
DOUBT_AT, DOUBT_REACH = np.array([-0.47, 0.36]), 0.30


def icon() -> Image.Image:
    """RGBA, `SIZE` pixels wide."""
    y, x = np.mgrid[-1 : 1 : SIZE * FINE * 1j, -1 : 1 : SIZE * FINE * 1j]
    distance = organ(x, y)
    near = np.exp(-0.5 * ((x - DOUBT_AT[0]) ** 2 + (y - DOUBT_AT[1]) ** 2) / DOUBT_REACH**2)
    # Along the border a thin line of doubt, which becomes thick where the network does not know.
    width = 0.016 + 0.15 * near
    doubt = np.exp(-0.5 * (distance / width) ** 2) * (0.30 + 0.70 * near) * np.clip(near * 4 + 0.25, 0, 1)
    picture = np.stack([0.055 + 0.03 * (1 - y), 0.05 + 0.025 * (1 - y), 0.085 + 0.05 * (1 - y)], axis=-1)
    flesh = cover(distance)[..., None]
    shade = np.clip(0.40 - 0.9 * distance, 0, 1)[..., None] * np.array([0.62, 0.60, 0.66])
    picture = picture * (1 - flesh) + (picture + shade) * flesh
    glow = colormaps["inferno"](np.clip(0.12 + 0.88 * doubt, 0, 1))[..., :3]
    strength = np.clip(doubt * 1.5, 0, 1)[..., None]
    picture = picture * (1 - strength) + glow * strength
    outline = (np.clip(1 - np.abs(distance) / 0.025, 0, 1) * 1.6).clip(0, 1)[..., None]
    picture = picture * (1 - outline) + np.array([1.0, 0.96, 0.88]) * outline
    rgba = np.concatenate([picture.clip(0, 1), tile(x, y)[..., None]], axis=-1)
    return Image.fromarray((rgba * 255).round().astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def organ(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the organ's border, negative inside."""
    steps = np.linspace(0, len(LINE) - 1, 160)
    # A smooth curve through the points: each coordinate is blended over its neighbours.
    weights = np.exp(-0.5 * ((steps[:, None] - np.arange(len(LINE))) / 0.55) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centres, radii = weights @ LINE, weights @ RADIUS
    distance = np.full(x.shape, np.inf)
    for (cx, cy), radius in zip(centres, radii, strict=True):
        distance = np.minimum(distance, np.hypot(x - cx, y - cy) - radius)
    return distance


def cover(distance: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside, with a soft edge of a pixel."""
    return np.clip(0.5 - distance * SIZE / 2, 0, 1)


def tile(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Opacity of a square with round corners."""
    corner = 0.36
    beyond = np.hypot(np.maximum(np.abs(x) - 1 + corner, 0), np.maximum(np.abs(y) - 1 + corner, 0)) - corner
    return cover(beyond + 1 / SIZE)


def thumbnail() -> Image.Image:
    """The sagittal slice of the sample that shows most of its organs, as a radiologist sees it, nose to the left."""
    ct, contours = (
        sitk.DICOMOrient(sitk.ReadImage(RESOURCES / "SampleData" / name), "LPI")
        for name in ("HeadNeckCT.nii.gz", "HeadNeckCT-contours.seg.nrrd")
    )
    x = int(np.count_nonzero(sitk.GetArrayViewFromImage(contours), axis=(0, 1)).argmax())
    low, high = WINDOW_HU
    grey = np.clip((sitk.GetArrayViewFromImage(ct)[..., x] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    shape = np.multiply(grey.shape, ct.GetSpacing()[:0:-1])
    height, width = (shape / shape.max() * THUMBNAIL).round().astype(int)
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)


def main() -> None:
    icons = RESOURCES / "Icons"
    icons.mkdir(exist_ok=True)
    icon().save(icons / "MoBUncertainty.png", optimize=True)
    thumbnail().save(icons / "HeadNeckCT.png", optimize=True)


if __name__ == "__main__":
    main()
