"""Volumes as NIfTI files: beside SimpleITK's own, and on a full disk."""

import errno
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.images.grid import grid_of, image_on
from MoBUncertaintyLib.images.nifti import write_nifti
from support.marks import needs_full_device

STRAIGHT = Grid(np.array([0.8, 0.75, 0.75]), np.diag([1.0, -1.0, -1.0])[:, [2, 1, 0]], np.array([191.6, 200.0, -119.6]))
OBLIQUE = Grid(np.array([3.0, 0.7, 0.9]), Rotation.random(random_state=0).as_matrix(), np.array([-12.0, 5.0, 7.5]))
LEFT_HANDED = Grid(OBLIQUE.spacing, OBLIQUE.rotation * [1, 1, -1], OBLIQUE.origin)


@pytest.mark.parametrize("grid", [STRAIGHT, OBLIQUE, LEFT_HANDED], ids=["straight", "oblique", "left-handed"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_file_holds_what_simpleitks_holds(grid: Grid, kind: type, tmp_path: Path) -> None:
    array = (np.random.default_rng(0).normal(40, 15, (5, 6, 7))).clip(0).astype(kind)
    write_nifti(tmp_path / "ours.nii.gz", array, grid)
    sitk.WriteImage(image_on(grid, array), str(tmp_path / "theirs.nii.gz"))
    ours, theirs = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("ours", "theirs"))
    assert np.array_equal(sitk.GetArrayFromImage(ours), array)
    assert ours.GetPixelID() == theirs.GetPixelID()
    found, expected = grid_of(ours), grid_of(theirs)
    for name in ("spacing", "rotation", "origin"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6)
    if grid is STRAIGHT:
        ours, theirs = (nibabel.load(tmp_path / f"{name}.nii.gz").header for name in ("ours", "theirs"))
        for field in set(ours) - {"pixdim"}:  # beyond the third they have no meaning
            np.testing.assert_array_equal(ours[field], theirs[field], err_msg=field)


@pytest.mark.parametrize("size", [(2, 3, 5), (9, 256, 256), (5, 512, 512)])
def test_a_file_is_one_gzip_stream_however_many_pieces_it_has(size: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).random(size, np.float32)
    array[array < 0.4] = 0
    path = tmp_path / "map.nii.gz"
    write_nifti(path, array, STRAIGHT)
    first = path.read_bytes()
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert stream.decompress(first)[352:] == array.tobytes()
    assert stream.eof
    assert not stream.unused_data
    write_nifti(path, array, STRAIGHT)
    assert path.read_bytes() == first


def test_an_array_that_does_not_lie_in_order_is_written_as_it_is_indexed(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3).transpose(2, 0, 1)[:, ::-1]
    write_nifti(tmp_path / "a.nii.gz", array, STRAIGHT)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))), array)


@needs_full_device
def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        write_nifti(Path("/dev/full"), np.random.default_rng(0).random((9, 300, 300), np.float32), STRAIGHT)
    assert caught.value.errno == errno.ENOSPC
