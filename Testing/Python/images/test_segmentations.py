"""Segmentations by any tool: the same masks on the image's voxels, whatever the format; or refused."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import occupied
from MoBUncertaintyLib.images.grid import grid_of, image_on
from MoBUncertaintyLib.images.reader import ReadImage, read_image
from MoBUncertaintyLib.images.segmentations import read_segmentation, segmentation_digest
from MoBUncertaintyLib.output.segment_nrrd import Segment, write_segments
from support.dicom_study import write_seg, write_structures
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case
from support.fake_review import dicom_case

LABELS = (PANCREAS, LEFT_KIDNEY)
SARCOMA = Path(__file__).parents[4] / "shared" / "data" / "rtstruct" / "CT"
NAMES = [label.name for label in LABELS]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    sitk.WriteImage(fake_case(labels=LABELS).image, folder / "ct.nii.gz")
    return folder


@pytest.fixture(scope="module")
def image(place: Path) -> ReadImage:
    return read_image(place / "ct.nii.gz")


DRAWN = fake_case(labels=LABELS).prediction.segmentation


def stored(image: ReadImage, path: Path, change=lambda labels: labels) -> Path:
    """Write the label map, changed as an image."""
    sitk.WriteImage(change(image_on(grid_of(image.image), DRAWN)), path)
    return path


def masks(path: Path, image: ReadImage) -> dict[str, np.ndarray]:
    return {each.name: each.load() for each in read_segmentation(path, image).structures}


def assert_as_drawn(found: dict[str, np.ndarray], names: list[str] = NAMES) -> None:
    assert list(found) == names
    for value, mask in enumerate(found.values(), start=1):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, value == DRAWN)


@pytest.mark.parametrize("name", ["map.nii.gz", "map.nrrd", "map.mha"])
def test_a_label_map_has_its_values_for_names(name: str, image: ReadImage, tmp_path: Path) -> None:
    assert_as_drawn(masks(stored(image, tmp_path / name), image), ["1", "2"])


def test_voxels_in_another_order_and_extent_are_the_image_s(image: ReadImage, tmp_path: Path) -> None:
    def turned(labels: sitk.Image) -> sitk.Image:
        box = [(side.start, side.stop) for side in reversed(occupied(DRAWN))]
        part = labels[tuple(slice(start, stop) for start, stop in box)]
        return sitk.PermuteAxes(part, (2, 0, 1))[::-1, :, ::-1]

    assert_as_drawn(masks(stored(image, tmp_path / "map.nii.gz", turned), image), ["1", "2"])


def test_slicer_s_segments_keep_names_and_codes(image: ReadImage, tmp_path: Path) -> None:
    segments = [Segment.of(label, label.name) for label in LABELS]
    write_segments(tmp_path / "s.seg.nrrd", DRAWN, grid_of(image.image), segments, crop=True)
    read = read_segmentation(tmp_path / "s.seg.nrrd", image)
    assert_as_drawn(masks(tmp_path / "s.seg.nrrd", image))
    assert [each.code for each in read.structures] == [("SCT", "15776009"), ("SCT", "64033007")]
    assert [each.modifier for each in read.structures] == [None, ("SCT", "7771000")]


def test_segments_that_overlap_lie_in_layers(image: ReadImage, tmp_path: Path) -> None:
    layers = np.stack([DRAWN == 1, DRAWN > 0], axis=-1).astype(np.uint8)
    both = image_on(grid_of(image.image), layers)
    for number, name in enumerate(("inner", "outer")):
        for part, text in (("Name", name), ("Layer", number), ("LabelValue", 1)):
            both.SetMetaData(f"Segment{number}_{part}", str(text))
    sitk.WriteImage(both, tmp_path / "s.seg.nrrd")
    found = masks(tmp_path / "s.seg.nrrd", image)
    np.testing.assert_array_equal(found["inner"], DRAWN == 1)
    np.testing.assert_array_equal(found["outer"], DRAWN > 0)


def test_a_folder_of_masks_is_named_by_its_files(image: ReadImage, tmp_path: Path) -> None:
    for value, name in enumerate(NAMES, start=1):
        stored(image, tmp_path / f"{name}.nii.gz", lambda labels, value=value: labels == value)
    (tmp_path / ".DS_Store").write_bytes(b"Bud1")
    found = masks(tmp_path, image)
    assert_as_drawn({name: found[name] for name in NAMES})


def test_a_label_table_names_values(image: ReadImage, tmp_path: Path) -> None:
    """As TotalSegmentator writes it into the label map of all its classes."""
    path = stored(image, tmp_path / "map.nii.gz")
    labels = nibabel.load(path)
    rows = "".join(f'<Label Key="{v}" Red="1" Alpha="1"><![CDATA[{n}]]></Label>\n' for v, n in enumerate(NAMES, 1))
    table = f"<CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>"
    labels.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    nibabel.save(labels, tmp_path / "named.nii.gz")
    assert_as_drawn(masks(tmp_path / "named.nii.gz", image))


def test_an_extension_that_names_no_values_does_no_harm(image: ReadImage, tmp_path: Path) -> None:
    """As converters from DICOM write it: the header of a slice."""
    labels, header = nibabel.load(stored(image, tmp_path / "map.nii.gz")), pydicom.Dataset()
    header.PatientName = "A"
    labels.header.extensions.append(nibabel.nifti1.Nifti1DicomExtension(2, header))
    nibabel.save(labels, tmp_path / "dicom.nii.gz")
    assert list(masks(tmp_path / "dicom.nii.gz", image)) == list(masks(tmp_path / "map.nii.gz", image))


@pytest.fixture(scope="module")
def dicom(tmp_path_factory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("dicom")
    files, case = dicom_case(folder / "ct", labels=LABELS)
    drawn = image_on(case.prediction.grid, case.prediction.segmentation)
    write_seg(folder / "map.dcm", files, drawn, LABELS)
    write_seg(folder / "binary.dcm", files, drawn, LABELS, binary=True)
    write_structures(folder / "structures.dcm", files, drawn, LABELS)
    return folder, case.prediction.segmentation


@pytest.mark.parametrize("name", ["map.dcm", "binary.dcm", "structures.dcm"])
def test_dicom_objects_lie_on_the_slices(name: str, dicom: tuple[Path, np.ndarray]) -> None:
    folder, drawn = dicom
    found = masks(folder / name, read_image(folder / "ct"))
    for value, label in enumerate(LABELS, start=1):
        np.testing.assert_array_equal(found[label.name], drawn == value)


def test_a_dicom_object_of_another_place_is_refused(dicom: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = dicom
    dicom_case(tmp_path / "other", {"0020|0052": "1.2.3.7"}, labels=LABELS)
    other = read_image(tmp_path / "other")
    for name in ("map.dcm", "structures.dcm"):
        with pytest.raises(ImageError):
            read_segmentation(folder / name, other)
    with pytest.raises(ImageError):
        read_segmentation(next((folder / "ct").iterdir()), other)


@pytest.mark.skipif(not SARCOMA.is_dir(), reason="the patient is not on this machine")
def test_a_planning_system_s_contours_are_read() -> None:
    image = read_image(SARCOMA / "image")
    (structure,) = read_segmentation(SARCOMA / "mask", image).structures
    assert structure.name == "GTV_Mass_CT"
    assert structure.load().shape == image.image.GetSize()[::-1]
    assert structure.load().any()


REFUSED = {
    "half a voxel away": lambda labels: (
        sitk.Resample(labels, labels, sitk.TranslationTransform(3, (0, 0, 0)))
        if labels.SetOrigin([place + 1 for place in labels.GetOrigin()])
        else labels
    ),
    "coarser": lambda labels: labels[::2, ::2, ::2],
    "probabilities": lambda labels: sitk.Cast(labels, sitk.sitkFloat32) * 0.5,
    "negative": lambda labels: sitk.Cast(labels, sitk.sitkInt16) - 1,
    "beyond the image": lambda labels: sitk.ConstantPad(labels, (0, 0, 0), (0, 0, 4), 1),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_on_the_image_is_refused(what: str, image: ReadImage, tmp_path: Path) -> None:
    path = stored(image, tmp_path / "map.nii.gz", REFUSED[what])
    with pytest.raises(ImageError):
        masks(path, image)


def test_the_digest_is_that_of_what_was_read(image: ReadImage, tmp_path: Path) -> None:
    path = stored(image, tmp_path / "map.nii.gz")
    assert read_segmentation(path, image).sha256 == segmentation_digest(path)
    assert segmentation_digest(path) != segmentation_digest(stored(image, path, lambda labels: labels[::-1]))


def test_a_folder_without_a_segmentation_is_refused(image: ReadImage, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        read_segmentation(tmp_path, image)
