"""Images as they are checked before a prediction: what is accepted, and what is refused."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.reader import as_image, check_image, read_image

VALUES = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 40))


def volume(dtype: type = np.int16, spacing: tuple[float, ...] = (1, 2, 3)) -> sitk.Image:
    image = sitk.GetImageFromArray(VALUES.astype(dtype))
    image.SetSpacing(spacing)
    return image


NO_VOLUMES = {
    "spacing too small": volume(spacing=(0.1, 0.1, 0.1)),
    "spacing too large": volume(spacing=(0.8, 0.8, 20)),
    "spacing that is no number": volume(spacing=(float("nan"), 1, 1)),
    "single slice": volume()[:, :, 3],
    "one value": volume() * 0 - 1000,
    "no finite voxel": sitk.GetImageFromArray(np.full(VALUES.shape, np.nan, np.float32)),
    "complex": sitk.RealAndImaginaryToComplex(volume(np.float32), volume(np.float32)),
}


@pytest.mark.parametrize("image", NO_VOLUMES.values(), ids=NO_VOLUMES.keys())
def test_what_is_no_volume_is_refused(image: sitk.Image) -> None:
    with pytest.raises(ImageError):
        check_image(image)


@pytest.mark.parametrize("image", [sitk.JoinSeries([volume()]), sitk.Compose([volume()])])
def test_one_time_point_and_one_component_become_a_scalar_volume(image: sitk.Image) -> None:
    checked, warnings = check_image(image)
    assert not warnings
    assert checked.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(checked), VALUES)


def test_non_finite_voxels_become_air_and_are_counted() -> None:
    values = VALUES.astype(np.float32)
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    image, warnings = check_image(sitk.GetImageFromArray(values))
    checked = sitk.GetArrayFromImage(image)
    assert checked[0, 0, 0] == checked[1, 1, 1] == checked[2, 2, 2] == -1024
    assert (checked != values).sum() == 3
    assert warnings == ["3 voxels are not finite numbers and were set to air (-1024)."]


def test_non_finite_voxels_of_other_modalities_become_the_smallest_value() -> None:
    values = np.abs(VALUES).astype(np.float32) + 5
    values[0, 0, 0] = np.nan
    image, _ = check_image(sitk.GetImageFromArray(values))
    assert image[0, 0, 0] == np.nanmin(values)


@pytest.mark.parametrize(("shear", "refused"), [(0.0, False), (5e-4, False), (2e-3, True)])
def test_axes_may_be_rounded_and_of_either_hand_but_not_sheared(shear: float, refused: bool) -> None:
    image = volume()
    image.SetDirection((0.6, 0.8, 0, 0.8, -0.6, shear, 0, 0, 1))
    with pytest.raises(ImageError) if refused else nullcontext():
        check_image(image)


def test_an_array_with_its_spacing_is_the_image_that_a_file_or_simpleitk_would_give(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), tmp_path / "image.nii.gz")
    read = read_image(tmp_path / "image.nii.gz")
    forms = (read, read.image, tmp_path / "image.nii.gz", str(tmp_path / "image.nii.gz"))
    for image, _ in (as_image(VALUES, (3, 2, 1)), *map(as_image, forms)):
        assert np.array_equal(sitk.GetArrayFromImage(image), VALUES)
        assert image.GetSpacing() == (1, 2, 3)
        assert image.GetDirection() == volume().GetDirection()
    halves, _ = as_image(VALUES.astype(np.float16), (3, 2, 1))
    assert np.array_equal(sitk.GetArrayFromImage(halves), VALUES.astype(np.float16))


@pytest.mark.parametrize(
    ("image", "spacing", "named"),
    [
        (VALUES, None, "spacing"),
        (VALUES, (1, 2), "spacing"),
        (volume(), (1, 2, 3), "spacing"),
        (VALUES[0], (1, 2), "image"),
        (VALUES > 0, (1, 2, 3), "image"),
        (VALUES.tolist(), None, "image"),
    ],
)
def test_what_is_no_image_is_refused_with_the_arguments_name(image: object, spacing: object, named: str) -> None:
    with pytest.raises(ImageError, match=named):
        as_image(image, spacing)
