"""Folders of images as they come: each entry is predicted, done already, or named with its reason."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer

from MoBUncertaintyLib.base import publishing
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.cohort import run_each
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome
from MoBUncertaintyLib.output.cohort.table import CSV, write_cohort
from MoBUncertaintyLib.output.results_folder import FOLDER
from MoBUncertaintyLib.pipeline.cases import OTHER_RESULTS
from support.command_line import run
from support.dicom_files import write_slices
from support.marks import needs_linux, needs_posix


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_cohort_of(folder: Path, ct: Path) -> Path:
    """Patients as they come: DICOM, volumes, TotalSegmentator's layout, what cannot be predicted, what is no image."""
    write_slices(folder / "series" / "study 1" / "CT", sitk.GetArrayFromImage(sitk.ReadImage(ct))[:12])
    names = ["a.nii.gz", "alone/a.nii.gz", "s0001/ct.nii.gz", "two/a.nii.gz", "two/b.nii.gz"]
    names += [f"s0001/segmentations/{organ}.nii.gz" for organ in ("pancreas", "spleen")]
    names.append(os.fsdecode(b"M\xfcller.nii.gz"))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(ct.read_bytes())
    sitk.WriteImage(sitk.ReadImage(ct), folder / "a.nrrd")
    (folder / "truncated.nii.gz").write_bytes(ct.read_bytes()[:-2000])
    (folder / "broken link.nii.gz").symlink_to("gone.nii.gz")
    (folder / "empty").mkdir()
    (folder / "meta.csv").write_text("image_id\ns0001\n")  # as TotalSegmentator's
    (folder / "notes.txt").write_text("of the study")
    (folder / ".DS_Store").write_bytes(b"Bud1")
    return folder


@needs_linux
def test_every_entry_of_a_mixed_cohort_is_a_row_or_named_with_its_reason(model: Path, ct: Path, tmp_path: Path) -> None:
    folder = write_cohort_of(tmp_path / "cohort", ct)
    out = folder / "out"
    arguments = ("predict", folder, "--model", model, "--output", out, "--no-scene", "--overlap", "0")
    done = run(*arguments)
    assert done.exit_code == 2
    predicted = ["a.nii.gz", "a.nrrd", "alone", "s0001", "series"]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == predicted
    truncated = "truncated.nii.gz is truncated or damaged; copy or download it again."
    name = r"M\xfcller.nii.gz"
    errors = {line.removeprefix("Error: ") for line in done.stderr.splitlines() if line.startswith("Error: ")}
    (unreadable,) = (line for line in errors if line.startswith(f"{name}: "))
    assert errors - {unreadable} == {
        "empty: skipped, because it holds no image.",
        "two: skipped, because it contains 2 volumes; leave only one image in it.",
        "notes.txt: skipped, because it is neither a volume nor a DICOM folder.",
        f"broken link.nii.gz: {folder / 'broken link.nii.gz'} does not exist; check the path.",
        f"truncated.nii.gz: {truncated}",
    }
    failed, skipped, table = done.stderr.splitlines()[-3:]
    assert failed.startswith("3 of 11 cases failed: ") and skipped.startswith("3 of 11 cases were skipped: ")
    assert table == f"The table of the cohort is {out / 'cohort.html'}, and cohort.csv beside it."

    rows = read_table(out)
    assert {row["case"]: row["reason"] for row in rows[:4]}["truncated.nii.gz"] == truncated
    assert [row["outcome"] for row in rows] == ["failed"] * 4 + ["predicted"] * 5
    dices = [float(row["expected_dice"] or 0) for row in rows[4:]]  # none is expected where nothing was segmented
    assert dices == sorted(dices)
    for row in rows[4:]:
        record = json.loads((out / row["results"] / "prediction.json").read_text(encoding="utf-8"))
        (label,) = record["labels"]
        assert float(row["organ_ml"]) == pytest.approx(label["volume_ml"], rel=1e-5)
        assert float(row["expected_error_ml"]) == pytest.approx(record["expected_error_ml"], rel=1e-5)
        assert label["expected_error_ml"] == record["expected_error_ml"]
        assert int(row["regions"]) == record["regions"]["count"]
        assert {"read", "regions", "write"} < record["timings_s"].keys()
        assert float(row["seconds"]) == pytest.approx(sum(record["timings_s"].values()), rel=1e-5)
        assert record["input"]["name"] == row["case"]
    same = [sitk.GetArrayFromImage(sitk.ReadImage(out / case / "variance.nii.gz")) for case in ("a.nii.gz", "a.nrrd")]
    assert np.array_equal(*same)
    page = (out / "cohort.html").read_text(encoding="utf-8")
    assert "<strong>notes.txt</strong>: it is neither a volume" in page and "meta.csv" not in page

    # The same again for a program: nothing is computed, and the rows say so.
    again = run(*arguments, "--json")
    assert again.exit_code == 2
    assert "5 of 11 cases had these results already: " in again.stderr
    told = json.loads(again.stdout)
    assert sorted(row["outcome"] for row in told["cases"]) == ["failed"] * 4 + ["kept"] * 5
    assert {"name": "empty", "reason": "it holds no image."} in told["not_cases"]


def test_one_case_in_totalsegmentators_layout_is_one_image(ct: Path, tmp_path: Path) -> None:
    (tmp_path / "segmentations").mkdir()
    for name in ("ct.nii.gz", "segmentations/spleen.nii.gz"):
        (tmp_path / name).write_bytes(ct.read_bytes())
    assert list_inputs(tmp_path) == [Input(tmp_path / "ct.nii.gz", "", "")]


@needs_posix
def test_folders_in_folders_are_searched(ct: Path, tmp_path: Path) -> None:
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(ct))[:3]
    for name in ("one/study/a", "one/study/b", "two/study"):
        write_slices(tmp_path / name, voxels)
    (tmp_path / "two" / "circle").symlink_to(tmp_path / "two")
    (tmp_path / "earlier" / "x").mkdir(parents=True)
    (tmp_path / "earlier" / "x" / "prediction.json").write_text('{"schema": "mob-uncertainty results"}')
    (tmp_path / "earlier" / "x" / "segmentation.nii.gz").write_bytes(ct.read_bytes())
    found = {each.entry: (each.path.relative_to(tmp_path).as_posix(), each.name) for each in list_inputs(tmp_path)}
    assert found == {
        "earlier": ("earlier", "earlier"),
        "one/study/a": ("one/study/a", "one_study_a"),
        "one/study/b": ("one/study/b", "one_study_b"),
        "two": ("two/study", "two"),
    }


def one_case(place: Path, model: Path, ct: Path) -> tuple[Path, tuple]:
    """A cohort of one case, which is predicted, and the command's arguments."""
    folder = place / "cohort"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(ct.read_bytes())
    arguments = ("predict", folder, "--model", model, "--output", place / "out", "--no-scene", "--overlap", "0")
    assert run(*arguments).exit_code == 0
    return folder, arguments


def test_results_that_are_there_are_kept_if_that_is_wanted(model: Path, ct: Path, tmp_path: Path) -> None:
    folder, arguments = one_case(tmp_path, model, ct)
    before = (tmp_path / "out" / "a" / "prediction.json").read_bytes()
    (folder / "b.nii.gz").write_bytes(ct.read_bytes())
    done = run(*arguments, "--seed", "1", "--skip-existing")
    assert done.exit_code == 0, done.stderr
    rows = {row["case"]: row for row in read_table(tmp_path / "out")}
    assert (rows["a.nii.gz"]["outcome"], rows["b.nii.gz"]["outcome"]) == ("kept", "predicted")
    assert OTHER_RESULTS in rows["a.nii.gz"]["warnings"] and OTHER_RESULTS not in rows["b.nii.gz"]["warnings"]
    assert (tmp_path / "out" / "a" / "prediction.json").read_bytes() == before
    both = run(*arguments, "--skip-existing", "--overwrite")
    assert both.exit_code == 2 and "--skip-existing and --overwrite exclude" in both.stderr
    (tmp_path / "out" / "a" / "regions.csv").write_text("altered")
    assert "are damaged" in run(*arguments, "--skip-existing").stderr
    one = ("predict", folder / "b.nii.gz", "--model", model, "--output", tmp_path / "out" / "b", "--skip-existing")
    assert "already contains results" in run(*one).stderr


def test_tables_of_others_are_not_replaced(model: Path, ct: Path, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "a.nii.gz").write_bytes(ct.read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cohort.csv").write_text("patient,age\n")
    done = run("predict", tmp_path / "cohort", "--model", model, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "cohort.csv was not written by this program; move it or choose another folder." in done.stderr
    assert (tmp_path / "out" / "cohort.csv").read_text() == "patient,age\n"


def test_results_of_another_image_or_other_settings_are_not_taken_for_done(
    model: Path, ct: Path, tmp_path: Path
) -> None:
    folder, arguments = one_case(tmp_path, model, ct)
    again = run(*arguments)
    assert again.exit_code == 0
    assert again.stderr.splitlines()[0] == "1 of 1 cases had these results already: a.nii.gz."
    assert run(*arguments, "--device", "cpu", "--engine", "torch").stderr == again.stderr, "wherever it is computed"
    assert "contains earlier results" in run(*arguments, "--region", "minimum_mm3=3").stderr
    assert "contains earlier results" in run(*arguments, "--seed", "1").stderr
    assert "contains earlier results" in run(*arguments, "--labels", "organ").stderr
    table = tmp_path / "out" / "a" / "regions.csv"
    intact = table.read_bytes()
    table.write_bytes(intact + b"\n")
    assert "contains earlier results" in run(*arguments).stderr
    table.write_bytes(intact)
    assert run(*arguments).exit_code == 0
    sitk.WriteImage(sitk.ReadImage(ct) + 1, folder / "a.nii.gz")
    changed = run(*arguments)
    assert changed.exit_code == 2
    assert "contains earlier results" in changed.stderr


def cases_in(output: Path, names: str) -> list[tuple[Input, Path]]:
    return [(Input(Path(name), name, name), output / name) for name in names]


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault of ours"), RuntimeError(), RecursionError("too deep")])
def test_unexpected_error_in_one_case_does_not_end_the_batch(error: Exception, capsys: pytest.CaptureFixture) -> None:
    ran = []

    def fail_at_first(case: Input, folder: Path) -> CohortCase:
        ran.append(case.name)
        if len(ran) == 1:
            raise error
        return CohortCase(case.entry, Outcome.PREDICTED, folder=folder)

    cases = cases_in(Path("out"), "abc")
    written: list[int] = []
    rows = run_each(cases, fail_at_first, lambda: False, lambda rows: written.append(len(rows)))
    assert [row.outcome for row in rows] == [Outcome.FAILED, Outcome.PREDICTED, Outcome.PREDICTED]
    assert rows[0].reason.startswith(f"An unexpected error ({type(error).__name__}: ")
    assert written == [2, 3, 3]  # whoever waits sees how far it is
    assert ran == ["a", "b", "c"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"Error: a: an unexpected error ({type(error).__name__}: ")
    assert said[0].endswith("); please report it, with what mob-uncertainty --debug shows.")
    assert said[1:] == ["1 of 3 cases failed: a."]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_disk_ends_the_batch_before_another_case_is_predicted(
    number: int, capsys: pytest.CaptureFixture
) -> None:
    ran, written = [], []

    def fail_at_second(case: Input, folder: Path) -> CohortCase:
        ran.append(case.name)
        with FOLDER.errors(folder):
            if len(ran) == 2:
                raise OSError(number, os.strerror(number))
        return CohortCase(case.entry, Outcome.PREDICTED, folder=folder)

    cases = cases_in(Path("out"), "abc")
    with pytest.raises(OutputError):
        run_each(cases, fail_at_second, lambda: False, lambda rows: written.append(len(rows)))
    assert (ran, written) == (["a", "b"], [1])
    assert capsys.readouterr().err.startswith("Stopped at b;")


@pytest.mark.parametrize("closed", [True, False], ids=["closed in the end", "left open"])
def test_a_table_that_is_open_elsewhere_does_not_end_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, closed: bool
) -> None:
    """Excel keeps Windows from replacing it."""

    def replace(source: object, target: object) -> None:
        if str(target).endswith(CSV) and len(ran) >= 2 and not (closed and len(ran) == 4):
            raise PermissionError(errno.EACCES, "Permission denied")
        real(source, target)

    real, ran = os.replace, []
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(publishing, "BUSY", PermissionError)
    monkeypatch.setattr(publishing, "BUSY_S", 0.2)

    def run_one(case: Input, folder: Path) -> CohortCase:
        ran.append(case.name)
        return CohortCase(case.entry, Outcome.PREDICTED, folder=folder)

    cases = cases_in(tmp_path, "abcd")
    given = cases, run_one, lambda: False, lambda rows: write_cohort(tmp_path, "cohort", rows)
    if closed:
        run_each(*given)
    else:
        with pytest.raises(OutputError):
            run_each(*given)
    assert ran == [*"abcd"]
    assert [row["case"] for row in read_table(tmp_path)] == ([*"abcd"] if closed else ["a"])
    assert "d/review.html" in (tmp_path / "cohort.html").read_text(encoding="utf-8")
    assert capsys.readouterr().err.count("close it where it is open") == (2 if closed else 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.csv", "cohort.html"]


def test_ctrl_c_at_a_prompt_is_a_cancellation(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(typer.Exit) as exit_, console.reporting():
        raise typer.Abort  # as typer.prompt does
    assert exit_.value.exit_code == console.CANCELLED
    assert "report it" not in capsys.readouterr().err
