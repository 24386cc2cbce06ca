"""Folders of images as they come: each entry is predicted, done already, or named with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
import typer

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.export import export
from support import tiny
from support.command_line import run
from support.dicom_files import write_slices


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    spec = CovarianceSpec(Covariance.DIAGONAL)
    export(tiny.make_results_folder(folder / "raw", covariance=spec), folder / "model", name="Tiny")
    return folder / "model"


def make_cohort(folder: Path, ct: Path) -> Path:
    """Patients as they come: DICOM, volumes, a volume in a folder of its own, and what is none of these."""
    write_slices(folder / "patient1", sitk.GetArrayFromImage(sitk.ReadImage(ct))[:12])
    (folder / "patient2.nii.gz").write_bytes(ct.read_bytes())
    (folder / "patient3").mkdir()
    sitk.WriteImage(sitk.ReadImage(ct), folder / "patient3" / "patient2.nii.gz")
    sitk.WriteImage(sitk.ReadImage(ct), folder / "patient4.mhd")  # with patient4.raw
    sitk.WriteImage(sitk.ReadImage(ct), folder / "patient2.nrrd")
    return folder


def test_every_entry_of_a_mixed_cohort_is_predicted_or_named(model: Path, ct: Path, tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "cohort", ct)
    arguments = ("predict", folder, "--model", model, "--output", folder / "out", "--no-scene", "--overlap", "0")
    names = ["patient1", "patient2.nii.gz", "patient2.nrrd", "patient3", "patient4"]
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    # Once more, with what cannot be predicted: nothing is computed again, and nothing passed over in silence.
    (folder / "patient5").mkdir()
    (folder / "patient6").mkdir()
    for name in ("a.nii.gz", "b.nii.gz"):
        (folder / "patient6" / name).write_bytes(ct.read_bytes())
    (folder / "patient7.zip").write_bytes(b"PK")
    (folder / "patient8.nii.gz").symlink_to("gone.nii.gz")
    (folder / ".DS_Store").write_bytes(b"Bud1")
    done = run(*arguments)
    assert done.exit_code == 2
    *lines, before, failed, skipped = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == [
        "Error: patient5: skipped, because it holds no image itself.",
        "Error: patient6: skipped, because it holds 2 volumes; keep one image there.",
        "Error: patient7.zip: skipped, because it is no volume and no folder of DICOM files.",
        f"Error: patient8.nii.gz: {folder / 'patient8.nii.gz'} does not exist; check the path.",
    ]
    assert before.startswith("5 of 9 cases had these results already: patient1, patient2.nii.gz")
    assert failed == "1 of 9 cases failed: patient8.nii.gz."
    assert skipped == "3 of 9 cases were skipped: patient5, patient6, patient7.zip."


def test_voxels_beside_their_header_are_no_dicom_files(ct: Path, tmp_path: Path) -> None:
    image = sitk.ReadImage(ct)
    image[0, 0, 0] = 8  # as the first element of a DICOM file begins, without a preamble
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a.mhd", tmp_path / "b" / "b.mhd"):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), path)
        assert path.with_suffix(".raw").read_bytes()[:2] == b"\x08\0"
    found = [(each.entry, each.path, each.problem) for each in list_inputs(tmp_path)]
    assert found == [("a.mhd", tmp_path / "a.mhd", ""), ("b", tmp_path / "b" / "b.mhd", "")]


def test_results_of_another_image_or_other_settings_are_not_taken_for_done(
    model: Path, ct: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(ct.read_bytes())
    arguments = ("predict", folder, "--model", model, "--output", tmp_path / "out", "--no-scene", "--overlap", "0")
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 0
    assert again.stderr == "1 of 1 cases had these results already: a.nii.gz.\n"
    assert run(*arguments, "--device", "cpu", "--engine", "torch").stderr == again.stderr, "wherever it is computed"
    assert "holds earlier results" in run(*arguments, "--min-volume", "3").stderr
    assert "holds earlier results" in run(*arguments, "--seed", "1").stderr
    table = tmp_path / "out" / "a" / "regions.csv"
    intact = table.read_bytes()
    table.write_bytes(intact + b"\n")
    assert "holds earlier results" in run(*arguments).stderr
    table.write_bytes(intact)
    assert run(*arguments).exit_code == 0
    sitk.WriteImage(sitk.ReadImage(ct) + 1, folder / "a.nii.gz")
    changed = run(*arguments)
    assert changed.exit_code == 2
    assert "holds earlier results" in changed.stderr


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault of ours"), RuntimeError(), RecursionError("too deep")])
def test_unexpected_error_in_one_case_does_not_end_the_batch(error: Exception, capsys: pytest.CaptureFixture) -> None:
    ran = []

    def fail_at_first(case: Path, _: Path) -> None:
        ran.append(case.name)
        if len(ran) == 1:
            raise error

    cases = [(Input(Path(name), name, name), Path("out") / name) for name in ("a", "b", "c")]
    with pytest.raises(typer.Exit) as exit_:
        console.run_each(cases, fail_at_first, lambda *_: False, lambda: False)
    assert exit_.value.exit_code == 2
    assert ran == ["a", "b", "c"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"Error: a: an unexpected error ({type(error).__name__}: ")
    assert said[0].endswith("); please report it, with what mob-uncertainty --debug shows.")
    assert said[1:] == ["1 of 3 cases failed: a."]


def test_ctrl_c_at_a_prompt_is_a_cancellation(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(typer.Exit) as exit_, console.reporting():
        raise typer.Abort  # as typer.prompt does
    assert exit_.value.exit_code == console.CANCELLED
    assert "report it" not in capsys.readouterr().err
