"""All DICOM objects of a review: what other people's programs think of them, and that they read the same back."""

import json
from dataclasses import replace
from pathlib import Path

import highdicom
import highdicom.sr as sr
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.seg import segread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SegmentationStorage

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.dicom.objects import PROBABILITY_STEPS
from MoBUncertaintyLib.output.report import VERDICTS
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.review.review import Review
from support.dicom_validators import complaints, dcmqi, needs_dciodvfy, read_measurements, read_segments
from support.fake_case import LEFT_KIDNEY, PANCREAS
from support.fake_review import dicom_case, fake_review, from_dicom

FORMATS = ("dicom-seg", "dicom-seg-binary", "dicom-seg-fractional", "dicom-sr", "parametric-map")
SEGS = ("segmentation.dcm", "segmentation_binary.dcm", "probability.dcm")
MAPS = ("variance_1.dcm", "variance_2.dcm")
FILES = (*SEGS, "report.dcm", *MAPS)
STUDY = {"0020|0010": "S1", "0020|0011": "7", "0018|0015": "ABDOMEN"}


def review_of(folder: Path, labels: tuple = (PANCREAS, LEFT_KIDNEY)) -> Case:
    """A review of a CT from DICOM."""
    files, case = dicom_case(folder, STUDY, labels=labels)
    bounds = VolumeBounds(0.9, 30, {"pancreas": LabelBounds(Scale.ERROR, 1.2, (1.0, 0.9, 0.8, 0.7))})
    case.prediction = replace(case.prediction, stated_bounds=bounds)
    return from_dicom(fake_review(case, r1="include", r2="accept"), files)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Case]:
    """A review that is signed off, and all objects of it."""
    folder = tmp_path_factory.mktemp("review")
    case = review_of(folder / "ct")
    case.review.sign("Jörg Reader")
    assert write_export(case, folder / "out", FORMATS).problems == ()
    return folder / "out", case


def test_a_case_that_is_not_ordinary_is_told_from_others_in_a_viewers_list(tmp_path):
    case = review_of(tmp_path / "ct")
    vars(case.review.prediction)["suitability"] = Suitability(Level.NOT_USABLE, ("it is foreign",))
    assert write_export(case, tmp_path / "out", FORMATS).problems == ()
    assert all(pydicom.dcmread(tmp_path / "out" / name).SeriesDescription.startswith("NOT USABLE: ") for name in FILES)
    groups = highdicom.sr.srread(tmp_path / "out" / "report.dcm").content.get_volumetric_roi_measurement_groups()
    said = [
        each for group in groups for each in group.get_qualitative_evaluations() if each.name.value == "SUITABILITY"
    ]
    assert [each.value.meaning for each in said] == ["not usable: it is foreign"] * 2


def on_grid(image: sitk.Image, case: Case, background: float = 0.0) -> np.ndarray:
    """An image by nearest neighbours on the CT's grid: the same voxels where it has them."""
    resampled = sitk.Resample(image, case.image, sitk.Transform(), sitk.sitkNearestNeighbor, background)
    return sitk.GetArrayFromImage(resampled)


def volume_image(path: Path, number: int) -> sitk.Image:
    """A segment as highdicom reads it."""
    return as_image(segread(path).get_volume(segment_numbers=[number], rescale_fractional=False))


def as_image(volume: highdicom.Volume) -> sitk.Image:
    """A volume of highdicom, which may be left-handed."""
    matrix = volume.affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    image = sitk.GetImageFromArray(volume.array.reshape(volume.spatial_shape).T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix / spacing).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


@needs_dciodvfy
@pytest.mark.parametrize("name", FILES)
def test_validator_has_nothing_against_it(exported, name):
    assert complaints(exported[0] / name) == []


@needs_dciodvfy
def test_validator_finds_what_is_wrong(exported, tmp_path):
    dataset = pydicom.dcmread(exported[0] / "variance_1.dcm")
    del dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].VOILUTFunction
    dataset.save_as(tmp_path / "map.dcm")
    assert "Not permitted to be < 1" in "".join(complaints(tmp_path / "map.dcm"))


@pytest.mark.parametrize("name", FILES)
def test_every_program_can_read_how_it_is_stored(exported, name):
    """Deflated files are read by few; dicom3tools' programs, and older viewers, are not among them."""
    syntax = RLELossless if name == SEGS[0] else ExplicitVRLittleEndian
    assert pydicom.dcmread(exported[0] / name).file_meta.TransferSyntaxUID == syntax


class TestSegmentations:
    @pytest.mark.parametrize("reader", ["highdicom", "dcmqi"])
    @pytest.mark.parametrize("name", SEGS[:2])
    def test_label_map_and_binary_one_are_read_the_same_by(self, exported, tmp_path, name, reader):
        folder, case = exported
        path, corrected = folder / name, case.review.corrected()
        for number, label in enumerate(case.prediction.labels, 1):
            image = volume_image(path, number) if reader == "highdicom" else read_segments(path, tmp_path)[label.name]
            assert np.array_equal(on_grid(image, case) > 0, corrected == label.value)

    @pytest.mark.parametrize("reader", ["highdicom", "dcmqi"])
    def test_probabilities_are_read_the_same_by(self, exported, tmp_path, reader):
        folder, case = exported
        path = folder / "probability.dcm"
        for number, label in enumerate(case.prediction.labels, 1):
            expected = np.rint(case.review.current().probability[number - 1] * PROBABILITY_STEPS)
            assert ((expected > 0) & (expected < PROBABILITY_STEPS)).sum() > 0, "doubtful voxels are the point of it"
            image = volume_image(path, number) if reader == "highdicom" else read_segments(path, tmp_path)[label.name]
            assert np.array_equal(on_grid(image, case), expected)

    def test_they_say_what_they_are(self, exported):
        label_map, binary, fractional = (pydicom.dcmread(exported[0] / name) for name in SEGS)
        assert label_map.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage
        assert (label_map.SegmentationType, label_map.SegmentsOverlap) == ("LABELMAP", "NO")
        assert (label_map.SeriesNumber, binary.SeriesNumber) == (9001, 9006)
        assert (binary.SOPClassUID, binary.SegmentationType) == (SegmentationStorage, "BINARY")
        assert (fractional.SegmentationType, fractional.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
        assert (fractional.MaximumFractionalValue, fractional.SeriesNumber) == (PROBABILITY_STEPS, 9003)
        background, *segments = label_map.SegmentSequence
        assert (background.SegmentNumber, label_map.PixelPaddingValue) == (0, 0)
        assert background.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.DCM.Background.value
        uids = [[segment.TrackingUID for segment in each.SegmentSequence] for each in (binary, fractional)]
        assert [segment.TrackingUID for segment in segments] == uids[0] == uids[1]


class TestParametricMap:
    @pytest.mark.parametrize("reader", ["highdicom", "dcmqi"])
    @pytest.mark.parametrize("number", [1, 2])
    def test_it_is_read_the_same_by(self, exported, tmp_path, reader, number):
        folder, case = exported
        path = folder / f"variance_{number}.dcm"
        if reader == "highdicom":
            image = as_image(highdicom.imread(path).get_volume())
        else:
            image = sitk.ReadImage(str(dcmqi("paramap2itkimage", path, tmp_path) / "pmap.nrrd"))
        assert np.array_equal(on_grid(image, case), case.review.current().variance[number - 1])

    def test_series_is_called_after_the_organ(self, exported):
        names = [pydicom.dcmread(exported[0] / name).SeriesDescription for name in MAPS]
        assert names == ["Predictive variance (pancreas)", "Predictive variance (kidney_left)"]

    def test_side_is_that_of_the_organ(self, exported):
        shared = [pydicom.dcmread(exported[0] / name).SharedFunctionalGroupsSequence[0] for name in MAPS]
        assert [each.FrameAnatomySequence[0].FrameLaterality for each in shared] == ["U", "L"]  # pancreas, left kidney


class TestStructuredReport:
    def test_it_says_what_the_report_says(self, exported, tmp_path):
        folder, case = exported
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        document = sr.srread(folder / "report.dcm")
        labels = document.content.get_volumetric_roi_measurement_groups(
            graphic_type=None, reference_type=codes.DCM.ReferencedSegment
        )
        segments = pydicom.dcmread(folder / "segmentation.dcm")
        for group, row, segment in zip(labels, report["labels"], segments.SegmentSequence[1:], strict=True):
            assert (group.tracking_identifier, group.tracking_uid) == (row["name"], segment.TrackingUID)
            values = [measurement.value for measurement in group.get_measurements()]
            assert values[:3] == [row["corrected_ml"], row["predicted_ml"], row["expected_error_ml"]]
            intervals = [row["corrected_interval"], row["predicted_interval"]]
            assert values[3:] == [each[end] for each in intervals if each for end in ("low", "high")]
            assert len(values) == (7 if row["name"] == "pancreas" else 3)
            assert {measurement.unit.value for measurement in group.get_measurements()} == {"ml"}
            reference = group.reference_roi if hasattr(group, "reference_roi") else group.referenced_segment
            assert reference.referenced_sop_instance_uid == segments.SOPInstanceUID
        groups = document.content.get_volumetric_roi_measurement_groups()
        regions = [group for group in groups if group.finding_type.value == "DOUBTREG"]
        for group, row, region in zip(regions, report["regions"], case.review.regions, strict=True):
            volume, error = (measurement.value for measurement in group.get_measurements())
            assert (volume, error) == pytest.approx((row["volume_mm3"], row["expected_error_mm3"]), abs=1e-3)
            (verdict,) = (each for each in group.get_qualitative_evaluations() if each.name.value == "VERDICT")
            assert verdict.value.meaning == VERDICTS[row["verdict"]]
            (point,) = group.roi.value if hasattr(group.roi, "value") else group.roi[0].value
            voxel = np.rint(case.prediction.grid.to_index(LPS_TO_RAS * point)).astype(int)
            inside = voxel - [part.start for part in region.box]
            assert region.found.mask[tuple(inside)], "the point is in the region"
        named = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in document.ContentSequence}
        assert named["Person Observer Name"].PersonName == "Jörg Reader^"
        assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
        evidence = {
            instance.ReferencedSOPInstanceUID
            for study in document.CurrentRequestedProcedureEvidenceSequence
            for each in study.ReferencedSeriesSequence
            for instance in each.ReferencedSOPSequence
        }
        headers = (pydicom.dcmread(file, stop_before_pixels=True) for file in case.source.dicom_files)
        assert evidence == {segments.SOPInstanceUID, *(header.SOPInstanceUID for header in headers)}

    def test_it_carries_each_measurement_with_its_interval(self, tmp_path):
        case = review_of(tmp_path / "ct")
        dose = Measured("mean_dose:pancreas", "Gy", 43.5, (40.0, 46.0), Interval(37.4, 48.9, 0.9))
        distance = Measured("distance:kidney_left:pancreas", "mm", 12.5, (11.0, 14.0))
        nowhere = Measured("D99.999%:pancreas", "Gy", None)
        case = replace(Case.of(case.image, case.review, case.source), measured=(dose, distance, nowhere))
        assert write_export(case, tmp_path / "out", ["dicom-sr"]).problems == ()
        document = sr.srread(tmp_path / "out" / "report.dcm")
        found = {
            group.tracking_identifier: [(m.name.meaning, m.value, m.unit.value) for m in group.get_measurements()]
            for group in document.content.get_volumetric_roi_measurement_groups()
        }
        assert found["pancreas"][-3:] == [
            ("mean_dose as corrected", 43.5, "Gy"),
            ("mean_dose as corrected, lower end of its 90 % interval", 37.4, "Gy"),
            ("mean_dose as corrected, upper end of its 90 % interval", 48.9, "Gy"),
        ]
        assert found["kidney_left"][-1] == ("distance to pancreas as corrected", 12.5, "mm")
        assert not any("D99" in meaning for meaning, *_ in found["pancreas"])

    def test_of_one_organ_refers_to_its_only_segment(self, tmp_path):
        write_export(review_of(tmp_path / "ct", labels=(PANCREAS,)), tmp_path / "out", ["dicom-sr"])
        document = sr.srread(tmp_path / "out" / "report.dcm")
        group = document.content.get_volumetric_roi_measurement_groups()[0]
        segments = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
        assert group.tracking_uid == segments.SegmentSequence[0].TrackingUID
        assert group.referenced_segment.referenced_sop_instance_uid == segments.SOPInstanceUID

    def test_refers_to_the_binary_segmentation_where_that_is_written_alone(self, tmp_path):
        done = write_export(review_of(tmp_path / "ct"), tmp_path / "out", ["dicom-seg-binary", "dicom-sr"])
        assert {path.name for path in done.files} == {"report.json", "report.dcm", "segmentation_binary.dcm"}
        document = sr.srread(tmp_path / "out" / "report.dcm")
        group = document.content.get_volumetric_roi_measurement_groups()[0]
        segments = pydicom.dcmread(tmp_path / "out" / "segmentation_binary.dcm")
        assert group.referenced_segment.referenced_sop_instance_uid == segments.SOPInstanceUID

    def test_dcmqi_reads_the_same(self, exported, tmp_path):
        folder, _ = exported
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        groups = read_measurements(folder / "report.dcm", tmp_path)
        names = [group["TrackingIdentifier"] for group in groups]
        regions = [f"Doubtful region {row['rank']}" for row in report["regions"]]
        assert names == [*(row["name"] for row in report["labels"]), *regions]
        for group, row in zip(groups, report["labels"], strict=False):
            assert float(group["measurementItems"][0]["value"]) == row["corrected_ml"]
            assert float(group["measurementItems"][2]["value"]) == row["expected_error_ml"]

    def test_identifiers_stay_the_same_and_an_open_review_names_nobody(self, exported, tmp_path):
        first, case = exported
        review = Review(case.prediction, case.review.listed())  # of the same prediction, not reviewed yet
        done = write_export(Case.of(case.image, review, case.source), tmp_path / "out", ["dicom-sr"])
        assert {path.name for path in done.files} == {"report.json", "report.dcm", "segmentation.dcm"}
        ours, theirs = (sr.srread(folder / "report.dcm") for folder in (tmp_path / "out", first))
        assert ours.CompletionFlag == "PARTIAL"
        assert "Person Observer Name" not in str(ours)
        uids = [
            [group.tracking_uid for group in each.content.get_volumetric_roi_measurement_groups()]
            for each in (ours, theirs)
        ]
        assert uids[0] == uids[1] and len(set(uids[0])) == len(uids[0]) >= 3
