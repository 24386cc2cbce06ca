"""DICOM as it comes: read as highdicom reads it, or refused in one sentence. Never something else."""

import copy
import shutil
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless, RLELossless

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.reader import ReadImage, read_image
from support import dicom_files as dicom

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
HU = dicom.hounsfield()
UNEVEN = "Slices are missing or unevenly spaced (2.5 to 5 mm): sizes may be wrong."


def array(read: ReadImage) -> np.ndarray:
    return sitk.GetArrayFromImage(read.image)


def check_true(read: ReadImage) -> None:
    """It is the CT that was written."""
    assert np.array_equal(array(read), HU)
    assert read.image.GetPixelID() == sitk.sitkInt16
    assert read.image.GetSpacing() == pytest.approx((dicom.SPACING[1], dicom.SPACING[0], dicom.DISTANCE))
    assert read.image.GetOrigin() == pytest.approx((-20, 30, 5))
    assert read.image.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert not read.warnings


def scaled(slope: float, intercept: float, signed: bool) -> Callable[[Dataset], None]:
    """The same Hounsfield units, stored otherwise."""

    def change(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, np.int16).reshape(dataset.Rows, dataset.Columns) + dicom.INTERCEPT
        stored = np.round((values - intercept) / slope)
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = stored.astype(np.int16 if signed else np.uint16).tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    return change


def half_of_the_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def smaller(dataset: Dataset) -> None:
    half_of_the_pixels(dataset)
    dataset.Rows //= 2


def setting(name: str, value: Any) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, name, value)


def without(name: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, name)


def later_half(change: Callable[[Dataset], None]) -> dict[int, Callable[[Dataset], None]]:
    return dict.fromkeys(range(len(HU) // 2, len(HU)), change)


READ: dict[str, dict[int, Callable[[Dataset], None]]] = {
    "plain": {},
    "first slice unsigned with another intercept": {0: scaled(1, -31768, signed=False)},
    "every slice rescaled otherwise": {i: scaled(1, -1024 + 100 * i, signed=True) for i in range(len(HU))},
    "MONOCHROME1": {-1: setting("PhotometricInterpretation", "MONOCHROME1")},
    "no frame of reference": {-1: without("FrameOfReferenceUID")},
}


def unknown_places() -> Iterator[dict[int, Callable[[Dataset], None]]]:
    """SimpleITK alone stacks them 1 mm apart, without a word."""
    for keyword, values in (
        ("ImagePositionPatient", (None, [], [0, 3])),
        ("ImageOrientationPatient", (None, [], [1, 0, 0])),
        ("PixelSpacing", (None,)),
    ):
        for value in values:
            change = without(keyword) if value is None else setting(keyword, value)
            for index in (2, -1):  # one slice, all of them
                yield {index: change}


REFUSED: list[dict[int, Callable[[Dataset], None]]] = [
    *unknown_places(),
    {2: half_of_the_pixels},
    {2: without("PixelData")},
    later_half(setting("PixelSpacing", [0.9, 0.9])),
    later_half(setting("ImageOrientationPatient", [0, 1, 0, -1, 0, 0])),
    {1: smaller},
    {1: setting("Rows", dicom.SHAPE[1] - 1)},
    {1: setting("Rows", 65535)},
    {-1: without("RescaleSlope")},
    {4: lambda dataset: (without("RescaleSlope")(dataset), without("RescaleIntercept")(dataset))},
    later_half(setting("FrameOfReferenceUID", "1.2.3.10")),
    {-1: setting("PixelSpacing", [0, 0])},
    {-1: setting("ImageOrientationPatient", [0] * 6)},
    {-1: setting("SamplesPerPixel", 3)},
    {1: setting("ImagePositionPatient", [-20, 30, 5])},
    # The table moves level, while the slices' normal is tilted by 20 degrees.
    {-1: setting("ImageOrientationPatient", [1, 0, 0, 0, 0.9397, -0.3420])},
]


@pytest.mark.parametrize("changes", READ.values(), ids=READ.keys())
def test_slices_are_read_with_their_own_rescaling(tmp_path: Path, changes: dict) -> None:
    dicom.write_slices(tmp_path, HU, changes)
    check_true(read_image(tmp_path))


@pytest.mark.parametrize("changes", REFUSED)
def test_slices_that_are_no_volume_are_refused(tmp_path: Path, changes: dict) -> None:
    dicom.write_slices(tmp_path, HU, changes)
    with pytest.raises(ImageError):
        read_image(tmp_path)


def test_missing_slices_are_reported(tmp_path: Path) -> None:
    dicom.write_slices(tmp_path, HU)[3].unlink()
    assert read_image(tmp_path).warnings == [UNEVEN]


def test_two_series_in_a_folder_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    def venous(dataset: Dataset) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.5", "venous"

    dicom.write_slices(tmp_path, HU)
    for path in dicom.write_slices(tmp_path / "more", HU[:3], {-1: venous}):
        path.rename(tmp_path / f"venous {path.name}")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path)
    assert "portal venous, 6 slices" in str(caught.value) and "venous, 3 slices" in str(caught.value)
    assert read_image(tmp_path, series="1.2.3.5").image.GetSize()[2] == 3
    with pytest.raises(ImageError):
        read_image(tmp_path, series="9.9")


def test_files_in_any_order_and_foreign_files_beside_them(tmp_path: Path) -> None:
    for index, path in enumerate(reversed(dicom.write_slices(tmp_path / "written", HU))):
        (tmp_path / "ct").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "ct" / f"{index}")  # without a suffix, as from a scanner
    before = read_image(tmp_path / "ct")
    check_true(before)
    for name in (".DS_Store", "notes.txt"):
        (tmp_path / "ct" / name).write_text("\x08\0 something")
    after = read_image(tmp_path / "ct")
    check_true(after)
    assert after.sha256 == before.sha256
    assert len(after.files) == len(HU)


def test_file_that_is_dicom_by_its_name_only_is_not_passed_over(tmp_path: Path) -> None:
    """It may be the last slice: nothing else would tell that it is missing."""
    paths = dicom.write_slices(tmp_path, HU)
    paths[-1].write_bytes(b"\0" * 2000)
    with pytest.raises(ImageError):
        read_image(tmp_path)


# --- multi-frame -----------------------------------------------------------------------------------------------------


def frames(change: Callable[[list[Dataset]], Any]) -> Callable[[Dataset], None]:
    def apply(dataset: Dataset) -> None:
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        change(groups)
        dataset.PerFrameFunctionalGroupsSequence = groups

    return apply


def reordered(dataset: Dataset) -> None:
    order = [3, 0, 5, 1, 4, 2]
    stored = np.frombuffer(dataset.PixelData, np.int16).reshape(HU.shape)
    dataset.PixelData = stored[order].tobytes()
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]


def frame_missing(dataset: Dataset) -> None:
    stored = np.frombuffer(dataset.PixelData, np.int16).reshape(HU.shape)
    dataset.PixelData = np.delete(stored, 2, 0).tobytes()
    dataset.NumberOfFrames = len(HU) - 1
    dataset.PerFrameFunctionalGroupsSequence = [
        group for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence) if index != 2
    ]


def intercept_of_each_frame(dataset: Dataset) -> None:
    stored = np.frombuffer(dataset.PixelData, np.int16).reshape(HU.shape).copy()
    shared = dataset.SharedFunctionalGroupsSequence[0]
    transform = shared.PixelValueTransformationSequence[0]
    del shared.PixelValueTransformationSequence
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        stored[index] += 10 * index
        own = copy.deepcopy(transform)
        own.RescaleIntercept = dicom.INTERCEPT - 10 * index
        group.PixelValueTransformationSequence = [own]
    dataset.PixelData = stored.tobytes()


def one_frame_not_rescaled(dataset: Dataset) -> None:
    intercept_of_each_frame(dataset)
    del dataset.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence


def without_measures(dataset: Dataset) -> None:
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


def turned_frames(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        cosines = [1, 0, 0, 0, 1, 0] if index < 3 else [0, 1, 0, -1, 0, 0]
        group.PlaneOrientationSequence = [dicom.of(ImageOrientationPatient=cosines)]


@pytest.mark.parametrize("change", [None, reordered, intercept_of_each_frame])
@pytest.mark.parametrize("as_folder", [True, False])
def test_enhanced_ct_is_read_frame_by_frame(tmp_path: Path, change: Any, as_folder: bool) -> None:
    path = dicom.write_enhanced(tmp_path / "ct" / "enhanced.dcm", HU, change)
    check_true(read_image(path.parent if as_folder else path))


def test_enhanced_ct_with_a_frame_missing_is_read_with_the_warning_that_slices_get(tmp_path: Path) -> None:
    path = dicom.write_enhanced(tmp_path / "enhanced.dcm", HU, frame_missing)
    read = read_image(path)
    assert np.array_equal(array(read), np.delete(HU, 2, 0))
    assert read.warnings == [UNEVEN]


@pytest.mark.parametrize(
    "change",
    [
        half_of_the_pixels,
        without_measures,
        turned_frames,
        one_frame_not_rescaled,
        without("PerFrameFunctionalGroupsSequence"),
        frames(lambda groups: groups.pop()),
        setting("NumberOfFrames", 2**31 - 1),
        setting("NumberOfFrames", "six"),
    ],
)
def test_enhanced_ct_that_is_no_volume_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "enhanced.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dicom.write_enhanced(path, HU, change)
        except ValueError:  # what pydicom does not write
            dicom.write_enhanced(path, HU)
            path.write_bytes(path.read_bytes().replace(b"(\0\x08\0IS\x02\x006 ", b"(\0\x08\0IS\x02\0?!"))
    with pytest.raises(ImageError):
        read_image(path)


# --- others' files ---------------------------------------------------------------------------------------------------


def _of_highdicom(files: list[Path]) -> highdicom.Volume | None:
    """What highdicom makes of a series; None where it refuses."""
    datasets = [pydicom.dcmread(file) for file in files]
    options = {"apply_presentation_lut": False, "apply_real_world_transform": False}
    try:
        if "PerFrameFunctionalGroupsSequence" in datasets[0]:
            return highdicom.Image.from_dataset(datasets[0]).get_volume(**options)
        return highdicom.get_volume_from_series(datasets, **options)
    except Exception:
        return None


def pydicom_series() -> list[Path]:
    """Folders of slices that pydicom's wheel holds."""
    return sorted({path.parent for path in PYDICOM_FILES.rglob("dicomdirtests/*/[CM][TR]*/*")})


@pytest.mark.parametrize("folder", pydicom_series(), ids=lambda folder: "/".join(folder.parts[-2:]))
def test_series_of_pydicom_are_read_as_by_highdicom_or_refused(folder: Path) -> None:
    for uid in {str(pydicom.dcmread(path).SeriesInstanceUID) for path in folder.iterdir()}:
        files = [path for path in sorted(folder.iterdir()) if pydicom.dcmread(path).SeriesInstanceUID == uid]
        theirs = _of_highdicom(files)
        try:
            read = read_image(folder, uid)
        except ImageError as error:
            assert str(error).endswith(".")
            assert theirs is None or "single slice" in str(error)
            continue
        if theirs is None:
            assert read.warnings  # uneven slices
        else:
            theirs = theirs.flip_spatial(0)  # its slices go against the normal
            assert np.array_equal(array(read), theirs.array)
            assert read.image.GetOrigin() == pytest.approx(theirs.position)
            assert read.image.GetSpacing() == pytest.approx(theirs.spacing[::-1], rel=1e-3)


@pytest.mark.parametrize("path", sorted(PYDICOM_FILES.glob("*.dcm")), ids=lambda path: path.name)
def test_single_files_of_pydicom_are_no_volume(path: Path) -> None:
    with pytest.raises(ImageError):
        read_image(path)


# --- packed pixels ---------------------------------------------------------------------------------------------------


def lossless_jpeg(folder: Path) -> Path:
    """The CT as JPEG Lossless, which pydicom alone cannot unpack; written by SimpleITK's GDCM."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    for index, slice_ in enumerate(HU):
        image = sitk.GetImageFromArray(slice_)
        image.SetSpacing((dicom.SPACING[1], dicom.SPACING[0]))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0008|0018": f"1.2.3.4.{index}"}
        tags |= {"0020|0032": f"-20\\30\\{5 + dicom.DISTANCE * index}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index}.dcm"))
        writer.Execute(image)
    assert pydicom.dcmread(folder / "0.dcm").file_meta.TransferSyntaxUID == JPEGLosslessSV1
    return folder


def test_lossless_jpeg_is_read_though_simpleitk_cannot_open_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = lossless_jpeg(tmp_path / "ct").rename(tmp_path / "臓"), sitk.ReadImage
    monkeypatch.setattr(sitk, "ReadImage", lambda path, **more: read(path.encode("ascii").decode(), **more))
    check_true(read_image(folder))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_lossless_jpeg_in_an_enhanced_ct_is_read(tmp_path: Path, order: list[int]) -> None:
    slices = [pydicom.dcmread(path) for path in sorted(lossless_jpeg(tmp_path / "slices").iterdir())]
    packed = [next(pydicom.encaps.generate_frames(each.PixelData, number_of_frames=1)) for each in slices]

    def pack(dataset: Dataset) -> None:
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
        transform = dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
        transform.RescaleIntercept = slices[0].RescaleIntercept
        dataset.PixelRepresentation = slices[0].PixelRepresentation
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = pydicom.encaps.encapsulate([packed[index] for index in order])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    check_true(read_image(dicom.write_enhanced(tmp_path / "enhanced.dcm", HU, pack)))


def test_truncated_lossless_jpeg_is_refused(tmp_path: Path) -> None:
    path = lossless_jpeg(tmp_path / "ct") / "3.dcm"
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(ImageError):
        read_image(path.parent)


# --- size ------------------------------------------------------------------------------------------------------------


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("element", ["the pixels", "the description"])
def test_damaged_length_takes_no_memory(tmp_path: Path, element: str) -> None:
    """A small file that says of an element that it has 4 GB."""
    path = dicom.write_slices(tmp_path, HU)[0]
    content = bytearray(path.read_bytes())
    pixels = content.index(b"\xe0\x7f\x10\0") + 8
    start = pixels if element == "the pixels" else content.index(b"portal venous") - 4
    content[start : start + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(content)
    with little_memory():
        if element == "the pixels":
            check_true(read_image(tmp_path))  # they are the rest of the file, and as many as they should be
        else:
            with pytest.raises(ImageError):
                read_image(tmp_path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_damaged_size_takes_no_memory(tmp_path: Path, syntax: str) -> None:
    """A packed slice can state any size."""
    path = dicom.write_slices(tmp_path, HU)[0]
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.Rows = dataset.Columns = 40000
    dataset.save_as(path)
    with little_memory(), pytest.raises(ImageError):
        read_image(tmp_path)


def test_sequences_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = dicom.write_slices(tmp_path, HU)[0]
    content = path.read_bytes()
    pixels = content.index(b"\xe0\x7f\x10\0")
    nested = b"\x32\0\x64\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4
    path.write_bytes(content[:pixels] + nested * 20000 + content[pixels:])
    with pytest.raises(ImageError):
        read_image(tmp_path)


def test_three_hundred_slices_take_seconds(tmp_path: Path) -> None:
    values = np.broadcast_to(dicom.hounsfield((1, 256, 256)), (300, 256, 256))
    dicom.write_slices(tmp_path, values)
    start = time.process_time()
    read_image(tmp_path)
    assert time.process_time() - start < 10


def write_without_size(folder: Path, kind: str) -> None:
    """A series whose last slice has no size, and is of another kind."""
    path = dicom.write_slices(folder, HU)[-1]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    del dataset.Rows, dataset.Columns
    dataset.save_as(path, enforce_file_format=False)


@pytest.mark.parametrize("kind", ["", "1.2.840.10008.5.1.1e4.2", "1.2.nan.5.1.4.1.1.2"])
def test_a_slice_whose_header_is_damaged_is_not_left_out(tmp_path: Path, kind: str) -> None:
    """It may be the last one, which no gap gives away."""
    write_without_size(tmp_path, kind)
    with pytest.raises(ImageError):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.88.11", "1.3.12.2.1107.5.9.1"])
def test_what_is_no_image_is_left_out(tmp_path: Path, kind: str) -> None:
    """A report, and a manufacturer's own data."""
    write_without_size(tmp_path, kind)
    assert read_image(tmp_path).image.GetSize()[2] == len(HU) - 1
