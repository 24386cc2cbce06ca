"""DICOM SEG and Parametric Map of a fake CT series: read back with highdicom, pydicom and SimpleITK."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from highdicom.seg import segread
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.base.errors import ImageError, OutputError
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.dicom.common import Origin
from MoBUncertaintyLib.output.dicom.voxels import write_dicom_seg, write_parametric_map
from support.dicom_files import write_series
from support.fake_case import LEFT_KIDNEY, OBLIQUE, PANCREAS, fake_case

MODEL = {"name": "Pancreas, MoB rank 4", "digest": "5e" * 32}
AXIAL, CORONAL = (1, 0, 0, 0, 1, 0, 0, 0, 1), (1, 0, 0, 0, 0, 1, 0, -1, 0)
SAGITTAL = (0, 0, 1, -1, 0, 0, 0, -1, 0)
SPLEEN = Label(9, "spleen", (157, 108, 162), PANCREAS.terminology | {"type": ("SCT", "78961009", "Spleen")})
LABELS = (SPLEEN, PANCREAS, LEFT_KIDNEY)  # no spleen in the picture; values are not the segments' numbers
ORIGIN, ONE = Origin(MODEL, LABELS), Origin(MODEL, [PANCREAS])

# Type 1 and type 2 of the modules that both objects have.
WITH_VALUE = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID SeriesNumber InstanceNumber Modality Manufacturer "
    "ManufacturerModelName DeviceSerialNumber SoftwareVersions ContentDate ContentTime ImageType ContentLabel "
    "NumberOfFrames Rows Columns BitsAllocated SamplesPerPixel PhotometricInterpretation FrameOfReferenceUID "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DimensionOrganizationSequence "
    "DimensionIndexSequence"
)
MAY_BE_EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName PositionReferenceIndicator ContentDescription ContentCreatorName"
)


@dataclass
class Exam:
    """A CT as DICOM files, in no order, and a prediction of it in the geometry that SimpleITK reads."""

    files: list[Path]
    labels: sitk.Image
    variance: sitk.Image


def exam(folder: Path, direction: tuple[float, ...] = OBLIQUE, tags: dict[str, str] | None = None) -> Exam:
    folder.mkdir(exist_ok=True)
    case = fake_case(direction, spacing=(1.5, 2.0, 3.0), labels=(PANCREAS, LEFT_KIDNEY))
    files = write_series(folder, case.image, tags)
    read = read_image(folder).image
    # SimpleITK may read the slices in the other order: what is at a place stays there.
    onto = [
        sitk.Resample(image_on(case.prediction.grid, array), read, sitk.Transform(), sitk.sitkNearestNeighbor)
        for array in (case.prediction.segmentation, case.prediction.variance[0])
    ]
    return Exam(random.Random(1).sample(files, len(files)), *onto)


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
    corners = np.array(
        [f.PlanePositionSequence[0].ImagePositionPatient for f in dataset.PerFrameFunctionalGroupsSequence], float
    )
    order = np.argsort(corners @ np.cross(row, column))
    image = sitk.GetImageFromArray(dataset.pixel_array[order])
    measures = shared.PixelMeasuresSequence[0]
    image.SetSpacing([*reversed(measures.PixelSpacing), measures.SpacingBetweenSlices])
    image.SetOrigin(corners[order[0]])
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel())
    return values(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor))


@pytest.fixture(scope="module")
def oblique(tmp_path_factory) -> tuple[Exam, Path, Path]:
    """An exam, its SEG and its Parametric Map."""
    folder = tmp_path_factory.mktemp("with spaces and ü")
    case = exam(folder / "ct")
    write_dicom_seg(folder / "seg.dcm", case.files, case.labels, ORIGIN)
    write_parametric_map(folder / "map.dcm", case.files, case.variance, ORIGIN, label=PANCREAS, brightest=0.08)
    return case, folder / "seg.dcm", folder / "map.dcm"


class TestPlaces:
    @pytest.mark.parametrize("how", ["as read", "flipped", "permuted", "flipped and permuted"])
    @pytest.mark.parametrize("direction", [AXIAL, OBLIQUE, CORONAL, SAGITTAL], ids=["axial", "oblique", "cor", "sag"])
    def test_organs_and_variance_lie_where_they_lay(self, tmp_path, direction, how):
        case = exam(tmp_path / "ct", direction)
        write_dicom_seg(tmp_path / "seg.dcm", case.files, turned(case.labels, how), ORIGIN)
        volume = segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
        for number, label in enumerate((PANCREAS, LEFT_KIDNEY), 1):
            expected = places_in_image(case.labels, label.value)
            found = places(volume.array == number, volume.affine[:3, :3], volume.affine[:3, 3])
            assert len(expected) > 100
            assert np.allclose(found, expected, atol=0.11)

        write_parametric_map(
            tmp_path / "map.dcm", case.files, turned(case.variance, how), ONE, label=PANCREAS, brightest=0.08
        )
        assert np.array_equal(map_on_grid(tmp_path / "map.dcm", case.variance), values(case.variance))

    def test_each_frame_refers_to_its_slice(self, oblique):
        case, seg, _ = oblique
        segmentation = segread(seg)
        for file in case.files:
            source = pydicom.dcmread(file, stop_before_pixels=True)
            frames = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
            k = case.labels.TransformPhysicalPointToIndex([float(x) for x in source.ImagePositionPatient])[2]
            # Segment 1 is value 1, segment 2 is value 2 here: the spleen is not in the picture.
            assert np.array_equal(frames[0], sitk.GetArrayFromImage(case.labels)[k])

    def test_simpleitk_reads_the_organ_in_its_place(self, oblique, tmp_path):
        case, _, _ = oblique
        one = sitk.Cast(case.labels == 2, sitk.sitkUInt8)
        write_dicom_seg(tmp_path / "one.dcm", case.files, one, ONE)
        read = sitk.ReadImage(str(tmp_path / "one.dcm"))
        assert read.GetSize()[2] < one.GetSize()[2]  # frames without the organ are not stored
        assert np.allclose(places_in_image(read, 255), places_in_image(one, 1), atol=0.11)

    def test_parametric_map_has_a_frame_for_each_slice_from_the_first_to_the_last_that_is_not_empty(self, oblique):
        case, _, path = oblique
        variance = sitk.GetArrayFromImage(case.variance)
        used = np.flatnonzero(variance.any(axis=(1, 2)))
        assert 0 < used[0] < used[-1] < len(variance) - 1
        part = slice(used[0], used[-1] + 1)
        dataset = pydicom.dcmread(path)
        heights = [
            frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in dataset.PerFrameFunctionalGroupsSequence
        ]
        expected = [pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2] for file in case.files]
        assert sorted(heights) == sorted(expected)[part]
        assert dataset.pixel_array.dtype == np.float32
        order = np.argsort(heights)
        assert np.array_equal(dataset.pixel_array[order], variance[part])


class TestSegmentation:
    def test_segments_are_coded_as_the_model_says(self, oblique):
        pancreas, kidney = segread(oblique[1]).SegmentSequence
        assert (pancreas.SegmentLabel, kidney.SegmentLabel) == ("pancreas", "kidney_left")
        category, structure = (
            kidney.SegmentedPropertyCategoryCodeSequence[0],
            kidney.SegmentedPropertyTypeCodeSequence[0],
        )
        side = structure.SegmentedPropertyTypeModifierCodeSequence[0]
        found = [(c.CodingSchemeDesignator, c.CodeValue, c.CodeMeaning) for c in (category, structure, side)]
        assert found == [LEFT_KIDNEY.terminology[key] for key in ("category", "type", "modifier")]
        assert "SegmentedPropertyTypeModifierCodeSequence" not in pancreas.SegmentedPropertyTypeCodeSequence[0]

    def test_colours_survive(self, oblique):
        for segment, label in zip(segread(oblique[1]).SegmentSequence, (PANCREAS, LEFT_KIDNEY), strict=True):
            colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
            assert np.abs(np.subtract(colour, label.colour)).max() <= 1

    def test_algorithm_is_the_model(self, oblique):
        for segment in segread(oblique[1]).SegmentSequence:
            assert segment.SegmentAlgorithmType == "AUTOMATIC"
            assert segment.SegmentAlgorithmName == MODEL["name"]
            algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
            assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL["name"], MODEL["digest"])

    def test_reviewed_by_a_reader_it_is_semi_automatic_and_bears_the_name(self, oblique, tmp_path):
        case, _, _ = oblique
        model = {"name": "a\x1b$B\nb \ud800", "digest": MODEL["digest"], "suitability": "größer\0"}
        origin = Origin(model, LABELS, corrected=True, reader="Jörg\x1b\\山田=^")
        write_dicom_seg(tmp_path / "seg.dcm", case.files, case.labels, origin)
        dataset = pydicom.dcmread(tmp_path / "seg.dcm")
        assert {segment.SegmentAlgorithmType for segment in dataset.SegmentSequence} == {"SEMIAUTOMATIC"}
        assert dataset.ContentCreatorName.family_name.strip() == "Jörg /山田"
        assert dataset.ManufacturerModelName == "a $B b"
        assert dataset.SeriesDescription == "größer : Segmentation"

    def test_segmentation_without_any_organ_says_so(self, oblique, tmp_path):
        case, _, _ = oblique
        write_dicom_seg(tmp_path / "seg.dcm", case.files, case.labels * 0, ORIGIN)
        segmentation = segread(tmp_path / "seg.dcm")
        assert segmentation.number_of_segments == 3
        assert not segmentation.get_volume().array.any()


class TestParametricMap:
    def test_values_are_variances_without_unit(self, oblique):
        dataset = pydicom.dcmread(oblique[2])
        (mapping,) = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        unit = mapping.MeasurementUnitsCodeSequence[0]
        assert (unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning) == ("1", "UCUM", "no units")
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
        (quantity,) = mapping.QuantityDefinitionSequence
        assert quantity.ConceptNameCodeSequence[0].CodeValue == codes.SCT.Quantity.value
        assert "variance" in quantity.ConceptCodeSequence[0].CodeMeaning.lower()

    def test_it_is_shown_on_the_scenes_scale(self, oblique):
        (window,) = pydicom.dcmread(oblique[2]).SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (0.04, 0.08)

    def test_it_names_the_organ_and_is_for_research(self, oblique):
        dataset = pydicom.dcmread(oblique[2])
        assert dataset.SeriesDescription == "Predictive variance (pancreas)"
        assert dataset.ContentQualification == "RESEARCH"


@pytest.mark.parametrize("which", [1, 2], ids=["segmentation", "parametric map"])
class TestBoth:
    def test_patient_study_and_frame_of_reference_are_the_cts(self, oblique, which):
        dataset, source = pydicom.dcmread(oblique[which]), pydicom.dcmread(oblique[0].files[0])
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert dataset[name].value == source[name].value
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID

    def test_the_cts_slices_are_referred_to(self, oblique, which):
        (series,) = pydicom.dcmread(oblique[which]).ReferencedSeriesSequence
        found = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
        whole = {pydicom.dcmread(file).SOPInstanceUID for file in oblique[0].files}
        assert found == whole if which == 1 else found < whole and len(found) > 1

    def test_what_dicom_demands_is_there(self, oblique, which):
        dataset = pydicom.dcmread(oblique[which])
        assert [name for name in WITH_VALUE.split() if name not in dataset or dataset[name].is_empty] == []
        assert [name for name in MAY_BE_EMPTY.split() if name not in dataset] == []
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert list(measures.PixelSpacing) == [2.0, 1.5]
        assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (5, pytest.approx(3, abs=1e-3))


def write_both(folder: Path, files: list[Path], case: Exam) -> None:
    write_dicom_seg(folder / "seg.dcm", files, case.labels, ORIGIN)
    write_parametric_map(folder / "map.dcm", files, case.variance, ONE, label=PANCREAS, brightest=0.08)


class TestEnhanced:
    def test_frames_of_one_file_are_slices_too(self, oblique, tmp_path):
        case, _, _ = oblique
        slices = [pydicom.dcmread(file) for file in case.files]  # in no order
        for dataset in slices:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            for name in (
                "PatientBirthDate",
                "PatientSex",
                "StudyDate",
                "StudyTime",
                "StudyID",
                "AccessionNumber",
                "Manufacturer",
            ):
                setattr(dataset, name, None)
        enhanced = LegacyConvertedEnhancedCTImage(slices, highdicom.UID(), 5, highdicom.UID(), 1)
        enhanced.save_as(tmp_path / "ct.dcm")
        write_both(tmp_path, [tmp_path / "ct.dcm"], case)
        volume = segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
        for number in (1, 2):
            found = places(volume.array == number, volume.affine[:3, :3], volume.affine[:3, 3])
            assert np.allclose(found, places_in_image(case.labels, number), atol=0.11)
        assert np.array_equal(map_on_grid(tmp_path / "map.dcm", case.variance), values(case.variance))


class TestRefusals:
    @pytest.fixture
    def case(self, oblique) -> Exam:
        case, _, _ = oblique
        return Exam(list(case.files), sitk.Image(case.labels), sitk.Image(case.variance))

    def refused(self, folder: Path, case: Exam, kind: type[Exception], message: str) -> None:
        """Both are refused with one sentence that says what to do, and nothing is written."""
        for write, image in (
            (write_dicom_seg, case.labels),
            (functools.partial(write_parametric_map, label=PANCREAS, brightest=0.08), case.variance),
        ):
            with pytest.raises(kind, match=message) as caught:
                write(folder / "out.dcm", case.files, image, ORIGIN)
            assert str(caught.value).endswith(".")
            assert "\n" not in str(caught.value)
        assert not (folder / "out.dcm").exists()

    def test_missing_slice(self, case, tmp_path):
        case.files.pop(11)
        self.refused(tmp_path, case, OutputError, r"it has 28 slices, the files 27\); export as NRRD")

    def test_unevenly_spaced_slices(self, case, tmp_path):
        source = pydicom.dcmread(case.files[5])
        source.ImagePositionPatient[2] += 1
        source.save_as(tmp_path / "moved.dcm")
        case.files[5] = tmp_path / "moved.dcm"
        self.refused(tmp_path, case, OutputError, "slices are missing or unevenly spaced")

    def test_the_same_slice_twice(self, case, tmp_path):
        case.files[5] = case.files[6]
        self.refused(tmp_path, case, OutputError, "slices are missing or unevenly spaced")

    def test_cropped_volume(self, case, tmp_path):
        case.labels, case.variance = case.labels[2:, :, :], case.variance[2:, :, :]
        self.refused(tmp_path, case, OutputError, "its slices have 38 x 36 pixels, the files' have 40 x 36")

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_moved_volume(self, case, tmp_path, axis):
        for image in (case.labels, case.variance):
            origin = np.array(image.GetOrigin())
            origin[axis] += 0.5
            image.SetOrigin(origin)
        self.refused(tmp_path, case, OutputError, "its voxels lie elsewhere")

    def test_rounded_positions_are_accepted(self, case, tmp_path):
        case.labels.SetOrigin(np.round(case.labels.GetOrigin(), 1) + 0.04)
        write_dicom_seg(tmp_path / "seg.dcm", case.files, case.labels, ORIGIN)
        assert segread(tmp_path / "seg.dcm").number_of_segments == 2

    def test_stretched_volume(self, case, tmp_path):
        for image in (case.labels, case.variance):
            image.SetSpacing((1.51, 2.0, 3.0))
        self.refused(tmp_path, case, OutputError, "its voxels lie elsewhere")

    def test_rotated_volume(self, case, tmp_path):
        for image in (case.labels, case.variance):
            image.SetDirection(AXIAL)
        self.refused(tmp_path, case, OutputError, "its axes are turned against the slices")

    def test_no_files(self, case, tmp_path):
        case.files.clear()
        self.refused(tmp_path, case, ImageError, "There are no DICOM files of this image")

    def test_file_that_is_gone(self, case, tmp_path):
        case.files[3] = tmp_path / "gone.dcm"
        self.refused(tmp_path, case, ImageError, r"gone\.dcm cannot be read \(No such file or directory\)")

    @pytest.mark.parametrize("content", [b"", b"text", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\x00\x10"])
    def test_file_that_is_no_dicom(self, case, tmp_path, content):
        case.files[3] = tmp_path / "notes.dcm"
        case.files[3].write_bytes(content)
        self.refused(tmp_path, case, ImageError, r"notes\.dcm (cannot be read|has no SOPClassUID)")

    def test_slice_of_another_series(self, case, tmp_path):
        (tmp_path / "other").mkdir()
        case.files[3] = exam(tmp_path / "other", tags={"0020|000e": "1.2.3.999"}).files[3]
        self.refused(tmp_path, case, ImageError, "belong to several series")

    @pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"])
    def test_file_without_its_place(self, case, tmp_path, name):
        source = pydicom.dcmread(case.files[3])
        delattr(source, name)
        source.save_as(tmp_path / "poor.dcm")
        case.files[3] = tmp_path / "poor.dcm"
        self.refused(tmp_path, case, ImageError, "do not say where their slices lie")

    def test_file_without_a_frame_of_reference(self, case, tmp_path):
        source = pydicom.dcmread(case.files[3])
        del source.FrameOfReferenceUID
        source.save_as(tmp_path / "poor.dcm")
        case.files[3] = tmp_path / "poor.dcm"
        self.refused(tmp_path, case, ImageError, r"poor\.dcm has no FrameOfReferenceUID")

    def test_slice_of_another_direction(self, case, tmp_path):
        source = pydicom.dcmread(case.files[3])
        source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        source.save_as(tmp_path / "turned.dcm")
        case.files[3] = tmp_path / "turned.dcm"
        self.refused(tmp_path, case, ImageError, "differ in size, direction or spacing")

    def test_value_without_a_label(self, case, tmp_path):
        with pytest.raises(OutputError):
            write_dicom_seg(tmp_path / "seg.dcm", case.files, case.labels, ONE)

    def test_folder_that_is_not_there(self, case, tmp_path):
        with pytest.raises(OutputError):
            write_dicom_seg(tmp_path / "no" / "seg.dcm", case.files, case.labels, ORIGIN)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_full_disk(self, case, tmp_path):
        (tmp_path / "seg.dcm").symlink_to("/dev/full")
        (tmp_path / "map.dcm").symlink_to("/dev/full")
        with pytest.raises(OutputError):
            write_dicom_seg(tmp_path / "seg.dcm", case.files, case.labels, ORIGIN)
        with pytest.raises(OutputError):
            write_parametric_map(tmp_path / "map.dcm", case.files, case.variance, ONE, label=PANCREAS, brightest=0.08)
        assert list(tmp_path.iterdir()) == []
