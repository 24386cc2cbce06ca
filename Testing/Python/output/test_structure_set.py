"""RT Structure Sets: what is written is read back, as it stands, and by what others have drawn."""

import dataclasses
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from skimage.draw import polygon

from MoBUncertaintyLib.base.errors import ImageError, OutputError
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.images.reader import ReadImage, read_image
from MoBUncertaintyLib.images.segmentations import read_segmentation
from MoBUncertaintyLib.output.dicom.objects import outlines
from MoBUncertaintyLib.review.state import Signature
from support.dicom_files import DISTANCE, SHAPE, hounsfield, of, write_enhanced, write_series
from support.dicom_study import write_structures
from support.dicom_validators import complaints, needs_dciodvfy
from support.fake_case import LEFT_KIDNEY, PANCREAS
from support.fake_review import dicom_case

LABELS = (PANCREAS, LEFT_KIDNEY)
SARCOMA = Path(__file__).parents[4] / "shared" / "data" / "rtstruct" / "CT"


@dataclasses.dataclass
class Exam:
    files: list[Path]
    image: sitk.Image
    segmentation: sitk.Image

    def write(self, path: Path, signature: Signature | None = None, corrected: bool = False) -> Dataset:
        write_structures(path, self.files, self.segmentation, LABELS, corrected=corrected, signature=signature)
        return pydicom.dcmread(path)


@pytest.fixture(scope="module")
def exam(tmp_path_factory) -> Exam:
    files, case = dicom_case(tmp_path_factory.mktemp("ct"), spacing=(1.5, 2.0, 3.0), labels=LABELS)
    return Exam(files, case.image, image_on(case.prediction.grid, case.prediction.segmentation))


def drawn_on(image: sitk.Image, voxels: np.ndarray, files: list[Path]) -> Exam:
    segmentation = sitk.GetImageFromArray(voxels * np.uint8(PANCREAS.value))
    segmentation.CopyInformation(image)
    return Exam(files, image, segmentation)


def read_structure_set(path: Path, image: sitk.Image) -> dict[str, np.ndarray]:
    structures = read_segmentation(path, ReadImage(image, [], (), "", is_dicom=False)).structures
    return {structure.name: structure.load() for structure in structures}


def structure_set(path: Path, regions: dict[str, list[list[tuple[float, float, float]]]], kind="CLOSED_PLANAR") -> Path:
    """Write contours as other programs do: the points of each, LPS mm."""
    dataset = of(SOPClassUID=pydicom.uid.RTStructureSetStorage, SOPInstanceUID="1.2.7")
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), 5):
        region = of(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID="1.2.3.9")
        dataset.StructureSetROISequence.append(region)
        data = [np.ravel(points).tolist() for points in contours]
        sequence = [of(ContourGeometricType=kind, ContourData=each) for each in data]
        dataset.ROIContourSequence.append(of(ReferencedROINumber=number, ContourSequence=sequence))
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def square(z: float, first: float, last: float) -> list[tuple[float, float, float]]:
    """Corners of a square in the plane z, in voxels of `plain`."""
    corners = [(first, first), (last, first), (last, last), (first, last)]
    return [(x * 2.0, y * 2.0, z * 3.0) for x, y in corners]


@pytest.fixture
def plain() -> sitk.Image:
    image = sitk.Image((12, 12, 10), sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 3.0))
    return image


class TestWriting:
    def test_it_is_read_back_voxel_by_voxel(self, exam, tmp_path):
        exam.write(tmp_path / "rt.dcm")
        masks = read_structure_set(tmp_path / "rt.dcm", exam.image)
        voxels = sitk.GetArrayViewFromImage(exam.segmentation)
        assert list(masks) == [label.name for label in LABELS]
        for label in LABELS:
            assert (masks[label.name] == (voxels == label.value)).all()

    @settings(max_examples=60, deadline=None)
    @given(arrays(bool, (9, 11), elements=st.booleans()))
    def test_any_mask_survives_as_outlines(self, mask):
        again = np.zeros_like(mask)
        for points in outlines(mask):
            again[polygon(*points.T, mask.shape)] ^= True
        assert (again == mask).all()

    def test_a_hole_is_part_of_the_contour_around_it(self):
        mask = np.zeros((9, 9), bool)
        mask[1:8, 1:8] = True
        mask[3:6, 3:6] = False
        mask[4, 4] = True
        assert len(list(outlines(mask))) == 2

    @pytest.mark.parametrize("how", ["flipped", "permuted"])
    def test_other_orders_of_the_voxels_give_the_same_contours(self, exam, tmp_path, how):
        straight = exam.write(tmp_path / "rt.dcm")
        image = exam.segmentation
        image = sitk.Flip(image, (True, False, True)) if how == "flipped" else sitk.PermuteAxes(image, (2, 0, 1))
        turned = dataclasses.replace(exam, segmentation=image).write(tmp_path / "turned.dcm")
        assert turned.ROIContourSequence == straight.ROIContourSequence

    @needs_dciodvfy
    @pytest.mark.parametrize("signed", [False, True])
    def test_validator_has_nothing_against_it(self, exam, tmp_path, signed):
        signature = Signature.of("Dr. Ada Löw", datetime(2026, 1, 2, 3, 4)) if signed else None
        exam.write(tmp_path / "rt.dcm", signature=signature)
        assert [line for line in complaints(tmp_path / "rt.dcm") if "DICOMDIR" not in line] == []

    def test_only_a_reader_approves(self, exam, tmp_path):
        assert exam.write(tmp_path / "a.dcm").ApprovalStatus == "UNAPPROVED"
        signed = exam.write(tmp_path / "b.dcm", corrected=True, signature=Signature.of("Ada", datetime(2026, 1, 2, 3)))
        assert (signed.ApprovalStatus, signed.ReviewerName, signed.ReviewDate) == ("APPROVED", "Ada^", "20260102")
        assert signed.StructureSetROISequence[0].ROIGenerationAlgorithm == "SEMIAUTOMATIC"

    def test_contours_name_organ_and_slice(self, exam, tmp_path):
        dataset = exam.write(tmp_path / "rt.dcm")
        observation = dataset.RTROIObservationsSequence[0]
        assert observation.RTROIInterpretedType == "ORGAN"
        assert observation.RTROIIdentificationCodeSequence[0].CodeValue == PANCREAS.terminology["type"][1]
        headers = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, exam.files)}
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            header = headers[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            normal = np.cross(*np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float))
            heights = np.reshape(contour.ContourData, (-1, 3)).astype(float) @ normal
            assert np.allclose(heights, np.array(header.ImagePositionPatient, float) @ normal, atol=0.01)

    def test_contours_of_one_file_name_its_frame(self, tmp_path):
        path = write_enhanced(tmp_path / "enhanced.dcm", hounsfield())
        image = read_image(path).image
        voxels = np.zeros(SHAPE, bool)
        voxels[4, 2:5, 3:6] = True
        contour = drawn_on(image, voxels, [path]).write(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence[0]
        assert contour.ContourImageSequence[0].ReferencedFrameNumber == 5
        assert float(contour.ContourData[2]) == 5 + 4 * DISTANCE

    def test_long_contours_stay_numbers(self, tmp_path):
        """A value of more than 64 kB has no room in an explicit transfer syntax, and would be of an unknown type."""
        folder = tmp_path / "ct"
        folder.mkdir()
        image = sitk.Image((130, 130, 2), sitk.sitkInt16)
        write_series(folder, image)
        voxels = np.zeros((2, 130, 130), bool)
        voxels[0, 1:128:3, 1:129] = voxels[0, 2:128:3, 1:129:2] = True  # combs, whose teeth have four corners each
        voxels[0, :, 1] = True
        written = drawn_on(image, voxels, [*folder.iterdir()]).write(tmp_path / "rt.dcm")
        contour = written.ROIContourSequence[0].ContourSequence[0]
        assert contour["ContourData"].VR == "DS"
        assert len(contour.ContourData) > 3 * 2800

    def test_labels_that_are_nowhere_have_no_contours(self, exam, tmp_path):
        empty = dataclasses.replace(exam, segmentation=exam.segmentation * 0)
        assert all("ContourSequence" not in item for item in empty.write(tmp_path / "rt.dcm").ROIContourSequence)
        assert read_structure_set(tmp_path / "rt.dcm", exam.image) == {}

    def test_volumes_beside_the_slices_are_refused(self, exam, tmp_path):
        moved = sitk.Image(exam.segmentation)
        moved.SetOrigin([value + 20 for value in moved.GetOrigin()])
        with pytest.raises(OutputError):
            dataclasses.replace(exam, segmentation=moved).write(tmp_path / "rt.dcm")
        assert not (tmp_path / "rt.dcm").exists()


class TestReading:
    def test_what_lies_within_an_even_number_of_contours_is_a_hole(self, plain, tmp_path):
        contours = [square(4, 0.5, 10.5), square(4, 2.5, 8.5), square(4, 4.5, 6.5)]
        mask = read_structure_set(structure_set(tmp_path / "rt.dcm", {"a": contours}), plain)["a"]
        assert mask[4].sum() == 10**2 - 6**2 + 2**2
        assert not mask[[3, 5]].any()

    @pytest.mark.parametrize(
        ("heights", "slices"),
        [
            ((2, 4, 6), range(1, 8)),  # on every other slice
            ((2.4, 3.4, 4.4), range(2, 5)),  # between the slices
            ((2, 2.4, 2.8, 3.2), range(2, 4)),  # on finer ones
            ((1, 2, 3, 7, 8), (1, 2, 3, 7, 8)),  # of two pieces
            ((-3, -2, 0), (0,)),  # the image shows a part
        ],
    )
    def test_slices_get_the_nearest_contours(self, plain, tmp_path, heights, slices):
        contours = [square(z, 0.5, 4.5) for z in heights]
        mask = read_structure_set(structure_set(tmp_path / "rt.dcm", {"a": contours}), plain)["a"]
        assert np.flatnonzero(mask.any((1, 2))).tolist() == list(slices)

    def test_contours_of_one_plane_belong_together_whatever_its_rounding(self, plain, tmp_path):
        contours = [square(z / 20 + 1e-9 * half, 0.5 + 4 * half, 3.5 + 4 * half) for z in (41, 61) for half in (0, 1)]
        mask = read_structure_set(structure_set(tmp_path / "rt.dcm", {"a": contours}), plain)["a"]
        assert mask.sum(axis=(1, 2)).tolist() == [0, 0, 18, 18, 0, 0, 0, 0, 0, 0]

    def test_coronal_images_are_filled_as_well(self, plain, tmp_path):
        path = structure_set(tmp_path / "rt.dcm", {"a": [square(z, 1.5, 6.5) for z in range(2, 6)]})
        mask = read_structure_set(path, plain)["a"]
        turned = read_structure_set(path, sitk.PermuteAxes(plain, (0, 2, 1)))["a"]
        assert (turned == mask.transpose(1, 0, 2)).all()

    def test_points_and_lines_are_no_regions(self, plain, tmp_path):
        path = structure_set(tmp_path / "rt.dcm", {"a": [square(2, 1, 5)]}, kind="POINT")
        assert read_structure_set(path, plain) == {}

    @pytest.mark.parametrize(
        "points",
        [[(0, 0, 0), (8, 0, 8), (8, 8, 8), (0, 8, 0)], [("1e400", 0, 0), (8, 0, 0), (8, 8, 0)]],
        ids=["oblique", "not finite"],
    )
    def test_contours_that_are_not_the_images_are_refused(self, plain, tmp_path, points):
        path = structure_set(tmp_path / "rt.dcm", {"a": [points]})
        with pytest.raises(ImageError):
            read_structure_set(path, plain)

    def test_damaged_files_and_regions_of_one_name_are_refused(self, plain, tmp_path):
        path = structure_set(tmp_path / "rt.dcm", {"a": [square(2, 1, 5)], "b": [square(2, 1, 5)]})
        content, dataset = path.read_bytes(), pydicom.dcmread(path)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError):
            read_structure_set(path, plain)
        dataset.StructureSetROISequence[1].ROIName = "a"
        dataset.save_as(path)
        with pytest.raises(ImageError):
            read_structure_set(path, plain)

    @pytest.mark.skipif(not SARCOMA.is_dir(), reason="the patient is not on this machine")
    def test_a_clinical_contour_is_read_as_others_read_it(self):
        """5,564 voxels by Plastimatch 1.10 as well, all of them the same."""
        image = read_image(SARCOMA / "image")
        (path,) = (SARCOMA / "mask").glob("*.dcm")
        (structure,) = read_segmentation(path, image).structures
        assert structure.load().sum() == 5564
