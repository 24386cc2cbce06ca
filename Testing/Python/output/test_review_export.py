"""What an export writes of a reviewed case: all of it or nothing, and nothing over what is not its own."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output import report, review_export
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.formats import Format
from MoBUncertaintyLib.output.results_record import write_prediction
from MoBUncertaintyLib.output.review_export import read_export, write_export
from MoBUncertaintyLib.worker.commands import export_review
from support.fake_case import LEFT_KIDNEY, PANCREAS
from support.fake_review import dicom_case, fake_review, from_dicom
from support.review_cases import stored_again


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def case() -> Case:
    case = fake_review(r1="include", r2="exclude")
    case.review.comment("1", "tail")
    return case


@pytest.fixture(scope="module")
def exam(tmp_path_factory) -> Case:
    """A CT from DICOM, with two organs, segmented by a model with little variance."""
    tags = {"0010|0010": "Doe^Jane", "0010|0030": "19800131", "0020|0011": "7"}
    files, case = dicom_case(tmp_path_factory.mktemp("dicom"), tags, labels=(PANCREAS, LEFT_KIDNEY))
    case.regions = replace(case.regions, settings=RegionSettings(variance_threshold=0.003))
    return from_dicom(fake_review(case, r1="include"), files)


class TestFiles:
    def test_report_and_corrected_segmentation_unless_said_otherwise(self, tmp_path, case):
        fractions = []
        done = write_export(case, tmp_path / "out", progress=fractions.append)
        names = ["regions.nrrd", "report.csv", "report.html", "report.json", "segmentation.seg.nrrd"]
        assert sorted(os.listdir(tmp_path / "out")) == [path.name for path in done.files] == names
        assert done.warnings == ()
        assert fractions == sorted(fractions) and fractions[-1] == 1.0
        stored = sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd"))
        assert np.array_equal(sitk.GetArrayFromImage(stored), case.review.corrected())
        assert np.allclose(grid_of(stored).matrix(), grid_of(case.image).matrix(), atol=1e-5)
        assert stored.GetMetaData("Segment0_Name") == "pancreas"
        assert "Segmentation.Status:inprogress" in stored.GetMetaData("Segment0_Tags")
        regions = sitk.ReadImage(str(tmp_path / "out" / "regions.nrrd"))
        assert np.array_equal(sitk.GetArrayFromImage(regions), case.review.listed().whole_map())
        case.review.sign("A. Reader")
        write_export(case, tmp_path / "signed", [Format.SEGMENTATION])
        stored = sitk.ReadImage(str(tmp_path / "signed" / "segmentation.seg.nrrd"))
        assert "Segmentation.Status:completed" in stored.GetMetaData("Segment0_Tags")

    def test_volumes_lie_where_the_ct_does_though_its_results_are_rounded(self, tmp_path, case):
        """NIfTI, in which results are stored, has 32-bit positions."""
        ct = sitk.Image(case.image)
        ct.SetOrigin([x + 3e-6 for x in ct.GetOrigin()])
        write_export(Case.of(ct, case.review), tmp_path / "out", [Format.SEGMENTATION])
        for name in ("segmentation.seg.nrrd", "regions.nrrd"):
            stored = sitk.ReadImage(str(tmp_path / "out" / name))
            assert np.allclose(stored.GetOrigin(), ct.GetOrigin(), rtol=0, atol=1e-9)

    def test_variance_is_shown_on_the_scale_of_its_model(self, tmp_path, exam):
        write_export(exam, tmp_path / "out", ["parametric_map"])
        variance = pydicom.dcmread(tmp_path / "out" / "variance_2.dcm")
        (window,) = variance.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (0.008, 0.016)

    @pytest.mark.parametrize("named", [False, True])
    def test_report_names_the_series_and_the_patient_only_if_asked_for(self, tmp_path, exam, named):
        write_export(exam, tmp_path / "out", ["report"], patient_fields=named)
        everything = b"".join(contents(tmp_path / "out").values())
        assert (b"Doe, Jane" in everything) is (b"1980-01-31" in everything) is named
        assert b"1.2.3.4" in everything
        assert json.loads((tmp_path / "out" / "report.json").read_text())["ct"]["dicom"]["Series number"] == "7"

    def test_nifti_is_the_corrected_label_map(self, tmp_path, case):
        done = write_export(case, tmp_path / "out", ["nifti"])
        assert [path.name for path in done.files] == ["report.json", "segmentation.nii.gz"]
        stored = sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz"))
        assert stored.GetPixelID() == sitk.sitkUInt8
        assert np.array_equal(sitk.GetArrayFromImage(stored), case.review.corrected())
        assert np.allclose(grid_of(stored).matrix(), grid_of(case.image).matrix(), atol=1e-4)

    def test_dicom_files_without_a_preamble_are_read_like_others(self, tmp_path, exam):
        old = [tmp_path / file.name for file in exam.source.dicom_files]
        for file, path in zip(exam.source.dicom_files, old, strict=True):
            dataset = pydicom.dcmread(file)
            del dataset.preamble, dataset.file_meta
            dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
            assert path.read_bytes()[:2] == b"\x08\0"
        read_image(tmp_path)
        assert write_export(from_dicom(exam, old), tmp_path / "out", ["dicom_seg"]).problems == ()

    def test_unreadable_dicom_files_are_a_problem_of_the_report(self, tmp_path, case):
        (tmp_path / "1.dcm").write_bytes(b"no DICOM")
        done = write_export(from_dicom(case, [tmp_path / "1.dcm"]), tmp_path / "out", patient_fields=True)
        (problem,) = done.problems
        assert "1.dcm" in problem
        assert {path.name for path in done.files} >= {"report.html", "segmentation.seg.nrrd"}


class TestFailure:
    def test_no_formats_are_refused(self, tmp_path, case):
        with pytest.raises(SettingsError):
            write_export(case, tmp_path / "out", [])
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("step", ["write_html", "write_segmentation_nrrd", "write_table", "save_as"])
    def test_full_disk_in_the_middle_leaves_the_earlier_review_and_nothing_else(
        self, tmp_path, exam, monkeypatch, step
    ):
        def fail(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write_export(exam, tmp_path / "out")
        before = contents(tmp_path / "out")
        monkeypatch.setattr(pydicom.Dataset if step == "save_as" else review_export, step, fail)
        with pytest.raises(OutputError):
            write_export(exam, tmp_path / "out", ["report", "segmentation", "dicom_seg"], overwrite=True)
        assert contents(tmp_path / "out") == before
        assert os.listdir(tmp_path) == ["out"]

    def test_segmentation_that_is_cut_short_is_noticed(self, tmp_path, case, monkeypatch):
        def cut_short(image, path, **options):
            sitk_write(image, path, **options)
            Path(path).write_bytes(Path(path).read_bytes()[:-200])

        sitk_write = sitk.WriteImage
        monkeypatch.setattr(sitk, "WriteImage", cut_short)
        with pytest.raises(OutputError) as caught:
            write_export(case, tmp_path / "out")
        assert ".tmp" not in str(caught.value)
        assert os.listdir(tmp_path) == []


PARTS = {
    "write_html": ("The report", {"report.html"}),
    "write_table": ("The table of the report", {"report.csv"}),
    "write_segmentation_nrrd": ("The segmentation", {"segmentation.seg.nrrd", "regions.nrrd"}),
    "_write_nifti": ("The segmentation as NIfTI", {"segmentation.nii.gz"}),
}


@pytest.mark.parametrize("step", [*PARTS, "draw_region"])
@pytest.mark.parametrize("error", [ValueError("a box beyond the picture"), MemoryError()])
def test_a_part_that_cannot_be_made_costs_no_other(tmp_path, case, monkeypatch, step, error):
    """It is signed: this is when nothing may be lost."""

    def fail(place, *_, **__):
        if isinstance(place, Path) and not place.is_dir():
            place.write_text("half of it")
        raise error

    case.review.sign("A. Reader")
    if step == "_write_nifti":
        known = review_export._WRITERS[Format.NIFTI]
        monkeypatch.setitem(review_export._WRITERS, Format.NIFTI, (*known[:2], fail))
    else:
        monkeypatch.setattr(report if step == "draw_region" else review_export, step, fail)
    name, lost = PARTS.get(step, PARTS["write_html"])
    done = write_export(case, tmp_path / "out", ["report", "segmentation", "nifti"])
    everything = {"report.json"}.union(*(files for _, files in PARTS.values()))
    assert {path.name for path in done.files} == set(os.listdir(tmp_path / "out")) == everything - lost
    (problem,) = done.problems
    assert problem.startswith(f"{name} was not written: ") and problem.endswith(".")
    record, signed = read_export(tmp_path / "out")
    assert problem in record["warnings"] and signed is not None
    if "report.html" not in lost:
        assert (problem in (tmp_path / "out" / "report.html").read_text()) is (name != "The table of the report")


class Told:
    """What the worker would have sent."""

    def __init__(self) -> None:
        self.steps, self.warnings = [], []

    def progress(self, fields) -> None:
        self.steps.append(json.loads(json.dumps(fields)))

    def warning(self, message: str) -> None:
        self.warnings.append(message)


class TestRequest:
    def request(self, folder: Path, case: Case, **changes) -> dict:
        """As the module sends it: JSON, with arrays as files."""

        def save(name: str, array: np.ndarray) -> str:
            np.save(folder / f"{name}.npy", array)
            return str(folder / f"{name}.npy")

        ct = sitk.GetArrayViewFromImage(case.image)
        given = {"input": {"name": None, "sha256": "b" * 64}}
        sent = replace(case.prediction, provenance=case.prediction.provenance | given)
        request = {
            "ct": {"array": save("ct", ct), "ijk_to_ras": grid_of(case.image).matrix().tolist(), "name": "Jäger CT"},
            "dicom_files": None,
            "prediction": write_prediction(sent, case.review.listed(), save),
            "review": case.review.to_dict(),
            "output": str(folder / "out"),
            "formats": ["report", "segmentation"],
            "patient_fields": False,
            "overwrite": False,
        }
        return json.loads(json.dumps(request | changes))

    @pytest.mark.parametrize("named", [False, True])
    def test_name_of_the_ct_may_be_the_patients(self, tmp_path, case, named):
        """A file, and the volume that was loaded from it, are often called after the patient."""
        request = self.request(tmp_path, case, patient_fields=named)
        request["ct"]["name"] = request["prediction"]["provenance"]["input"]["name"] = "Doe_Jane"
        export_review(request, Told())
        written = contents(tmp_path / "out")
        assert [name for name, content in written.items() if b"Doe_Jane" in content] == (
            ["report.html", "report.json"] if named else []
        )
        assert b"b" * 64 in written["report.html"]  # the CT's hash still tells which one it was

    @pytest.mark.parametrize(
        ("formats", "packages"), [(["report", "segmentation"], "-export"), (list(Format), "-dicom")]
    )
    def test_needs_only_what_is_installed_for_an_export(self, tmp_path, exam, formats, packages):
        """Where nothing is segmented, neither PyTorch nor nnU-Net is there."""
        changes = {"formats": formats, "dicom_files": [str(path) for path in exam.source.dicom_files]}
        (tmp_path / "request.json").write_text(json.dumps(self.request(tmp_path, exam, **changes)))
        script = """
            import json, sys
            for name in sys.argv[2].split():
                sys.modules[name] = None
            from MoBUncertaintyLib.worker.commands import export_review
            from MoBUncertaintyLib.worker.server import Report
            with open(sys.argv[1], encoding="utf-8") as file:
                done = export_review(json.load(file), Report(lambda *_: None))
            print(done["warnings"])
        """
        absent = ["torch", "nnunetv2", "acvl_utils", "nibabel", "safetensors"]
        absent += ["highdicom"] if packages == "-export" else []
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "request.json"), " ".join(absent)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "[]", done.stderr

    def test_what_is_asked_for_is_written_and_its_record_brings_the_review_back(self, tmp_path, case):
        case.review.edit("2", np.ones(case.prediction.shape, np.uint8))
        told, out = Told(), tmp_path / "out"
        result = export_review(self.request(tmp_path, case, patient_fields=True), told)
        assert {Path(path).name for path in result["files"]} == set(os.listdir(out))
        assert result["warnings"] == told.warnings and result["problems"] == []
        assert "did not come from DICOM" in told.warnings[0]
        assert told.steps[-1]["fraction"] == 1.0
        record = json.loads((out / "report.json").read_text(encoding="utf-8"))
        assert (record["ct"]["name"], record["ct"]["sha256"]) == ("Jäger CT", "b" * 64)
        assert record["warnings"] == told.warnings
        names = review_export.REGIONS, review_export.SEGMENTATION
        regions, segmentation = (sitk.GetArrayFromImage(sitk.ReadImage(str(out / name))) for name in names)
        again = stored_again(case.review, record["review"])
        assert np.array_equal(again.listed().whole_map(), regions)
        assert np.array_equal(again.corrected(), segmentation)
        assert np.array_equal(again.corrected(), case.review.corrected())

    def test_what_could_not_be_written_is_returned(self, tmp_path, exam, case):
        files = [str(path) for path in exam.source.dicom_files[1:]]
        result = export_review(self.request(tmp_path, case, formats=["report", "dicom_seg"], dicom_files=files), Told())
        assert "The DICOM segmentation was not written" in result["problems"][0]
