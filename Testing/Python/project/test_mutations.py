"""Files damaged in any way are read as something, or refused in one sentence: no other error, and no long wait."""

from __future__ import annotations

import gzip
import random
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.reader import read_image
from support import dicom_files as dicom
from support import mutations

MUTANTS = 60
HU = dicom.hounsfield()
# Bytes of the header, where a file is mostly voxels.
HEADERS = {"ct.nii": 352, "ct.nrrd": 400, "raw.nrrd": 400, "ct.mha": 350, "raw.mha": 350}


def written(folder: Path, name: str) -> tuple[Path, Path]:
    """What is read, and the file that is damaged."""
    if name == "series":
        return folder, dicom.write_slices(folder, HU)[3]
    if name == "enhanced":
        path = dicom.write_enhanced(folder / "ct.dcm", HU)
        return path, path
    sitk.WriteImage(sitk.GetImageFromArray(HU), folder / name, "raw" not in name)
    return folder / name, folder / name


@pytest.mark.parametrize("name", ["series", "enhanced", "ct.nii.gz", *HEADERS])
def test_mutants_are_read_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    source, path = written(tmp_path, name)
    content = path.read_bytes()
    refused = 0
    for seed in range(MUTANTS):
        rng = random.Random(f"{name} {seed}")
        if name.endswith(".gz") and seed % 2:
            damaged = gzip.compress(mutations.mutant(gzip.decompress(content), rng, 352))
        else:
            damaged = mutations.mutant(content, rng, HEADERS.get(name))
        path.write_bytes(damaged)
        start = time.process_time()
        refused += outcome(source) is None
        assert time.process_time() - start < 5
    assert refused > MUTANTS / 3


def outcome(source: Path) -> np.ndarray | None:
    """The voxels; None if they are refused."""
    try:
        return sitk.GetArrayFromImage(read_image(source).image)
    except ImageError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
        assert len(str(error)) < 600
        return None


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha"])
def test_flipped_bits_are_refused_or_change_nothing(tmp_path: Path, name: str) -> None:
    source, path = written(tmp_path, name)
    content = path.read_bytes()
    start = 0 if name.endswith(".gz") else HEADERS[name]
    for seed in range(MUTANTS):
        path.write_bytes(mutations.flipped(content, random.Random(seed), start))
        values = outcome(source)
        assert values is None or np.array_equal(values, HU)
