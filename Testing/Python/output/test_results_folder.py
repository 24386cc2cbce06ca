"""The results folder: what is in it, and that it is there whole or not at all."""

import csv
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base import publishing
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.output import results_folder
from MoBUncertaintyLib.output.case import Source
from MoBUncertaintyLib.output.results_folder import FOLDER, read_results
from MoBUncertaintyLib.output.results_record import RECORD
from support import TESTS
from support.fake_case import LEFT_HANDED, LEFT_KIDNEY, OBLIQUE, PANCREAS, fake_case, write_results
from support.marks import needs_posix


def write(folder: Path, case=None, **options) -> list[str]:
    return write_results(folder, case or fake_case(), **options).warnings


@pytest.mark.parametrize(
    ("step", "file", "name"),
    [("draw_overlay", "overlay.png", "The picture"), ("write_review_page", "review.html", "The review page")],
)
def test_a_part_that_cannot_be_made_costs_no_other(tmp_path, monkeypatch, step, file, name):
    def fail(path, *_):
        path.write_text("half of it")
        raise IndexError("odd")

    monkeypatch.setattr(results_folder, step, fail)
    (said,) = write(tmp_path / "out")
    assert said.startswith(f"{name} was not written: ")
    assert not (tmp_path / "out" / file).exists()
    assert read_results(tmp_path / "out").prediction.warnings[-1] == said


class TestContent:
    @pytest.mark.parametrize("direction", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
    def test_volumes_have_their_values_and_the_geometry_of_the_ct(self, tmp_path, direction):
        case = fake_case(direction)
        write(tmp_path / "out", case)
        for name, array in (
            ("segmentation", case.prediction.segmentation),
            ("probability", case.prediction.probability[0]),
            ("variance", case.prediction.variance[0]),
            ("regions", case.regions.whole_map()),
        ):
            stored = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))
            assert stored.GetSize() == case.image.GetSize()
            for get in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert np.allclose(getattr(stored, get)(), getattr(case.image, get)(), rtol=0, atol=1e-6)
            assert sitk.GetArrayFromImage(stored).dtype == array.dtype
            assert np.array_equal(sitk.GetArrayFromImage(stored), array)

    def test_several_organs_have_a_file_each(self, tmp_path):
        case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
        write(tmp_path / "out", case)
        stored = sitk.ReadImage(str(tmp_path / "out" / "variance_kidney_left.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(stored), case.prediction.variance[1])
        assert (tmp_path / "out" / "probability_pancreas.nii.gz").exists()

    def test_prediction_json_names_input_model_settings_device_times_and_organs(self, tmp_path):
        source = tmp_path / "Müller CT.nii.gz"
        case = fake_case()
        sitk.WriteImage(case.image, str(source))
        case.prediction.warnings.insert(0, "read with care")
        write(tmp_path / "out", case, source=Source(source, sha256="5" * 64))
        info = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
        given = {"name": "Müller CT.nii.gz", "sha256": "5" * 64, "path": str(source)}
        given |= {"size": list(case.image.GetSize()), "spacing_mm": list(case.image.GetSpacing())}
        assert info["input"].items() >= given.items()
        assert (info["model"]["digest"], info["settings"], info["device"]) == ("0" * 64, {"samples": None}, "cpu")
        assert info["timings_s"].keys() == {"network", "write"} and info["timings_s"]["network"] == 1.25
        assert info["regions"]["count"] == 2
        assert info["warnings"] == ["read with care", "one voxel was not finite"]
        (label,) = info["labels"]
        assert (label["name"], label["colour"]) == ("pancreas", list(PANCREAS.colour))
        stated, voxels = case.prediction.stated_volumes, int(case.prediction.segmentation.sum())
        assert label["expected_error_ml"] == pytest.approx(stated["pancreas"].error_ml, abs=1e-4)
        assert label["volume_ml"] == pytest.approx(voxels * 2 * 2 * 3 / 1000, abs=1e-3)
        assert info["expected_error_ml"] == pytest.approx(case.prediction.expected_error_mm3 / 1000, abs=1e-4)
        rows = csv.DictReader((tmp_path / "out" / "regions.csv").read_text(encoding="utf-8").splitlines())
        assert [(row["rank"], row["location"]) for row in rows] == [("1", "left"), ("2", "superior anterior")]

    def test_permissions_are_those_of_any_new_folder(self, tmp_path):
        write(tmp_path / "out")
        (tmp_path / "other").mkdir()
        assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


class TestReading:
    @pytest.mark.parametrize("labels", [(PANCREAS,), (PANCREAS, LEFT_KIDNEY)], ids=["one organ", "two organs"])
    def test_what_was_written_comes_back(self, tmp_path, labels):
        case = fake_case(labels=labels)
        own, part = ClickSettings(length_mm=6.0, prior_deviation=1.5), (slice(1, 9), slice(0, 8), slice(2, 7))
        lengths = (3.0, 4.5, 6.0)
        case.prediction = replace(case.prediction, predicted_part=part, correlation_mm=lengths, click_settings=own)
        write(tmp_path / "out", case)
        found = read_results(tmp_path / "out")
        assert found.prediction.click_settings == own
        assert (found.prediction.correlation_mm, found.prediction.processed_box) == (lengths, part)
        for part in ("segmentation", "probability", "variance"):
            assert np.array_equal(getattr(found.prediction, part), getattr(case.prediction, part))
        assert np.allclose(found.prediction.grid.matrix(), case.prediction.grid.matrix(), atol=1e-4)
        assert found.prediction.labels == labels
        assert found.prediction.warnings == case.prediction.warnings
        assert found.prediction.timings.items() >= case.prediction.timings.items()
        assert np.array_equal(found.regions.whole_map(), case.regions.whole_map())
        assert [region.rank for region in found.regions.ranked] == [1, 2]
        assert found.prediction.provenance["regions"]["count"] == 2

    def test_results_whose_overwriting_was_killed_are_found(self, tmp_path, monkeypatch):
        write(tmp_path / "out")

        def killed(*_):
            raise SystemExit  # and nothing is put back, as if the process were gone

        monkeypatch.setattr(publishing, "rename_new", killed)
        with pytest.raises(SystemExit):
            write(tmp_path / "out", overwrite=True)
        monkeypatch.undo()
        assert not (tmp_path / "out").exists()
        assert read_results(tmp_path / "out").prediction.provenance["regions"]["count"] == 2
        assert os.listdir(tmp_path) == ["out"]

    def test_more_files_are_in_the_record(self, tmp_path):
        write(tmp_path / "out", more=lambda folder: (folder / "demo.json").write_text("{}"))
        read_results(tmp_path / "out")
        (tmp_path / "out" / "demo.json").write_text("[]")
        with pytest.raises(OutputError):
            read_results(tmp_path / "out")


class TestPlace:
    def test_empty_folder_is_used(self, tmp_path):
        (tmp_path / "out").mkdir()
        write(tmp_path / "out")
        assert (tmp_path / "out" / "prediction.json").exists()

    def test_folder_with_other_things_is_left_alone_even_with_overwrite(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError):
            write(tmp_path, overwrite=True)
        assert os.listdir(tmp_path) == ["thesis.tex"]

    def test_readers_review_is_never_replaced(self, tmp_path):
        write(tmp_path / "out")
        (tmp_path / "out" / "review").mkdir()
        (tmp_path / "out" / "review" / "report.json").write_text("hours of work")
        with pytest.raises(OutputError):
            write(tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / "review" / "report.json").read_text() == "hours of work"

    @pytest.mark.parametrize("place", ["file", "file/out"])
    def test_file_in_the_way(self, tmp_path, place):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            FOLDER.check(tmp_path / place)

    def test_folder_that_may_not_be_written_to_is_refused_before_the_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write everywhere
        with pytest.raises(OutputError):
            FOLDER.check(tmp_path / "out")


class TestFailure:
    @pytest.fixture
    def earlier(self, tmp_path) -> Path:
        write(tmp_path / "out")
        return tmp_path / "out"

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
    def test_error_in_the_middle_leaves_earlier_results_and_nothing_else(self, earlier, monkeypatch, code):
        def fail(*_):
            raise OSError(code, os.strerror(code))

        before = {path.name: path.read_bytes() for path in earlier.iterdir()}
        monkeypatch.setattr(results_folder, "draw_overlay", fail)
        with pytest.raises(OutputError):
            write(earlier, overwrite=True)
        assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
        assert os.listdir(earlier.parent) == ["out"]

    def test_earlier_results_come_back_if_the_new_ones_cannot_take_their_place(self, earlier, monkeypatch):
        rename = publishing.rename_new

        def fail_once(source, target):
            if source.suffix == ".tmp":
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return rename(source, target)

        monkeypatch.setattr(publishing, "rename_new", fail_once)
        with pytest.raises(OutputError):
            write(earlier, overwrite=True)
        assert read_results(earlier).prediction.provenance["regions"]["count"] == 2
        assert os.listdir(earlier.parent) == ["out"]

    @needs_posix
    def test_volume_cut_short_by_the_system_is_noticed(self, tmp_path):
        """A limit on file sizes makes writes fail for real."""
        code = (
            "from support.fake_case import fake_case, write_results\ncase = fake_case()\n"
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\nwrite_results({str(tmp_path / 'out')!r}, case)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, encoding="utf-8")
        assert f"OutputError: The results cannot be written to {tmp_path / 'out'} (File too large)" in done.stderr
        assert os.listdir(tmp_path) == []


def test_reading_takes_nothing_from_a_run_that_writes_to_a_disk_without_locks(tmp_path, monkeypatch):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(publishing, "_lock", no_locks)
    with FOLDER.reserve(tmp_path / "out") as place, place.writing() as partial:
        with pytest.raises(OutputError):
            read_results(tmp_path / "out")
        assert partial.is_dir()
        (partial / RECORD).write_text("{}")


def test_threads_get_an_image_whose_voxels_stay_where_they_are(tmp_path, monkeypatch):
    case, seen = fake_case(), []
    draw = results_folder.draw_overlay

    def noting(path, image, *others):
        seen.append(image.IsUnique())
        draw(path, image, *others)

    monkeypatch.setattr(results_folder, "draw_overlay", noting)
    sharing = sitk.Image(case.image)  # SimpleITK would copy the voxels when the first thread looks at them
    write(tmp_path / "results", case, scene=False)
    assert seen == [True]
    assert sharing.GetSize() == case.image.GetSize()
