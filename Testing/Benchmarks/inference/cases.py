"""The CTs of the benchmark: one phantom, seen with more or fewer voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inference.tasks import Size, size_name

SEED = 705
# Of an abdominal CT, x y z; 512 x 512 x 300 voxels are then of 0.75 x 0.75 x 0.8 mm. The phantom's own height: what the
# network has never seen above and below would be taken for organs, and adaptive tiling would place tiles there.
FIELD_MM = (384.0, 384.0, 240.0)
CUT_OUT = 192  # voxels; with no axis longer than this a CT shows a part of the field
CUT_OUT_SPACING = tuple(mm / 256 for mm in FIELD_MM)
AIR = -1000  # HU


def shows_all(size: Size) -> bool:
    """Whether a CT of so many voxels shows the whole field of view, or a cut-out at the spacing of 256 voxels."""
    return max(size) > CUT_OUT


def case_file(folder: Path, size: Size) -> Path:
    """Where the CT of a size is in a benchmark's folder."""
    return folder / "cases" / f"{size_name(size)}.nii.gz"


def make_case(folder: Path, size: Size) -> Path:
    """Write the CT of a size unless it is there."""
    path = case_file(folder, size)
    if not path.exists():
        write_whole(sample(phantom(SEED), size), path)
    return path


def phantom(seed: int) -> sitk.Image:
    """A phantom's CT on its own grid, as wide as `FIELD_MM`: there is more air beside the patient."""
    from mob_training.data.phantom import make_phantom

    ct = make_phantom(seed).ct
    extent = np.multiply(ct.GetSize(), ct.GetSpacing())
    missing = np.ceil(np.maximum(np.subtract(FIELD_MM, extent), 0) / 2 / ct.GetSpacing()).astype(int).tolist()
    return sitk.ConstantPad(ct, missing, missing, AIR)


def sample(ct: sitk.Image, size: Size) -> sitk.Image:
    """The CT with so many voxels, linearly interpolated, int16 HU; its middle stays where it is."""
    spacing = [mm / n for mm, n in zip(FIELD_MM, size, strict=True)] if shows_all(size) else list(CUT_OUT_SPACING)
    grid = sitk.Image(list(size), sitk.sitkInt16)
    grid.SetSpacing(spacing)
    grid.SetDirection(ct.GetDirection())
    grid.SetOrigin((np.add(_middle(ct), np.negative(_middle(grid)))).tolist())
    return sitk.Resample(ct, grid, sitk.Transform(), sitk.sitkLinear, AIR, sitk.sitkInt16)


def write_whole(image: sitk.Image, path: Path) -> None:
    """Write a file that is there only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    sitk.WriteImage(image, str(partial), useCompression=True)
    partial.replace(path)


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
