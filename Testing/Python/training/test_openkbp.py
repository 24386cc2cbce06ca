"""OpenKBP: from the repository's lists of voxels, or volumes of them, to a data set with partial labels."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.data.openkbp import ERASED, SPLIT, convert
from mob_training.data.split import SHIPPED, read_subjects
from MoBUncertaintyLib.base.errors import SettingsError

SPACING = {"x": 4.0, "y": 5.0, "z": 2.5}
BODY = (slice(20, 90), slice(30, 80), slice(40, 120))  # y, x, z, as OpenKBP has them


def write_patient(folder: Path, contours: dict[str, tuple[slice, slice, slice]]) -> None:
    """Write a patient as OpenKBP does: lists of HU + 1024, of Gy, and of the organs' voxels, in C order."""
    folder.mkdir(parents=True)
    grid = np.arange(128**3).reshape(128, 128, 128)
    shown = np.unique(np.concatenate([grid[box].ravel() for box in (BODY, *contours.values())]))
    rows = [f"{index},{1024 + index % 100}.0" for index in shown]
    (folder / "ct.csv").write_text("\n".join([",data", *rows]) + "\n")
    (folder / "dose.csv").write_text("\n".join([",data", *(f"{i},66.5" for i in grid[BRAINSTEM].ravel())]) + "\n")
    for organ, box in contours.items():
        (folder / f"{organ}.csv").write_text("\n".join([",data", *(f"{i}," for i in grid[box].ravel())]) + "\n")
    (folder / "voxel_dimensions.csv").write_text("\n".join(f"{SPACING[axis]:.18e}" for axis in "xyz") + "\n")


BRAINSTEM = (slice(30, 40), slice(50, 58), slice(60, 66))  # 480 voxels of 0.05 ml: 24 ml
RIGHT = (slice(40, 50), slice(35, 40), slice(70, 80))  # 25 ml, on the patient's right: less x


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("open-kbp")
    patients = folder / "provided-data"
    beyond = (slice(60, 70), slice(50, 60), slice(110, 127))  # 85 ml, of which 50 in slices that were not erased
    write_patient(
        patients / "train-pats" / "pt_2", {"Brainstem": BRAINSTEM, "RightParotid": RIGHT, "SpinalCord": beyond}
    )
    cord = (slice(60, 64), slice(50, 54), slice(41, 42))  # 0.8 ml: no cord
    write_patient(patients / "valid-pats" / "pt_201", {"Brainstem": BRAINSTEM, "SpinalCord": cord, "Larynx": RIGHT})
    return folder


def test_lists_become_cropped_volumes_on_the_right_side(repository, tmp_path, capsys):
    convert(repository, tmp_path / "out")
    image, label = (sitk.ReadImage(str(tmp_path / "out" / kind / "pt_002.nii.gz")) for kind in ("images", "labels"))
    assert image.GetSize() == (50 + 16, 70 + 16, 80)  # air beside the body; no slice with nothing but an organ
    assert image.GetSpacing() == pytest.approx((4.0, 5.0, 2.5))
    hu = sitk.GetArrayFromImage(image)
    assert np.count_nonzero(hu == ERASED) == hu.size - 70 * 50 * 80
    assert hu[0, 8, 8] == ((20 * 128 + 30) * 128 + 40) % 100
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(label)
    brainstem, right = shape.GetCentroid(1), shape.GetCentroid(3)
    assert brainstem == pytest.approx((53.5 * 4, 34.5 * 5, -62.5 * 2.5))  # LPS: left, posterior, and down from the top
    assert right[0] < brainstem[0]
    assert shape.GetPhysicalSize(3) == pytest.approx(25000)
    assert shape.GetPhysicalSize(2) == pytest.approx(50000)
    dose = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "doses" / "pt_002.nii.gz")))
    assert np.array_equal(dose, np.where(sitk.GetArrayFromImage(label) == 1, np.float32(66.5), 0))
    assert capsys.readouterr().out == "pt_201: SpinalCord is left out, 0.8 ml are not within 8.4 to 75 ml\n"
    assert json.loads((tmp_path / "out" / "labelled.json").read_text()) == {
        "pt_002": ["Brainstem", "SpinalCord", "Parotid_R"],
        "pt_201": ["Brainstem", "Larynx"],
    }


def test_volumes_of_the_same_patients_become_the_same(repository, tmp_path):
    convert(repository, tmp_path / "lists")
    convert(tmp_path / "lists", tmp_path / "volumes")
    for kind in ("images", "labels", "doses"):
        for name in ("pt_002", "pt_201"):
            ours, other = (sitk.ReadImage(str(tmp_path / k / kind / f"{name}.nii.gz")) for k in ("volumes", "lists"))
            assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(other))
            assert ours.GetOrigin() == pytest.approx(other.GetOrigin())


def test_command_writes_a_data_set_with_the_shipped_split(repository, tmp_path):
    options = ["--name", "HeadNeck", "--dataset-id", 31, "--workspace", tmp_path / "ws"]
    split = read_subjects(Path(SPLIT), "part")
    assert (split["pt_002"], split["pt_201"]) == ("val", "train")
    result = CliRunner().invoke(app, ["openkbp", *map(str, [repository, *options])])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "ws" / "raw" / "Dataset031_HeadNeck"
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["pt_201"], "val": ["pt_002"]}]
    assert json.loads((folder / "dataset.json").read_text())["labels"]["Parotid_R"] == 3
    assert {path.name for path in (folder / "doses").iterdir()} == {"pt_002.nii.gz", "pt_201.nii.gz"}
    preprocessed = tmp_path / "ws" / "preprocessed" / "Dataset031_HeadNeck"
    assert (preprocessed / "labelled.json").read_bytes() == (folder / "labelled.json").read_bytes()
    with (folder / "cases.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert (rows["pt_002"]["Brainstem_ml"], rows["pt_002"]["Larynx_ml"]) == ("24.000", "")


def test_a_folder_without_patients_is_refused(tmp_path):
    with pytest.raises(SettingsError):
        convert(tmp_path, tmp_path / "out")


def test_the_shipped_split_is_by_patient():
    parts = Counter(read_subjects(SHIPPED / SPLIT, "part").values())
    assert parts == {"train": 120, "val": 20, "calibrate": 40, "test": 45}
