"""OpenKBP: planning CTs of head and neck with clinical contours (Babier et al. 2021, github.com/ababier/open-kbp).

Its layout: `provided-data/*-pats/pt_N/` with `ct.csv`, a line for each voxel that is not erased (index, HU + 1024), a
list of voxels for each organ that was contoured, such as `Brainstem.csv`, `dose.csv` (index, Gy), and
`voxel_dimensions.csv`. An index counts
a grid of 128 x 128 x 128 in C order, whose axes are posterior, left and inferior.

Above and below the slices with dose, half of the patients have nothing left but the contoured organs: the erased body
would show a network where they are. Such slices are cropped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from mob_training.data.datasets import new_folder, read_classes
from mob_training.data.partial_labels import write_labelled
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import Box, Grid, bounding_box, shadows
from MoBUncertaintyLib.images.dose import read_dose
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import read_image

ORGANS = {
    "Brainstem": ("Brainstem", 8.4, 75),
    "SpinalCord": ("SpinalCord", 8.4, 75),
    "Parotid_R": ("RightParotid", 8.7, 79),
    "Parotid_L": ("LeftParotid", 8.5, 77),
    "Esophagus": ("Esophagus", 3.9, 35),
    "Larynx": ("Larynx", 8.0, 72),
    "Bone_Mandible": ("Mandible", 21, 190),
}
"""Names of the values 1 to 7 (AAPM TG-263): OpenKBP's name, and a contour's smallest and largest volume, ml.

The bounds are a third and three times the median of OpenKBP's contours; what lies beyond them, after the crop, is not
that organ or a small part of it, and counts as not drawn.
"""
SPLIT = "openkbp_split.csv"
SIDE = 128
ERASED = -1024
"""HU of voxels outside the body, and of slices beyond the scan."""
MARGIN = (0, 8, 8)
"""Erased voxels that are kept around the body, (z, y, x): air, but no slice beyond the scan."""
BODY_MM2 = 6000
"""A slice with less tissue outside of contours was erased; heads have 90 cm² and more, what is left of others 45."""


def convert(source: Path, output: Path) -> None:
    """Write `images/`, `labels/`, `doses/` and `labelled.json` from OpenKBP's repository, or from such folders of it.

    Doses are in Gy. Padding and erased slices are cropped. Contours beyond the bounds of `ORGANS` are left out, and
    printed.

    Raises:
        SettingsError: The source holds no patients.
        OutputError: It cannot be written.
    """
    patients = _patients(Path(source))
    missing = {}
    with new_folder(output, "images", "labels", "doses") as folder:
        for name, place in sorted(patients.items()):
            hu, contours, dose, grid = (_read_lists if place.is_dir() else _read_volumes)(place)
            box = _scanned(hu, contours, grid)
            cropped = replace(grid, origin=grid.to_ras(np.array([axis.start for axis in box])))
            contours = contours[box].copy()
            missing[name] = _leave_out(name, contours, cropped)
            for kind, voxels in (("images", hu[box]), ("labels", contours), ("doses", dose[box])):
                write_nifti(folder / kind / f"{name}.nii.gz", voxels, cropped)
        some = {name: lacked for name, lacked in missing.items() if len(lacked) < len(ORGANS)}  # the others have no use
        write_labelled(folder, list(ORGANS), some)


def _patients(source: Path) -> dict[str, Path]:
    """Find each patient's folder of lists, or its image file."""
    files = {path.name.removesuffix(".nii.gz"): path for path in source.glob("images/pt_*.nii.gz")}
    folders = {f"pt_{int(path.parent.name[3:]):03d}": path.parent for path in source.glob("**/pt_[0-9]*/ct.csv")}
    if not files and not folders:
        raise SettingsError(f"{source} holds neither pt_N/ct.csv nor images/pt_NNN.nii.gz; give OpenKBP's repository.")
    return files or folders


def _read_lists(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Grid]:
    """Read HU, contours and Gy (z, y, x) from a patient's lists of voxels; where organs overlap the last one stands."""
    x, y, z = np.loadtxt(folder / "voxel_dimensions.csv")
    hu, dose = np.full(SIDE**3, ERASED, np.int16), np.zeros(SIDE**3, np.float32)
    for name, voxels, zero in (("ct", hu, ERASED), ("dose", dose, 0)):
        index, value = np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1, unpack=True)
        voxels[index.astype(int)] = value + zero
    contours = np.zeros(SIDE**3, np.uint8)
    for label, (organ, _, _) in enumerate(ORGANS.values(), start=1):
        if (path := folder / f"{organ}.csv").exists():
            contours[np.loadtxt(path, int, delimiter=",", skiprows=1, usecols=0)] = label
    # Stored axes that point to the patient's left, back and feet; the origin is nominal.
    grid = Grid(np.array([z, y, x]), -np.eye(3)[:, ::-1], np.zeros(3))
    hu, contours, dose = (np.moveaxis(voxels.reshape((SIDE,) * 3), 2, 0).copy() for voxels in (hu, contours, dose))
    return hu, contours, dose, grid


def _read_volumes(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Grid]:
    image = read_image(path).image
    dose = read_dose(path.parents[1] / "doses" / path.name, image)
    contours = read_classes(path.parents[1] / "labels" / path.name, [[value] for value in range(1, len(ORGANS) + 1)])
    hu = np.rint(sitk.GetArrayViewFromImage(image)).astype(np.int16)
    return hu, sitk.GetArrayFromImage(contours), np.nan_to_num(dose), grid_of(image)


def _scanned(hu: np.ndarray, contours: np.ndarray, grid: Grid) -> Box:
    """Find the longest run of slices that show more than contours, and the body in it."""
    tissue = np.count_nonzero((hu > ERASED) & (contours == 0), axis=(1, 2)) * float(grid.spacing[1:].prod())
    runs, _ = ndimage.label(tissue >= BODY_MM2)
    longest = np.bincount(runs)[1:].argmax() + 1 if runs.any() else 0
    body = (hu > ERASED) | (contours > 0)
    body[runs != longest] = False
    return bounding_box(shadows(body), MARGIN)


def _leave_out(name: str, contours: np.ndarray, grid: Grid) -> frozenset[int]:
    """Erase contours beyond the bounds from a label map; return the labels that are not contoured then."""
    missing = set()
    for label, (organ, (_, least, most)) in enumerate(ORGANS.items(), start=1):
        drawn = contours == label
        volume = np.count_nonzero(drawn) * grid.voxel_mm3 / 1000
        if not least <= volume <= most:
            missing.add(label)
            contours[drawn] = 0
        if volume and label in missing:
            print(f"{name}: {organ} is left out, {volume:.1f} ml are not within {least:g} to {most:g} ml")
    return frozenset(missing)
