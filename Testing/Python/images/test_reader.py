"""Reading and checking input images: what is accepted, what is refused, and with which sentence."""

from __future__ import annotations

import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.images.reader import check_image, read_image

SHAPE = (20, 30, 40)


def volume(dtype: type = np.int16, spacing: tuple[float, ...] = (1, 2, 3)) -> sitk.Image:
    values = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    return image


def written(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path), True)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def write_series(
    folder: Path,
    uid: str,
    positions: list[float],
    description: str = "arterial",
    orientation: str = "1\\0\\0\\0\\1\\0",
) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    rng = np.random.default_rng(0)
    for i, z in enumerate(positions):
        slice_ = sitk.GetImageFromArray(rng.integers(-1000, 1000, (30, 40)).astype(np.int16))
        slice_.SetSpacing((0.8, 0.8))
        tags = {
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0008|0018": f"{uid}.{i}",
            "0020|0013": str(i),
            "0020|0032": f"0\\0\\{z}",
            "0020|0037": orientation,
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{description}_{i}.dcm"))
        writer.Execute(slice_)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_reads_the_voxels_and_geometry_that_were_written(tmp_path: Path, suffix: str) -> None:
    image = volume()
    image.SetOrigin((-10, 20, 5))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    found = read_image(written(image, tmp_path / f"ct{suffix}"))
    read, warnings = found.image, found.warnings
    assert not warnings
    assert read.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read, name)() == pytest.approx(getattr(image, name)(), abs=1e-6)


def test_reads_a_dicom_folder_with_one_series(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.1", [0, 3, 6, 9])
    read = read_image(tmp_path)
    image, warnings = read.image, read.warnings
    assert image.GetSize() == (40, 30, 4)
    assert image.GetSpacing() == pytest.approx((0.8, 0.8, 3))
    assert not warnings


def test_two_series_in_a_dicom_folder_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.1", [0, 3, 6, 9], "arterial")
    write_series(tmp_path, "1.2.3.2", [0, 3, 6], "venous")
    with pytest.raises(ImageError, match=r"2 DICOM series; choose one .*arterial, 4 slices.*venous, 3 slices"):
        read_image(tmp_path)
    assert read_image(tmp_path, series="1.2.3.2").image.GetSize()[2] == 3
    with pytest.raises(ImageError, match=r"no DICOM series 9\.9"):
        read_image(tmp_path, series="9.9")


def test_missing_dicom_slices_are_reported(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.1", [0, 3, 6, 12, 15])
    read = read_image(tmp_path)
    warnings = read.warnings
    assert len(warnings) == 1
    assert "unevenly spaced (3 to 6 mm)" in warnings[0]


def test_slices_of_a_tilted_gantry_are_refused(tmp_path: Path) -> None:
    """Slices lie beside each other: along the table, while their normal is tilted."""
    tilted = "1\\0\\0\\0\\0.9397\\-0.3420"  # by 20 degrees
    write_series(tmp_path, "1.2.3.1", [0, 5, 10, 15], orientation=tilted)
    with pytest.raises(ImageError, match=r"shifted beside each other by up to 5\.13 mm \(a tilted gantry\); resample"):
        read_image(tmp_path)


def test_two_time_points_in_one_dicom_series_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.1", [0, 0, 3, 3, 6, 6])
    with pytest.raises(ImageError, match="same place"):
        read_image(tmp_path)


@pytest.mark.parametrize("changed", [slice(2, 3), slice(None)], ids=["one slice", "all slices"])
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImagePositionPatient", []),
        ("ImagePositionPatient", [0, 3]),
        ("ImageOrientationPatient", None),
        ("ImageOrientationPatient", []),
        ("ImageOrientationPatient", [1, 0, 0]),
    ],
)
def test_slices_of_unknown_place_are_refused(tmp_path: Path, changed: slice, tag: str, value: Any) -> None:
    """SimpleITK alone stacks them 1 mm apart, without a word."""
    write_series(tmp_path, "1.2.3.1", [0, 3, 6, 9])
    for path in sorted(tmp_path.iterdir())[changed]:
        with pydicom.dcmread(path) as stored:
            delattr(stored, tag)
            if value is not None:
                setattr(stored, tag, value)
            stored.save_as(path)
    number = "0020,0032" if tag == "ImagePositionPatient" else "0020,0037"
    with pytest.raises(ImageError, match=rf"do not say where they lie \({number} is .*; export the series again"):
        read_image(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.nii\.gz does not exist"):
        read_image(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha"])
def test_text_file_with_an_image_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("This is not an image. " * 100)
    with pytest.raises(ImageError, match=rf"^text.*{name.split('.', 1)[1]} .*(readable|cannot be read)"):
        read_image(path)


# SimpleITK itself reads the first two as an image whose second half is 0.
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = cut(written(volume(), tmp_path / name), share)
    with pytest.raises(ImageError, match=r"truncated|cannot be read"):
        read_image(path)


def test_damaged_bytes_in_a_compressed_file_are_found_by_its_checksum(tmp_path: Path) -> None:
    path = written(volume(), tmp_path / "ct.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged|not a readable"):
        read_image(path)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nifti_header_without_a_spacing_is_refused_not_repaired(tmp_path: Path, value: float) -> None:
    path = written(volume(), tmp_path / "ct.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 80, value)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"states a spacing of .* correct the header"):
        read_image(path)


@pytest.mark.parametrize("spacing", ["0 2 3", "nan 2 3"])
def test_metaimage_header_without_a_spacing_is_refused(tmp_path: Path, spacing: str) -> None:
    path = tmp_path / "ct.mha"
    sitk.WriteImage(volume(), str(path), False)
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 2 3", f"ElementSpacing = {spacing}".encode()))
    with pytest.raises(ImageError, match=r"cannot be read|its ElementSpacing is"):
        read_image(path)


@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (0.8, 0.8, 20.0)])
def test_spacing_that_no_model_can_use_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match=r"outside 0\.2 to 15 mm; correct the header or resample"):
        check_image(volume(spacing=spacing))


def test_spacing_that_is_not_a_number_is_refused() -> None:
    image = volume()
    image.SetSpacing((float("nan"), 1, 1))
    with pytest.raises(ImageError, match="not a number"):
        check_image(image)


def test_2d_image_is_refused() -> None:
    with pytest.raises(ImageError, match=r"single slice \(40 x 30\)"):
        check_image(volume()[:, :, 3])


def test_single_slice_is_refused_from_its_header(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"single slice \(40 x 30 x 1\)"):
        read_image(written(volume()[:, :, 3:4], tmp_path / "slice.nii.gz"))


def test_rgb_image_is_refused(tmp_path: Path) -> None:
    gray = sitk.Cast(volume(), sitk.sitkUInt8)
    with pytest.raises(ImageError, match="3 values per voxel, like a colour image"):
        read_image(written(sitk.Compose(gray, gray, gray), tmp_path / "rgb.nii.gz"))


def test_4d_series_is_refused_and_a_single_time_point_is_not(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"four dimensions \(40 x 30 x 20 x 2\)"):
        read_image(written(sitk.JoinSeries([volume(), volume()]), tmp_path / "perfusion.nii.gz"))
    image, _ = check_image(sitk.JoinSeries([volume()]))
    assert image.GetSize() == (40, 30, 20)


def test_one_component_vector_becomes_scalar() -> None:
    image, _ = check_image(sitk.Compose([volume()]))
    assert image.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(volume()))


def test_constant_volume_is_refused() -> None:
    with pytest.raises(ImageError, match="Every voxel of the image has the value -1000"):
        check_image(volume() * 0 - 1000)


def test_non_finite_voxels_become_air_and_are_counted() -> None:
    values = sitk.GetArrayFromImage(volume(np.float32))
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    image, warnings = check_image(sitk.GetImageFromArray(values))
    checked = sitk.GetArrayFromImage(image)
    assert checked[0, 0, 0] == checked[1, 1, 1] == checked[2, 2, 2] == -1024
    assert (checked != values).sum() == 3
    assert warnings == ["3 voxels are not finite numbers and were set to air (-1024)."]


def test_non_finite_voxels_of_other_modalities_become_the_smallest_value() -> None:
    values = np.abs(sitk.GetArrayFromImage(volume(np.float32))) + 5
    values[0, 0, 0] = np.nan
    image, _ = check_image(sitk.GetImageFromArray(values))
    assert image[0, 0, 0] == np.nanmin(values)


def test_volume_of_nothing_but_nan_is_refused() -> None:
    with pytest.raises(ImageError, match="No voxel"):
        check_image(sitk.GetImageFromArray(np.full(SHAPE, np.nan, np.float32)))


def test_complex_image_is_refused() -> None:
    with pytest.raises(ImageError, match="complex"):
        check_image(sitk.RealAndImaginaryToComplex(sitk.Cast(volume(), sitk.sitkFloat32), volume(np.float32)))


def test_sheared_nifti_is_refused(tmp_path: Path) -> None:
    path = written(volume(), tmp_path / "ct.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<4f", content, 280, 1, 0.5, 0, 0)
    struct.pack_into("<hh", content, 252, 0, 1)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="orthonormal"):
        read_image(path)


TILTED = "not at right angles .*tilted gantry.*resample the image to a straight volume"


def test_sheared_nrrd_is_refused(tmp_path: Path) -> None:
    """As of a tilted gantry; ITK makes an image of it without a word, and its volumes are wrong."""
    path = tmp_path / "ct.nrrd"
    sitk.WriteImage(volume(spacing=(1, 1, 1)), str(path), False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(1,0,0) (0,1,0) (0,0,1)", b"(1,0,0) (0,1,0) (0,0.3,1)"))
    with pytest.raises(ImageError, match=TILTED):
        read_image(path)


@pytest.mark.parametrize(("shear", "refused"), [(0.0, False), (5e-4, False), (2e-3, True)])
def test_axes_may_be_rounded_and_of_either_hand_but_not_sheared(shear: float, refused: bool) -> None:
    image = volume()
    image.SetDirection((0.6, 0.8, 0, 0.8, -0.6, shear, 0, 0, 1))
    with pytest.raises(ImageError, match=TILTED) if refused else nullcontext():
        check_image(image)


def test_folder_lists_its_volumes_in_order(tmp_path: Path) -> None:
    for name in ("b.nrrd", "a.nii.gz", ".hidden.nii.gz"):
        written(volume(), tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    found = list_inputs(tmp_path)
    assert [(each.name, bool(each.problem)) for each in found] == [("a", False), ("b", False), ("notes.txt", True)]
    assert list_inputs(tmp_path / "b.nrrd") == [Input(tmp_path / "b.nrrd", "", "")]


def test_the_number_of_nnunets_only_channel_is_no_part_of_a_name(tmp_path: Path) -> None:
    for name in ("a_0000", "b_0000", "b_0001", "c", "c_0000"):  # b has two channels, c would be there twice
        written(volume(), tmp_path / f"{name}.nii.gz")
    names = {each.entry.removesuffix(".nii.gz"): each.name for each in list_inputs(tmp_path)}
    assert names == {
        "a_0000": "a",
        "b_0000": "b_0000",
        "b_0001": "b_0001",
        "c": "c.nii.gz",
        "c_0000": "c_0000.nii.gz",
    }


def test_folder_of_dicom_folders_lists_them(tmp_path: Path) -> None:
    write_series(tmp_path / "one", "1.2.3.1", [0, 3])
    write_series(tmp_path / "two", "1.2.3.2", [0, 3])
    (tmp_path / "empty").mkdir()
    empty, *found = list_inputs(tmp_path)
    assert (empty.problem, empty.is_case) == ("it holds no image", False)
    assert found == [Input(tmp_path / name, name, name) for name in ("one", "two")]
    assert list_inputs(tmp_path / "one") == [Input(tmp_path / "one", "", "")]
    with pytest.raises(ImageError, match="holds no image"):
        list_inputs(tmp_path / "empty")
    with pytest.raises(ImageError, match="does not exist"):
        list_inputs(tmp_path / "nowhere")
    (tmp_path / "prediction.json").write_text('{"schema": "mob-uncertainty results"}')
    with pytest.raises(ImageError, match="holds results, not images; give the image that they were made from"):
        list_inputs(tmp_path)


def entries(folder: Path) -> dict[str, str]:
    """What is wrong with each entry of a folder, by the names of their results folders."""
    found = list_inputs(folder)
    assert len({each.name for each in found}) == len(found)
    return {each.name: each.problem for each in found}


def test_folder_with_a_dicom_directory_file_lists_its_series(tmp_path: Path) -> None:
    write_series(tmp_path / "one", "1.2.3.1", [0, 3])
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert entries(tmp_path) == {"one": ""}


def test_dicom_files_that_lie_beside_other_images_are_named(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.1", [0, 3])
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    assert list_inputs(tmp_path) == [Input(tmp_path, "", "")]
    written(volume(), tmp_path / "a.nii.gz")
    assert {name: bool(problem) for name, problem in entries(tmp_path).items()} == {
        "a": False, "report.pdf": True, tmp_path.name: True
    }  # fmt: skip


def test_results_folders_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.mha", "b.c.nrrd", "d.nrrd.nii", "d.nrrd", "a/a.nii.gz", "e/a.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(volume(), tmp_path / name)
    assert set(entries(tmp_path)) == {"a", "a.mha", "a.nii.gz", "b.c", "d.nrrd.nii", "d", "e"}


def test_results_in_the_folder_of_the_images_are_no_images(tmp_path: Path) -> None:
    written(volume(), tmp_path / "a.nii.gz")
    (tmp_path / "out" / "a").mkdir(parents=True)
    assert [each.name for each in list_inputs(tmp_path, tmp_path / "out")] == ["a"]


def test_nan_in_a_nifti_file_is_not_mistaken_for_water(tmp_path: Path) -> None:
    """SimpleITK alone reads it as 0 HU, without a word."""
    values = np.random.default_rng(0).normal(40, 10, (6, 7, 8)).astype(np.float32)
    values[0] = -1000
    values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    read = read_image(path)
    image, warnings = read.image, read.warnings
    array = sitk.GetArrayFromImage(image)
    assert array[1, 2, 3] == array[4, 5, 6] <= -1000
    assert array[1, 2, 2] == values[1, 2, 2]
    assert any("2 voxels" in warning for warning in warnings)
