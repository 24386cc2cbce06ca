"""DICOM SEG and Parametric Map of a fake CT series: read back with highdicom, pydicom and SimpleITK."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from highdicom.seg import segread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.base.errors import ImageError, OutputError
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.review.state import Signature
from support.dicom_study import MODEL, write_map, write_seg
from support.fake_case import LEFT_KIDNEY, OBLIQUE, PANCREAS
from support.fake_review import dicom_case
from support.marks import needs_full_device

AXIAL, CORONAL = (1, 0, 0, 0, 1, 0, 0, 0, 1), (1, 0, 0, 0, 0, 1, 0, -1, 0)
SAGITTAL = (0, 0, 1, -1, 0, 0, 0, -1, 0)
SPLEEN = Label(9, "spleen", (157, 108, 162), PANCREAS.terminology | {"type": ("SCT", "78961009", "Spleen")})
LABELS = (SPLEEN, PANCREAS, LEFT_KIDNEY)  # no spleen in the picture; values are not the segments' numbers


@dataclass
class Exam:
    """A CT as DICOM files, in no order, and a prediction of it in the geometry that SimpleITK reads."""

    files: list[Path]
    labels: sitk.Image
    variance: sitk.Image


def exam(folder: Path, direction: tuple[float, ...] = OBLIQUE, tags: dict[str, str] | None = None) -> Exam:
    options = {"direction": direction, "spacing": (1.5, 2.0, 3.0), "labels": (PANCREAS, LEFT_KIDNEY)}
    files, case = dicom_case(folder, tags, **options)
    own = case.prediction
    images = (image_on(own.grid, array) for array in (own.segmentation, own.variance[0]))
    return Exam(random.Random(1).sample(files, len(files)), *images)


def turned(image: sitk.Image, how: str) -> sitk.Image:
    """The same voxels at the same places, stored in another order."""
    if "flipped" in how:
        image = sitk.Flip(image, (True, False, True))
    if "permuted" in how:
        image = sitk.PermuteAxes(image, (2, 0, 1))
    return image


def places(mask: np.ndarray, matrix: np.ndarray, origin) -> np.ndarray:
    """Positions (mm) of what is set, in one order, whatever the axes' order; indices are the matrix's."""
    points = np.round(np.argwhere(mask) @ matrix.T + origin, 1) + 0.0
    return points[np.lexsort(points.T)]


def places_in_image(image: sitk.Image, value: int) -> np.ndarray:
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return places((sitk.GetArrayFromImage(image) == value).T, matrix, image.GetOrigin())


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def map_on_grid(path: Path, grid: sitk.Image) -> np.ndarray:
    """A Parametric Map as pydicom reads it, by nearest neighbours on a grid: the same voxels if it is its own."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    frames = dataset.PerFrameFunctionalGroupsSequence
    corners = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    order = np.argsort(corners @ np.cross(row, column))
    image = sitk.GetImageFromArray(dataset.pixel_array[order])
    measures = shared.PixelMeasuresSequence[0]
    image.SetSpacing([*reversed(measures.PixelSpacing), measures.SpacingBetweenSlices])
    image.SetOrigin(corners[order[0]])
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel())
    return values(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor))


def check_places(folder: Path, files: list[Path], labels: sitk.Image, variance: sitk.Image, case: Exam) -> None:
    """Write both, and find organs and variance where they lie in the exam."""
    for binary in (False, True):
        write_seg(folder / "seg.dcm", files, labels, LABELS, binary)
        volume = segread(folder / "seg.dcm").get_volume(combine_segments=True)
        for number, label in enumerate((PANCREAS, LEFT_KIDNEY), 1):
            expected = places_in_image(case.labels, label.value)
            found = places(volume.array == number, volume.affine[:3, :3], volume.affine[:3, 3])
            assert len(expected) > 100
            assert np.allclose(found, expected, atol=0.11)
    write_map(folder / "map.dcm", files, variance, [PANCREAS])
    assert np.array_equal(map_on_grid(folder / "map.dcm", case.variance), values(case.variance))


@pytest.fixture(scope="module")
def oblique(tmp_path_factory) -> tuple[Exam, Path, Path]:
    """An exam, its SEG and its Parametric Map."""
    folder = tmp_path_factory.mktemp("with spaces and ü")
    case = exam(folder / "ct")
    write_seg(folder / "seg.dcm", case.files, case.labels, LABELS)
    write_map(folder / "map.dcm", case.files, case.variance, LABELS)
    return case, folder / "seg.dcm", folder / "map.dcm"


class TestPlaces:
    @pytest.mark.parametrize(
        ("direction", "how"),
        [
            (OBLIQUE, "as read"),
            *((direction, "flipped and permuted") for direction in (OBLIQUE, AXIAL, CORONAL, SAGITTAL)),
        ],
    )
    def test_organs_and_variance_lie_where_they_lay(self, tmp_path, direction, how):
        case = exam(tmp_path / "ct", direction)
        check_places(tmp_path, case.files, turned(case.labels, how), turned(case.variance, how), case)

    def test_frames_of_one_file_are_slices_too(self, oblique, tmp_path):
        case, _, _ = oblique
        slices = [pydicom.dcmread(file) for file in case.files]  # in no order
        empty = ["PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"]
        for dataset in slices:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            for name in [*empty, "Manufacturer"]:
                setattr(dataset, name, None)
        enhanced = LegacyConvertedEnhancedCTImage(slices, highdicom.UID(), 5, highdicom.UID(), 1)
        enhanced.save_as(tmp_path / "ct.dcm")
        check_places(tmp_path, [tmp_path / "ct.dcm"], case.labels, case.variance, case)

    def test_each_frame_refers_to_its_slice(self, oblique):
        case, seg, _ = oblique
        segmentation = segread(seg)
        for file in case.files:
            source = pydicom.dcmread(file, stop_before_pixels=True)
            frames = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
            k = case.labels.TransformPhysicalPointToIndex([float(x) for x in source.ImagePositionPatient])[2]
            # Segment 1 is value 1, segment 2 is value 2 here: the spleen is not in the picture.
            assert np.array_equal(frames[0], values(case.labels)[k])

    def test_simpleitk_reads_the_organ_in_its_place(self, oblique, tmp_path):
        case, _, _ = oblique
        one = sitk.Cast(case.labels == 2, sitk.sitkUInt8)
        write_seg(tmp_path / "one.dcm", case.files, one, [PANCREAS])
        read = sitk.ReadImage(str(tmp_path / "one.dcm"))
        assert read.GetSize()[2] < one.GetSize()[2]  # frames without the organ are not stored
        assert np.allclose(places_in_image(read, 255), places_in_image(one, 1), atol=0.11)

    def test_parametric_map_has_a_frame_for_each_slice_from_the_first_to_the_last_that_is_not_empty(self, oblique):
        case, _, path = oblique
        variance = values(case.variance)
        used = np.flatnonzero(variance.any(axis=(1, 2)))
        assert 0 < used[0] < used[-1] < len(variance) - 1
        part = slice(used[0], used[-1] + 1)
        dataset = pydicom.dcmread(path)
        frames = dataset.PerFrameFunctionalGroupsSequence
        heights = [frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames]
        expected = [pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2] for file in case.files]
        assert sorted(heights) == sorted(expected)[part]
        assert dataset.pixel_array.dtype == np.float32
        assert np.array_equal(dataset.pixel_array[np.argsort(heights)], variance[part])


class TestSegmentation:
    def test_segments_have_the_models_labels_codes_and_colours(self, oblique):
        segments = segread(oblique[1]).SegmentSequence[1:]  # the first is the background
        for segment, label in zip(segments, (PANCREAS, LEFT_KIDNEY), strict=True):
            assert segment.SegmentLabel == label.name
            structure = segment.SegmentedPropertyTypeCodeSequence[0]
            stored = segment.SegmentedPropertyCategoryCodeSequence[0], structure
            stored += tuple(structure.get("SegmentedPropertyTypeModifierCodeSequence", ()))
            found = [(each.CodingSchemeDesignator, each.CodeValue, each.CodeMeaning) for each in stored]
            assert found == [each for each in label.terminology.values() if each]
            colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
            assert np.abs(np.subtract(colour, label.colour)).max() <= 1
            assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", MODEL["name"])
            algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
            assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL["name"], MODEL["digest"])

    def test_reviewed_by_a_reader_it_is_semi_automatic_and_bears_the_name(self, oblique, tmp_path):
        case, _, _ = oblique
        signature = Signature("Jörg\x1b\\山田=^", datetime.now())
        changes = {"model": MODEL | {"name": "a\x1b$B\nb \ud800"}, "signature": signature, "warning": "größer\0"}
        write_seg(tmp_path / "seg.dcm", case.files, case.labels, LABELS, corrected=True, **changes)
        dataset = pydicom.dcmread(tmp_path / "seg.dcm")
        assert {segment.SegmentAlgorithmType for segment in dataset.SegmentSequence} == {"SEMIAUTOMATIC"}
        assert dataset.ContentCreatorName.family_name.strip() == "Jörg /山田"
        assert dataset.ManufacturerModelName == "a $B b"
        assert dataset.SeriesDescription == "größer : Segmentation"

    def test_segmentation_without_any_organ_has_its_segments(self, oblique, tmp_path):
        case, _, _ = oblique
        write_seg(tmp_path / "seg.dcm", case.files, case.labels * 0, LABELS)
        segmentation = segread(tmp_path / "seg.dcm")
        assert segmentation.segment_numbers == [1, 2, 3]
        assert not segmentation.get_volume().array.any()


def test_parametric_map_holds_variances_without_unit_on_the_scenes_scale(oblique):
    dataset = pydicom.dcmread(oblique[2])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning) == ("1", "UCUM", "no units")
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    (quantity,) = mapping.QuantityDefinitionSequence
    assert quantity.ConceptNameCodeSequence[0].CodeValue == codes.SCT.Quantity.value
    assert "variance" in quantity.ConceptCodeSequence[0].CodeMeaning.lower()
    (window,) = shared.FrameVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (0.04, 0.08)
    assert dataset.SeriesDescription == "Predictive variance (pancreas)"
    assert dataset.ContentQualification == "RESEARCH"


@pytest.mark.parametrize("which", [1, 2], ids=["segmentation", "parametric map"])
def test_patient_study_and_slices_are_the_cts(oblique, which):
    """That all is there that DICOM demands is what the validator looks at, in test_dicom_objects.py."""
    dataset, source = pydicom.dcmread(oblique[which]), pydicom.dcmread(oblique[0].files[0])
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[name].value == source[name].value
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = dataset.ReferencedSeriesSequence
    found = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    whole = {pydicom.dcmread(file).SOPInstanceUID for file in oblique[0].files}
    assert found == whole if which == 1 else found < whole and len(found) > 1
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [2.0, 1.5]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (5, pytest.approx(3, abs=1e-3))


# What is done to an exam; its own files are not touched.


def changed(index: int, change: Callable[[Dataset], object]) -> Callable[[Exam, Path], None]:
    """Change the header of a slice."""

    def of(case: Exam, folder: Path) -> None:
        dataset = pydicom.dcmread(case.files[index])
        change(dataset)
        dataset.save_as(folder / "changed.dcm")
        case.files[index] = folder / "changed.dcm"

    return of


def volumes(change: Callable[[sitk.Image], object]) -> Callable[[Exam, Path], None]:
    """Change both volumes, in place or by others."""

    def of(case: Exam, _: Path) -> None:
        case.labels, case.variance = (change(image) or image for image in (case.labels, case.variance))

    return of


def raised(dataset: Dataset) -> None:
    dataset.ImagePositionPatient[2] += 1


def replaced(content: bytes) -> Callable[[Exam, Path], None]:
    def of(case: Exam, folder: Path) -> None:
        case.files[3] = folder / "notes.dcm"
        case.files[3].write_bytes(content)

    return of


def without(name: str) -> Callable[[Exam, Path], None]:
    return changed(3, lambda dataset: delattr(dataset, name))


def moved(axis: int) -> Callable[[sitk.Image], None]:
    return lambda image: image.SetOrigin(np.add(image.GetOrigin(), 0.5 * np.eye(3)[axis]))


OF_IMAGE = {
    "no files": lambda case, _: case.files.clear(),
    "file that is gone": lambda case, folder: case.files.__setitem__(3, folder / "gone.dcm"),
    "empty file": replaced(b""),
    "text": replaced(b"text"),
    "preamble alone": replaced(b"\0" * 128 + b"DICM"),
    "truncated header": replaced(b"\0" * 128 + b"DICM\x02\x00\x10"),
    "slice of another series": lambda case, folder: case.files.__setitem__(
        3, exam(folder / "other", tags={"0020|000e": "1.2.3.999"}).files[3]
    ),
    "no position": without("ImagePositionPatient"),
    "no orientation": without("ImageOrientationPatient"),
    "no spacing": without("PixelSpacing"),
    "no rows": without("Rows"),
    "no frame of reference": without("FrameOfReferenceUID"),
    "slice of another direction": changed(3, lambda one: setattr(one, "ImageOrientationPatient", [1, 0, 0, 0, 1, 0])),
}
OF_OUTPUT = {
    "missing slice": lambda case, _: case.files.pop(11),
    "unevenly spaced slices": changed(5, raised),
    "the same slice twice": lambda case, _: case.files.__setitem__(5, case.files[6]),
    "cropped volume": volumes(lambda image: image[2:, :, :]),
    "moved to the left": volumes(moved(0)),
    "moved to posterior": volumes(moved(1)),
    "moved upwards": volumes(moved(2)),
    "stretched volume": volumes(lambda image: image.SetSpacing((1.51, 2.0, 3.0))),
    "rotated volume": volumes(lambda image: image.SetDirection(AXIAL)),
}


@pytest.fixture
def case(oblique) -> Exam:
    case, _, _ = oblique
    return Exam(list(case.files), sitk.Image(case.labels), sitk.Image(case.variance))


@pytest.mark.parametrize("name", [*OF_IMAGE, *OF_OUTPUT])
def test_what_does_not_fit_is_refused_in_one_sentence_and_nothing_is_written(case, tmp_path, name):
    (OF_IMAGE | OF_OUTPUT)[name](case, tmp_path)
    for write, image in ((write_seg, case.labels), (write_map, case.variance)):
        with pytest.raises(ImageError if name in OF_IMAGE else OutputError) as caught:
            write(tmp_path / "out.dcm", case.files, image, LABELS)
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.dcm").exists()


def test_rounded_positions_are_accepted(case, tmp_path):
    case.labels.SetOrigin(np.round(case.labels.GetOrigin(), 1) + 0.04)
    write_seg(tmp_path / "seg.dcm", case.files, case.labels, LABELS)
    assert segread(tmp_path / "seg.dcm").segment_numbers == [1, 2]


@pytest.mark.parametrize(("path", "origin"), [("seg.dcm", [PANCREAS]), ("no/seg.dcm", LABELS)])
def test_value_without_a_label_and_folder_that_is_not_there(case, tmp_path, path, origin):
    with pytest.raises(OutputError):
        write_seg(tmp_path / path, case.files, case.labels, origin)


@needs_full_device
def test_full_disk(case, tmp_path):
    for write, image in ((write_seg, case.labels), (write_map, case.variance)):
        (tmp_path / "full.dcm").symlink_to("/dev/full")
        with pytest.raises(OutputError):
            write(tmp_path / "full.dcm", case.files, image, LABELS)
        assert list(tmp_path.iterdir()) == []
