"""`.seg.nrrd` files, as Slicer's core reads them in a process of its own, and as any other NRRD reader does."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.terminology import terminology_entry
from MoBUncertaintyLib.output import segment_nrrd
from MoBUncertaintyLib.output.segment_nrrd import write_segmentation_nrrd
from support.fake_case import LEFT_HANDED, LEFT_KIDNEY, OBLIQUE, PANCREAS, fake_case
from support.marks import needs_full_device, needs_slicer
from support.slicer_process import in_slicer

SPLEEN = Label(7, "Milz «groß»", (157, 108, 162), PANCREAS.terminology | {"type": ("SCT", "78961009", "Spleen")})
SAGITTAL = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def read_in_slicer(*paths: Path) -> list[dict]:
    """What Slicer's core finds in the files."""
    found, said = in_slicer("segmentations", *map(str, paths))
    assert "ERROR" not in said.upper(), said[-3000:]
    return found


def points_ras(labels: sitk.Image, value: int) -> np.ndarray:
    """Positions of the voxels of one value."""
    indices = np.argwhere(sitk.GetArrayFromImage(labels) == value)[:, ::-1]
    matrix = np.reshape(labels.GetDirection(), (3, 3)) * labels.GetSpacing()
    return (indices @ matrix.T + labels.GetOrigin()) * (-1, -1, 1)


def in_order(points) -> np.ndarray:
    points = np.round(np.reshape(points, (-1, 3)), 3) + 0.0
    return points[np.lexsort(points.T)]


LABELS = (PANCREAS, LEFT_KIDNEY, SPLEEN)
DIRECTIONS = {"oblique": OBLIQUE, "left-handed": LEFT_HANDED, "sagittal": SAGITTAL}


@pytest.fixture(scope="module")
def read_back(tmp_path_factory):
    """Direction -> the label map and what Slicer finds in its file; one start of Slicer's core for all."""
    folder = tmp_path_factory.mktemp("nrrd with spaces and ü")
    made = {name: fake_case(d, labels=LABELS[:2]).prediction for name, d in DIRECTIONS.items()}
    paths = [folder / f"{name}.seg.nrrd" for name in made]
    for prediction, path in zip(made.values(), paths, strict=True):
        write_segmentation_nrrd(path, prediction.segmentation, prediction.grid, LABELS, status="completed")
    found = read_in_slicer(*paths)
    return {
        name: (image_on(prediction.grid, prediction.segmentation), facts)
        for (name, prediction), facts in zip(made.items(), found, strict=True)
    }


@needs_slicer
class TestInSlicer:
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_each_segment_lies_where_the_organ_lies(self, read_back, direction):
        labels, facts = read_back[direction]
        for label, segment in zip(LABELS[:2], facts["segments"], strict=False):
            expected = points_ras(labels, label.value)
            assert len(expected) > 100
            assert np.allclose(in_order(segment["points"]), in_order(expected), atol=2e-3)

    def test_segments_have_ids_names_values_colours_codes_and_status(self, read_back):
        segments = read_back["oblique"][1]["segments"]
        assert [(s["id"], s["name"], s["value"]) for s in segments] == [
            ("Segment_1", "pancreas", 1),
            ("Segment_2", "kidney_left", 2),
            ("Segment_7", "Milz «groß»", 7),
        ]
        colours = [label.colour for label in LABELS]
        assert np.allclose(255 * np.array([s["colour"] for s in segments]), colours, atol=0.01)
        kidney = "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~"
        assert kidney in segments[1]["terminology"]
        assert {s["status"] for s in segments} == {"completed"}
        assert segments[2]["points"] == [], "an organ that is nowhere"

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_the_segment_editor_gets_the_cts_grid(self, read_back, direction):
        labels, facts = read_back[direction]
        numbers = [float(number) for number in facts["geometry"].split(";") if number]
        assert facts["source"] == "Binary labelmap"
        assert numbers[16:] == [0, 39, 0, 35, 0, 27]
        x, y, z = labels.TransformIndexToPhysicalPoint((39, 35, 27))
        assert np.allclose(np.reshape(numbers[:16], (4, 4)) @ (39, 35, 27, 1), [-x, -y, z, 1], atol=1e-6)


@needs_slicer
def test_a_segmentation_without_any_voxel_keeps_its_segments(tmp_path):
    prediction = fake_case().prediction
    write_segmentation_nrrd(tmp_path / "empty.seg.nrrd", 0 * prediction.segmentation, prediction.grid, LABELS)
    (facts,) = read_in_slicer(tmp_path / "empty.seg.nrrd")
    assert [(s["name"], s["points"], s["status"]) for s in facts["segments"]] == [
        (label.name, [], "notstarted") for label in LABELS
    ]


def test_other_readers_find_the_label_map(tmp_path):
    case = fake_case(labels=LABELS[:2])
    segmentation = case.prediction.segmentation
    write_segmentation_nrrd(tmp_path / "a.seg.nrrd", segmentation, case.prediction.grid, LABELS)
    read = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(read), segmentation)
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read, name)() == pytest.approx(getattr(case.image, name)(), abs=1e-9)


def test_terminology_that_slicers_line_cannot_hold_is_left_out():
    assert terminology_entry(PANCREAS.terminology | {"type": ("SCT", "1", "a|b")}) is None
    assert terminology_entry(PANCREAS.terminology).count("~") == 6


def test_a_name_that_simpleitk_cannot_open_on_windows_is_written(tmp_path, monkeypatch):
    write, read = sitk.WriteImage, sitk.ReadImage
    monkeypatch.setattr(segment_nrrd, "ONLY_ASCII", True)
    monkeypatch.setattr(
        sitk, "WriteImage", lambda image, path, **more: write(image, path.encode("ascii").decode(), **more)
    )
    monkeypatch.setattr(sitk, "ReadImage", lambda path: read(path.encode("ascii").decode()))
    prediction, path = fake_case().prediction, tmp_path / "Bäuche 臓.seg.nrrd"
    write_segmentation_nrrd(path, prediction.segmentation, prediction.grid, LABELS)
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), prediction.segmentation)


def test_a_value_without_a_label_is_not_written(tmp_path):
    prediction = fake_case(labels=LABELS[:2]).prediction
    with pytest.raises(OutputError):
        write_segmentation_nrrd(tmp_path / "a.seg.nrrd", prediction.segmentation, prediction.grid, [PANCREAS])
    assert list(tmp_path.iterdir()) == []


@needs_full_device
def test_a_full_disk_is_an_error(tmp_path):
    (tmp_path / "a.seg.nrrd").symlink_to("/dev/full")
    prediction = fake_case(labels=LABELS[:1]).prediction
    with pytest.raises(OSError):
        write_segmentation_nrrd(tmp_path / "a.seg.nrrd", prediction.segmentation, prediction.grid, [PANCREAS])
