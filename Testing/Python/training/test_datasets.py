"""From folders of images to nnU-Net's raw data sets: which cases are taken, how they are split, what is reported."""

import csv
import json
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.comparison.tables import table1
from mob_training.data import datasets
from mob_training.data.datasets import (
    Cohort,
    folder_cases,
    new_dataset_folder,
    read_classes,
    write_dataset,
    write_image,
)
from mob_training.data.phantom import write_cohort
from mob_training.data.split import Split
from mob_training.data.totalsegmentator import find_cases
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from support.marks import needs_full_device
from support.training_commands import write_cases

# --- which cases are taken


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantoms"
    write_cohort(folder, 2, seed=0, spacing=(10, 10, 12))
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def on_another_grid(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(path))


def emptied(path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))


def with_holes(path: Path) -> None:
    """NaN in three voxels; by nibabel, since SimpleITK would write them but not read them."""
    image = nibabel.load(path)
    values = image.get_fdata(dtype=np.float32)
    values[0, 0, :3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def of_two_times(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))


def sheared(path: Path) -> None:
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 1] += 0.1 * np.linalg.norm(affine[:3, 1])
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


def no_image(path: Path) -> None:
    path.write_text("<html>504 Gateway Timeout</html>", encoding="utf-8")


# What is done to which file of a case, and what is said of it. `{label}` is the mask or label map.
DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "ct_missing": (Path.unlink, "image", "There is no {image}."),
    "mask_missing": (Path.unlink, "label", "There is no {label}."),
    "mask_empty": (emptied, "label", "{label} shows nothing that is to be segmented."),
    "mask_elsewhere": (on_another_grid, "label", "{label} has a different grid from {image}."),
    "ct_cut_short": (cut_short, "image", "is truncated or damaged; copy or download it again."),
    "mask_cut_short": (cut_short, "label", "{label} cannot be used: "),
    "ct_no_image": (no_image, "image", "The image cannot be used: "),
    "mask_sheared": (sheared, "label", "ITK only supports orthonormal direction cosines"),
    "mask_no_image": (no_image, "label", "{label} cannot be used: "),
    "ct_of_two_times": (of_two_times, "image", "extract one time point"),
    "mask_of_two_times": (of_two_times, "label", "{label} cannot be used: The image has four dimensions"),
    "ct_constant": (emptied, "image", "Every voxel of the image has the value"),
}


def check_reports(reports: list[str], left_out: dict[str, str], expected: dict[str, str]) -> None:
    """One line for each case that is left out, with its reason, and no other."""
    assert left_out.keys() == expected.keys()
    assert reports == [f"{name} is left out: {problem}" for name, problem in left_out.items()]
    for name, problem in left_out.items():
        assert expected[name] in problem, (name, problem)


def read_cases_file(dataset: Path) -> dict[str, dict[str, str]]:
    with (dataset / "cases.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_mutilated_cohort_is_reported_and_the_rest_goes_on(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    source = shutil.copytree(phantoms, tmp_path / "source")
    expected = {"s0404": "There is no s0404/ct.nii.gz."}
    for name, (damage, kind, sentence) in DAMAGES.items():
        case = shutil.copytree(phantoms / "s0001", source / name)
        files = {"image": case / "ct.nii.gz", "label": case / "segmentations" / "pancreas.nii.gz"}
        damage(files[kind])
        shown = {key: f"{path.parent.name}/{path.name}" for key, path in files.items()}
        expected[name] = sentence.format(**shown)
    for name in ("s0003", "s0004"):
        shutil.copytree(phantoms / "s0002", source / name)
    with_holes(source / "s0003" / "ct.nii.gz")
    with (source / "meta.csv").open("a", newline="") as file:
        file.write("s0404;40;m;A;ct abdomen;train;;;;;\n;;;;;;;;;;\n")
    (source / "README.txt").write_text("stray")
    (source / ".DS_Store").write_text("stray")
    (source / ".Trash").mkdir()
    (source / "notes").mkdir()
    expected["notes"] = "There is no notes/ct.nii.gz."

    cohort = find_cases(source, "pancreas")
    reports = capsys.readouterr().out.splitlines()
    repaired = [line for line in reports if "repaired" in line]
    check_reports([line for line in reports if line not in repaired], cohort.left_out, expected)
    assert repaired == ["s0003 is repaired: 3 voxels are not finite numbers and were set to air (-1024)."]
    assert [case.name for case in cohort.cases] == ["s0001", "s0002", "s0003", "s0004"]

    dataset = new_dataset_folder(5, "Pancreas")
    write_dataset(dataset, cohort, Split(1, 1))
    rows = read_cases_file(dataset)
    assert list(rows) == sorted([*expected, "s0001", "s0002", "s0003", "s0004"])
    for name, sentence in expected.items():
        assert rows[name]["part"] == "left out" and sentence in rows[name]["note"]
        assert rows[name]["pancreas_ml"] == ""
    assert "set to air" in rows["s0003"]["note"]
    assert not rows["s0001"]["note"]
    (written,) = dataset.glob("images*/s0003_0000.nii.gz")
    values = nibabel.load(written).get_fdata()
    assert np.isfinite(values).all()
    assert (values[0, 0, :3] == -1024).all()
    assert sorted(path.name for path in dataset.glob("labels*/*")) == [f"s000{i}.nii.gz" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("organ", ["milz", "pancras", "Liver"])
def test_organ_that_no_case_has_is_refused(phantoms, tmp_path, organ):
    with pytest.raises(SettingsError):
        find_cases(phantoms, organ)
    options = ["--name", "T", "--dataset-id", "1", "--workspace", str(tmp_path / "ws")]
    done = CliRunner().invoke(app, ["totalsegmentator", str(phantoms), "--organ", organ, *options])
    assert isinstance(done.exception, SettingsError)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("content", [b"case,age\ns0001,4\n", b"\xff\xfe\x00\x01", b""])
def test_meta_csv_of_another_kind_is_not_used(phantoms, tmp_path, content, capsys):
    source = shutil.copytree(phantoms, tmp_path / "source")
    (source / "meta.csv").write_bytes(content)
    cohort = find_cases(source, "liver")
    assert len(cohort.cases) == 2 and not cohort.left_out
    assert capsys.readouterr().out.splitlines() == (
        ["meta.csv is not a list of cases and is not used"] if content else []
    )


@pytest.mark.parametrize(
    "find", [lambda folder: find_cases(folder, "liver"), lambda folder: folder_cases(folder, {"a": [1]})]
)
def test_folder_of_another_kind_is_refused(tmp_path, find):
    (tmp_path / "images").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SettingsError):
            find(folder)


def ball(number: int) -> tuple[sitk.Image, sitk.Image]:
    """A noisy volume of 10 x 10 x 10 voxels of 2 mm, and its label map: 10 + `number` voxels of 4, one of 7."""
    rng = np.random.default_rng(number)
    label = np.zeros((10, 10, 10), np.uint8)
    label.flat[: 10 + number] = 4
    label[9, 9, 9] = 7
    images = [sitk.GetImageFromArray(array) for array in (rng.normal(0, 10, label.shape).astype(np.float32), label)]
    for image in images:
        image.SetSpacing((2, 2, 2))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return tuple(images)


def test_mutilated_folder_of_label_maps_is_reported_and_the_rest_goes_on(tmp_path, capsys):
    names = ["whole", "holes", *DAMAGES]
    write_cases(tmp_path, {name: ball(0) for name in names})
    expected = {}
    for name, (damage, kind, sentence) in DAMAGES.items():
        damage(tmp_path / f"{kind}s" / f"{name}.nii.gz")
        file = f"{name}.nii.gz"
        expected[name] = sentence.format(image=f"images/{file}", label=f"labels/{file}")
    with_holes(tmp_path / "images" / "holes.nii.gz")
    (tmp_path / "images" / "notes.txt").write_text("stray")
    (tmp_path / "images" / "._whole.nii.gz").write_text("what macOS leaves beside files")
    cohort = folder_cases(tmp_path, {"a": [4], "b": [5, 7]})
    check_reports(
        [line for line in capsys.readouterr().out.splitlines() if "repaired" not in line], cohort.left_out, expected
    )
    assert [case.name for case in cohort.cases] == ["holes", "whole"]
    holes, whole = cohort.cases
    assert holes.repairs.startswith("3 voxels are not finite numbers") and not whole.repairs
    for case in cohort.cases:
        assert case.volumes_ml == pytest.approx((10 * 8 / 1000, 8 / 1000))
        classes = read_classes(case.label, cohort.labels.values())
        assert np.bincount(sitk.GetArrayFromImage(classes).ravel()).tolist() == [989, 10, 1]


# --- what is written


def find_balls(source: Path, count: int) -> Cohort:
    write_cases(source, {f"c{i}": ball(i) for i in range(count)})
    return folder_cases(source, {"ball": [4]})


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path / "raw"


def test_dataset_states_labels_orientation_and_split(tmp_path, raw):
    cohort = find_balls(tmp_path / "source", 5)
    folder = write_dataset(new_dataset_folder(7, "Balls"), cohort, Split(1, 1))
    assert folder == raw / "Dataset007_Balls"
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MRI"}
    assert description["labels"] == {"background": 0, "ball": 1}
    assert description["orientation"] == "RAS"
    assert description["numTraining"] == len(list((folder / "imagesTr").iterdir())) == 4
    (split,) = json.loads((folder / "splits_final.json").read_text())
    rows = read_cases_file(folder)
    parts = {part: [name for name, row in rows.items() if row["part"] == part] for part in ("train", "val", "test")}
    assert (split["train"], split["val"]) == (parts["train"], parts["val"])
    assert [path.name for path in (folder / "labelsTs").iterdir()] == [f"{parts['test'][0]}.nii.gz"]
    assert sorted(row["part"] for row in rows.values()) == ["test", "train", "train", "train", "val"]
    for name, row in rows.items():
        assert float(row["ball_ml"]) == pytest.approx((10 + int(name[1:])) * 8 / 1000)
    with pytest.raises(SettingsError):
        new_dataset_folder(7, "Others")


@pytest.mark.parametrize("name", ["", "a/b", "a b"])
def test_name_that_nnunet_would_not_find_is_refused(raw, name):
    with pytest.raises(SettingsError):
        new_dataset_folder(7, name)


def test_cases_that_are_stored_otherwise_than_most_are_turned(tmp_path, raw, capsys):
    image, label = ball(0)
    turned = [sitk.DICOMOrient(volume, "PSL") for volume in (image, label)]
    write_cases(tmp_path, {"a": (image, label), "b": tuple(turned), "c": (image, label)})
    cohort = folder_cases(tmp_path, {"ball": [4]})
    folder = write_dataset(new_dataset_folder(7, "Balls"), cohort, Split(1, 1))
    assert capsys.readouterr().out == "b: Reoriented from PSL to RAS.\n"
    assert json.loads((folder / "dataset.json").read_text())["orientation"] == "RAS"
    assert read_cases_file(folder)["b"]["note"] == "Reoriented from PSL to RAS."
    for kind in ("images", "labels"):
        a, b, c = (sitk.ReadImage(str(path)) for path in sorted(folder.glob(f"{kind}T?/*"), key=lambda path: path.name))
        for other in (b, c):
            assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(other))
            assert a.GetOrigin() == pytest.approx(other.GetOrigin())
            assert a.GetSpacing() == pytest.approx(other.GetSpacing())
            assert a.GetDirection() == pytest.approx(other.GetDirection())


def test_a_table_of_subjects_with_other_names_is_refused(tmp_path, raw, capsys):
    cohort = find_balls(tmp_path / "source", 5)
    with pytest.raises(SettingsError):
        write_dataset(new_dataset_folder(7, "Balls"), cohort, Split(1, 1, subjects={"c0.nii.gz": "A"}))
    assert not list(raw.glob("*")) and not capsys.readouterr().out
    write_dataset(new_dataset_folder(7, "Balls"), cohort, Split(1, 1, subjects={"c0": "A", "c1": "A"}))
    assert capsys.readouterr().out.startswith("3 of 5 cases are not in the table of subjects (c2 for one)")


def test_nnunet_follows_the_split(tmp_path, monkeypatch):
    """Stock nnU-Net's own choice of training cases, before and after: it is ours, not its cross-validation's."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from support.tiny import CONFIGURATION
    from support.tiny_training import NAME, PLANS, make_workspace

    make_workspace(tmp_path / "ws", monkeypatch, cases=9)
    preprocessed = tmp_path / "ws" / "preprocessed" / NAME
    write_cases(tmp_path / "source", {f"case{i}": ball(i) for i in range(9)})
    cohort = folder_cases(tmp_path / "source", {"ball": [4]})
    folder = write_dataset(tmp_path / "ws" / "raw" / NAME, cohort, Split(3, 2, seed=5))
    plans = json.loads((preprocessed / f"{PLANS}.json").read_text()) | {"continue_training": False}
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    training, validation = trainer.do_split()
    rows = read_cases_file(folder)
    assert training == [name for name, row in rows.items() if row["part"] == "train"]
    assert validation == [name for name, row in rows.items() if row["part"] == "val"]
    assert (len(training), len(validation)) == (4, 3)
    (preprocessed / "splits_final.json").unlink()
    assert trainer.do_split()[0] != training


def test_one_case_is_in_memory_at_a_time(tmp_path, raw, monkeypatch):
    alive: list[weakref.ref] = []

    def watched(*arguments: object) -> sitk.Image:
        assert not any(reference() for reference in alive), "an earlier label map is still in memory"
        label = read_classes(*arguments)
        alive.append(weakref.ref(label))
        return label

    cohort = find_balls(tmp_path / "source", 4)
    monkeypatch.setattr(datasets, "read_classes", watched)
    write_dataset(new_dataset_folder(7, "Balls"), cohort, Split())
    assert len(alive) == 4


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), OutputError),
        (RuntimeError("ITK: cannot write"), OutputError),
    ],
)
def test_failure_in_the_middle_leaves_nothing(tmp_path, raw, failure, shown, monkeypatch):
    cohort = find_balls(tmp_path / "source", 4)

    def fail(path: Path, values: object) -> sitk.Image:
        if path == cohort.cases[-1].label:
            assert any(raw.rglob("*_0000.nii.gz")), "something is written already"
            raise failure
        return read_classes(path, values)

    folder = new_dataset_folder(7, "Balls")
    with monkeypatch.context() as patch, pytest.raises(shown):
        patch.setattr(datasets, "read_classes", fail)
        write_dataset(folder, cohort, Split())
    assert not list(raw.iterdir())
    assert not (raw.parent / "preprocessed").exists()
    write_dataset(folder, cohort, Split())
    assert os.listdir(raw) == ["Dataset007_Balls"]


@needs_full_device
def test_image_that_a_full_disk_cuts_short_is_an_error(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError):
        write_image(ball(0)[0], path)


def test_what_a_killed_run_left_does_not_get_into_the_next(tmp_path, raw):
    stale = raw / ".Dataset007_Balls" / "imagesTr"
    stale.mkdir(parents=True)
    (stale / "old_0000.nii.gz").touch()
    cohort = find_balls(tmp_path / "source", 4)
    folder = write_dataset(new_dataset_folder(7, "Balls"), cohort, Split())
    assert not list(folder.rglob("old*"))
    assert os.listdir(raw) == ["Dataset007_Balls"]


# --- the commands, and Table 1


def test_commands_convert_what_can_be_converted_and_table_1_counts_it(phantoms, raw, tmp_path):
    source = shutil.copytree(phantoms, tmp_path / "source")
    shutil.copytree(phantoms / "s0002", source / "s0003")
    shutil.copytree(phantoms / "s0002", source / "s0004")
    (source / "s0001" / "ct.nii.gz").unlink()
    options = ["--workspace", raw.parent, "--dataset-id", 3]
    command = ["totalsegmentator", source, "--organ", "duodenum", "--name", "Duodenum", *options]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "s0001 is left out: There is no s0001/ct.nii.gz.\n" in result.output
    dataset = raw / "Dataset003_Duodenum"
    assert result.output.splitlines()[-1] == str(dataset)
    assert json.loads((dataset / "dataset.json").read_text())["reference"] == "duodenum of source"
    assert "| duodenum | 3 | 1 | 1 | 1 | 1 |" in table1([dataset]).markdown()


def test_table_1_of_volumes_counted_by_hand(tmp_path, raw):
    """Organ of 10, 12, 13 and 14 ml, tip of 1 ml in two cases only; two left out."""
    volumes = {f"c{i}": (10.0 + i + (i > 0), 1.0 if i in (0, 2) else 0.0) for i in range(4)}
    balls = find_balls(tmp_path / "source", 4)
    cases = [replace(case, volumes_ml=volumes[case.name]) for case in balls.cases]
    left_out = {"x": "It is empty.", "y": "It is damaged."}
    cohort = Cohort(cases, left_out, {"organ": [4], "small_tip": [7]}, "here")
    folder = write_dataset(new_dataset_folder(7, "B"), cohort, Split(1, 1))
    # 10, 12, 13, 14: mean 12.25, squares of the deviations 5.0625 + 0.0625 + 0.5625 + 3.0625 = 8.75, / 3 = 2.9167
    assert table1([folder]).rows == (
        ("organ", ("4", "2", "1", "1", "2", "12.25", "1.71", "12.50", "10.00", "14.00")),
        ("small tip", ("4", "2", "1", "1", "2", "1.00", "0.00", "1.00", "1.00", "1.00")),
    )


def test_table_1_of_a_folder_that_was_not_converted_here_is_refused(tmp_path):
    with pytest.raises(SettingsError):
        table1([tmp_path])


@pytest.mark.parametrize("labels", [["a=1", "a=2"], ["a=1", "b=1"], ["a=1,1"], ["a=0"], ["background=1"]])
def test_labels_that_cannot_be_told_apart_are_refused(tmp_path, labels):
    options = [word for label in labels for word in ("--label", label)]
    options += ["--name", "T", "--dataset-id", "1", "--workspace", str(tmp_path)]
    done = CliRunner().invoke(app, ["labelled", str(tmp_path), *options])
    assert isinstance(done.exception, SettingsError)
    assert str(done.exception).startswith(f"--label {labels[-1]}: each name and value may come once")
