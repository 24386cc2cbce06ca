"""A label map as a JSON object, kept in the scene's own file: no editor offers it to draw in, as it does segmentations.

Arrays are (z, y, x), matrices map voxel indices (i, j, k) to RAS mm.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import occupied, shape_of
from MoBUncertaintyLib.base.integrity import check_seal, seal


class ElsewhereError(ValueError):
    """A label map does not lie on the image."""


def pack_labels(labels: np.ndarray, matrix: np.ndarray) -> dict[str, Any]:
    """Make the record of a label map (uint8), cropped to what it holds; `matrix` says where its voxels lie."""
    box = occupied(labels)
    voxels = zlib.compress(np.ascontiguousarray(labels[box], np.uint8).data, 1)  # label maps are small at any level
    return seal(
        {
            "ijk_to_ras": matrix.tolist(),
            "shape": list(labels.shape),
            "first_voxel": [axis.start for axis in box],
            "size": shape_of(box),
            "voxels": base64.b64encode(voxels).decode("ascii"),
        }
    )


def unpack_labels(record: dict[str, Any], matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Read the label map of a record, uint8, on an image of this matrix and shape, whose axes Slicer may have turned.

    Raises `ElsewhereError` if the image lies elsewhere, and `ValueError` if the record has changed; a phrase.
    """
    try:
        check_seal(record)
        first, size, stored = (tuple(map(int, record[name])) for name in ("first_voxel", "size", "shape"))
        if sorted(stored) != sorted(shape):  # before there is an array of it
            raise ElsewhereError("its image has another size")
        whole = np.zeros(stored, np.uint8)
        inside = tuple(slice(start, start + length) for start, length in zip(first, size, strict=True))
        voxels = zlib.decompressobj().decompress(base64.b64decode(record["voxels"], validate=True), whole.size)
        whole[inside] = np.frombuffer(voxels, np.uint8).reshape(size)
        labels = _turned(whole, np.linalg.inv(matrix) @ np.reshape(record["ijk_to_ras"], (4, 4)))
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if labels.shape != tuple(shape):
        raise ElsewhereError("its image has another size")
    return labels


def _turned(labels: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Reorder the axes of a label map; `change` (4, 4) leads from its voxel indices to those of its image."""
    axes = np.rint(change[:3, :3]).astype(int)
    if not (np.abs(axes).sum(axis=0) == 1).all() or not (np.abs(axes).sum(axis=1) == 1).all():
        raise ElsewhereError("its image has another position")
    order = [int(np.flatnonzero(row)[0]) for row in axes]  # of the image's axes i, j, k, those of the label map
    size = np.array(labels.shape[::-1])[order]
    flipped = axes.sum(axis=1) < 0
    moved = change - np.block([[axes, np.where(flipped, size - 1, 0)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    if np.abs(moved @ (*labels.shape[::-1], 1)).max() > 0.01:  # voxels
        raise ElsewhereError("its image has another position")
    turned = labels.transpose([2 - axis for axis in reversed(order)])
    return np.ascontiguousarray(np.flip(turned, tuple(axis for axis in range(3) if flipped[2 - axis])))
