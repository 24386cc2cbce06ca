"""Cases that lack labels: what is read, refused and written."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.comparison.tables import table1
from mob_training.data.datasets import folder_cases, new_dataset_folder, write_dataset
from mob_training.data.partial_labels import FILE, read_missing, write_labelled
from mob_training.data.split import Split, StatedSplit
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.model.covariance import Covariance
from support.fake_scores import FakeModel, FakePredictor, evaluate
from support.fake_scores import write_dataset as write_fake_dataset
from support.training_commands import write_cases

LABELS = {"liver": [1], "spleen": [2]}


def volume(seed: int, *values: int) -> tuple[sitk.Image, sitk.Image]:
    """An image, and a label map with eight voxels of each value."""
    rng = np.random.default_rng(seed)
    voxels = np.zeros((6, 8, 10), np.uint8)
    for value in values:
        voxels[:2, :2, 2 * value : 2 * value + 2] = value
    return sitk.GetImageFromArray(rng.normal(size=voxels.shape).astype(np.float32)), sitk.GetImageFromArray(voxels)


@pytest.fixture
def source(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    write_cases(tmp_path / "source", {"a": volume(0, 1, 2), "b": volume(1, 1), "c": volume(2, 2), "d": volume(3, 1)})
    return tmp_path / "source"


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"x": ["liver"]}', '{"b": "liver"}', '{"b": []}', '{"b": [1]}', '{"b": ["kidney"]}'],
)
def test_a_wrong_file_is_refused_in_one_sentence(source, content):
    (source / FILE).write_text(content)
    with pytest.raises(SettingsError) as error:
        folder_cases(source, LABELS)
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_again(tmp_path):
    missing = {"a": frozenset({2}), "b": frozenset(), "c": frozenset({1})}
    write_labelled(tmp_path, list(LABELS), missing)
    assert json.loads((tmp_path / FILE).read_text()) == {"a": ["liver"], "c": ["spleen"]}
    assert read_missing(tmp_path, list(LABELS), "abc") == {"a": {2}, "c": {1}}


def test_without_the_file_nothing_is_missing(source, tmp_path):
    assert read_missing(tmp_path, list(LABELS)) == {}
    cohort = folder_cases(source, LABELS)
    assert [case.missing for case in cohort.cases] == [frozenset()] * 4


def test_labels_that_are_absent_are_missing_if_that_is_what_absence_means(source):
    cohort = folder_cases(source, LABELS, "CT", absent_is_missing=True)
    assert [case.missing for case in cohort.cases] == [set(), {2}, {1}, {2}]


def test_the_data_set_says_which_labels_are_missing_and_shows_no_volume_for_them(source, tmp_path, capsys):
    (source / FILE).write_text('{"b": ["liver"], "c": ["liver"]}')
    cohort = folder_cases(source, LABELS, "CT")
    assert capsys.readouterr().out.startswith("c is left out: labels/c.nii.gz shows spleen")
    folder = write_dataset(new_dataset_folder(7, "Parts"), cohort, Split(1, 1))
    assert json.loads((folder / FILE).read_text()) == {"b": ["liver"]}
    assert (tmp_path / "preprocessed" / folder.name / FILE).read_bytes() == (folder / FILE).read_bytes()
    with (folder / "cases.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert (rows["b"]["liver_ml"], rows["b"]["spleen_ml"], rows["d"]["spleen_ml"]) == ("0.008", "", "0.000")
    assert [cells[7] for _, cells in table1([folder]).rows] == ["0.01", "0.01"]


def test_a_stated_split_puts_calibration_where_attach_head_reads_it(source):
    cohort = folder_cases(source, LABELS, "CT", absent_is_missing=True)
    split = StatedSplit({"a": "train", "b": "calibrate", "c": "val", "z": "test"})
    folder = write_dataset(new_dataset_folder(7, "Parts"), cohort, split)
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["a"], "val": ["c"]}]
    (case,) = folder_cases(folder / "calibration", LABELS).cases
    assert (case.name, case.missing) == ("b", {2})
    assert json.loads((folder / FILE).read_text()) == {"b": ["liver"], "c": ["spleen"]}
    with pytest.raises(SettingsError):
        StatedSplit({"a": "test"}).assign("ab")


# --- scores


def test_a_case_is_left_out_of_the_scores_of_a_label_that_it_lacks(tmp_path):
    """Nor does it count as an error if the model shows the label there."""
    dataset = write_fake_dataset(tmp_path, "Parts", cases=2, classes=2)
    path = dataset / "labelsTs" / "case0.nii.gz"
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    truth[truth == 2] = 0
    image = sitk.GetImageFromArray(truth)
    image.CopyInformation(sitk.ReadImage(str(path)))
    sitk.WriteImage(image, str(path))
    model = FakeModel(Covariance.DIAGONAL, "diagonal", 0, classes=2)
    absent = evaluate(model, dataset)
    write_labelled(dataset, ["part_1", "part_2"], {"case0": frozenset({2})})
    run = evaluate(model, dataset)

    assert "labels.part_2.dice" not in run.cases["case0"] and "labels.part_2.dice" in run.cases["case1"]
    assert run.cases["case0"]["dice"] == run.cases["case0"]["labels.part_1.dice"]
    assert run.cases["case0"]["labels.part_1.dice"] == absent.cases["case0"]["labels.part_1.dice"]
    assert absent.cases["case0"]["labels.part_2.dice"] == 0
    assert run.cases["case1"] == absent.cases["case1"]

    source = sitk.ReadImage(str(dataset / "imagesTs" / "case0_0000.nii.gz"))
    p = FakePredictor(model).predict(source, exact=True).probability
    of_truth = np.where(truth == 1, p[0], 1 - p[0])  # the second part may be anywhere else
    expected = -np.log(np.clip(of_truth, 1e-7, 1)).mean()
    assert run.cases["case0"]["volume.nll"] == pytest.approx(expected, rel=1e-4)
    together = (run.cases["case0"]["volume.nll"] + run.cases["case1"]["volume.nll"]) / 2
    assert run.pooled["volume.nll"] == pytest.approx(together)
    assert run.mean("labels.part_2.dice") == run.cases["case1"]["labels.part_2.dice"]
