"""`scene.mrb` through the real Slicer core: written by the product, read and drawn again in fresh processes."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, Measure
from MoBUncertaintyLib.output.results_folder import write_volumes
from MoBUncertaintyLib.output.scene_file import write_scene_file
from support.fake_case import LEFT_HANDED, LEFT_KIDNEY, MARKER_HU, OBLIQUE, PANCREAS, fake_case
from support.marks import needs_mesa, needs_slicer, needs_views
from support.slicer_process import in_slicer

NAME = "Hübner & Söhne: 'CT' <1>"
GIVEN = {"input": {"name": "CT", "path": "/home/reader/Doe^John.nii.gz"}}


def write_scene(path: Path, case, name: str = "CT") -> None:
    described = replace(case.prediction, provenance=case.prediction.provenance | GIVEN)
    with TemporaryDirectory() as folder:
        volumes = write_volumes(Path(folder), case.prediction)
        write_scene_file(path, case.image, described, case.regions, name, lambda: volumes)


def write_and_read(folder: Path, case) -> tuple[dict, dict]:
    path = folder / "scene.mrb"
    write_scene(path, case, NAME)
    facts, _ = in_slicer("describe", str(path), str(folder / "arrays.npz"))
    return facts, dict(np.load(folder / "arrays.npz"))


@pytest.fixture(scope="module")
def oblique(tmp_path_factory):
    """An oblique CT's scene, reopened: case, facts, arrays, path."""
    folder = tmp_path_factory.mktemp("oblique scene")
    case = fake_case(OBLIQUE)
    return case, *write_and_read(folder, case), folder / "scene.mrb"


@needs_slicer
@needs_views
class TestReopenedScene:
    def test_ct_has_its_voxels_geometry_name_and_the_window_of_the_abdomen(self, oblique):
        case, facts, arrays, _ = oblique
        assert np.array_equal(arrays["ct"], sitk.GetArrayFromImage(case.image))
        assert np.allclose(facts["ijkToRas"], grid_of(case.image).matrix(), atol=1e-4)
        assert (facts["name"], facts["ctRange"]) == (NAME, [-160, 240])

    def test_variance_lies_on_the_ct_in_inferno_from_the_threshold_on_one_fixed_scale(self, oblique):
        case, facts, arrays, _ = oblique
        assert arrays["variance"].dtype == np.float32
        assert np.array_equal(arrays["variance"], case.prediction.variance[0])
        assert np.allclose(facts["varianceIjkToRas"], grid_of(case.image).matrix(), atol=1e-4)
        assert facts["threshold"] == pytest.approx(DEFAULT_THRESHOLD[Measure.VARIANCE])
        assert facts["varianceRange"] == pytest.approx([0, 0.08])
        inferno = matplotlib.colormaps["inferno"](np.arange(256))[:, :3]
        assert np.abs(arrays["colours"] - inferno).max() <= 2 / 255
        assert facts["legend"] == ["Variance", "%.2f", True]

    def test_organ_and_regions_are_named_coded_flagged_and_cover_their_voxels(self, oblique):
        case, facts, arrays, _ = oblique
        assert np.array_equal(arrays["segmentation"], case.prediction.segmentation)
        assert np.array_equal(arrays["regions"], case.regions.whole_map())
        (organ,) = facts["segmentation"]
        assert organ["name"] == "pancreas"
        assert np.allclose(np.array(organ["colour"]) * 255, PANCREAS.colour, atol=0.5)
        assert "~SCT^123037004^Anatomical Structure~SCT^15776009^Pancreas~^^~" in organ["terminology"]
        assert facts["surface"] == {"coloured": True, "plain": False}, "the 3D view has the map's colours"
        assert [(region["name"], region["flagged"]) for region in facts["regions"]] == [
            ("1: left, expected error 1,234 mm³", True),
            ("2: superior anterior, expected error 617 mm³", True),
        ]

    def test_heat_map_lies_over_the_ct_in_every_slice_view(self, oblique):
        assert oblique[1]["foreground"] == [[True, 0.75]] * 3

    def test_four_up_layout_goes_through_the_first_region(self, oblique):
        case, facts, _, _ = oblique
        assert facts["layout"] == 3  # vtkMRMLLayoutNode.SlicerLayoutFourUpView
        centroid = np.array(case.regions.ranked[0].centroid_ras)
        for matrix in np.array(facts["slices"]):
            assert matrix[:3, 2] @ (centroid - matrix[:3, 3]) == pytest.approx(0, abs=0.01)

    def test_everything_lies_in_one_folder(self, oblique):
        (folder,) = oblique[1]["tree"]
        names = [name for name, _ in folder[1]]
        assert folder[0] == f"{NAME} with uncertainty"
        assert sorted(name.removeprefix(NAME).strip() for name in names) == [
            "",
            "doubtful regions",
            "predictive variance",
            "probability",
            "segmentation",
            "uncertainty surface",
        ]
        assert sorted(len(children) for _, children in folder[1]) == [0, 0, 0, 0, 1, 2]

    def test_what_the_review_needs_comes_with_it(self, oblique):
        case, facts, _, _ = oblique
        assert [label["name"] for label in facts["state"]["labels"]] == ["pancreas"]
        assert [row["expected_error_mm3"] for row in facts["state"]["regions"]] == [
            region.expected_error_mm3 for region in case.regions.ranked
        ]
        assert facts["state"]["provenance"]["input"] == {"name": "CT"}  # no path: scenes are passed on

    @needs_mesa
    def test_drawn_slice_has_the_heat_map_where_the_variance_is(self, oblique, tmp_path):
        facts, _ = in_slicer("render", str(oblique[3]), str(tmp_path / "axial.png"))
        assert facts["doubtful pixels"] > 200
        assert facts["coloured where doubtful"] > 0.9
        assert facts["coloured elsewhere"] < 0.05  # the outlines
        assert facts["coloured legend"] > 100


@needs_slicer
@needs_views
def test_left_handed_axes_stay_where_they_are_in_the_patient(tmp_path):
    # Slicer turns such volumes when it reads them: positions, not indices, must agree.
    case = fake_case(LEFT_HANDED, labels=(PANCREAS, LEFT_KIDNEY))
    facts, arrays = write_and_read(tmp_path, case)
    z, y, x = np.argwhere(arrays["ct"] == MARKER_HU)[0]
    position = (np.array(facts["ijkToRas"]) @ (x, y, z, 1))[:3]
    index = np.argwhere(sitk.GetArrayFromImage(case.image) == MARKER_HU)[0]
    expected = case.prediction.grid.to_ras(index)
    assert np.allclose(position, expected, atol=1e-3)
    assert np.array_equal(facts["varianceIjkToRas"], facts["ijkToRas"])
    assert np.array_equal(arrays["segmentation"], np.flip(case.prediction.segmentation, 0))
    kidney = facts["segmentation"][1]
    assert kidney["name"] == "kidney left"
    assert "~SCT^64033007^Kidney~SCT^7771000^Left~" in kidney["terminology"]
    # With several organs the heat map is of the most doubtful one at each voxel.
    assert np.array_equal(arrays["variance"], np.flip(case.prediction.variance.max(axis=0), 0))


@needs_slicer
@needs_views
def test_prediction_without_organ_and_region_gives_an_empty_segment_to_draw_in(tmp_path):
    case = fake_case(with_regions=False)
    case.prediction.segmentation[:] = 0
    facts, arrays = write_and_read(tmp_path, case)
    assert [segment["name"] for segment in facts["segmentation"]] == ["pancreas"]
    assert not arrays["segmentation"].any()
    assert facts["regions"] == []
    assert arrays["ct"].shape == arrays["variance"].shape


@needs_slicer
def test_second_run_reuses_the_nodes():
    facts, _ = in_slicer("reuse")
    first, second = facts["nodes"]
    assert first == second
    assert facts["segments"] == [["first", "second", "third"], ["only"]]


@needs_slicer
def test_a_stock_models_scene_shows_its_entropy(tmp_path):
    """Without a covariance there is no variance to look at."""
    case = fake_case()
    vars(case.prediction)["covariance"] = Covariance.DETERMINISTIC
    facts, _ = write_and_read(tmp_path, case)
    assert facts["legend"][0] == "Entropy (nats)"


def test_the_same_prediction_makes_the_same_file(tmp_path):
    for name in ("one", "two"):
        write_scene(tmp_path / name, fake_case())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_processes_with_slicers_core_leave_no_temporary_files() -> None:
    """Forks end at once, so that nothing is removed at their end."""
    made, _ = in_slicer("make_temporary_folder")
    assert Path(made).is_absolute() and not Path(made).exists()
