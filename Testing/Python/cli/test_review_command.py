"""`mob-uncertainty review`: decisions files, good and bad, applied to a results folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.integrity import file_digest, seal
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.results_folder import Results, read_results
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.output.review_files import find_image, open_case
from MoBUncertaintyLib.review.review import Review
from support.dicom_files import write_series
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case, source_of, write_results
from support.review_commands import BOTH, HEAD, decisions, entries, labels, review, run


def report_of(export: Path) -> dict:
    return json.loads((export / "report.json").read_text(encoding="utf-8"))


def edit(record: Path, change: Callable[[dict], None]) -> None:
    """Change a results folder's record, and seal it anew."""
    info = json.loads(record.read_text(encoding="utf-8"))
    change(info)
    record.write_text(json.dumps(seal(info)), encoding="utf-8")


class TestApplied:
    def test_segmentation_report_and_terminal_say_what_was_decided(self, place):
        done = run(place, BOTH)
        assert done.exit_code == 0, done.output
        regions = labels(place / "results" / "regions.nii.gz")
        expected = labels(place / "results" / "segmentation.nii.gz")
        expected[regions == 1] = 2
        expected[(regions == 2) & (expected == 1)] = 0  # the organ that most of it has
        assert np.array_equal(labels(place / "results" / "review" / "segmentation.seg.nrrd"), expected)
        shown = done.stdout.replace("\n", "")
        for words in ("2 of 2 regions", "Ada Müller, 2026-05-31 ", "ml predicted", "report.html"):
            assert words in shown
        text = (place / "results" / "review" / "report.html").read_text(encoding="utf-8")
        for words in ("köstlich", "Ada Müller", "included as kidney left"):
            assert words in text
        again = run(place, entries({"rank": 2, "verdict": "accept"}))
        assert again.exit_code == 2 and "contains an earlier review" in again.stderr
        assert run(place, entries({"rank": 2, "verdict": "accept"}), "--overwrite").exit_code == 0
        record = report_of(place / "results" / "review")
        assert record["reviewed"] == {"decided": 1, "of": 2}, "regions that are not named stay open"
        assert record["review"]["signature"] is None

    def test_output_and_formats(self, place):
        assert run(place, BOTH, "--output", str(place / "mine"), "--format", "segmentation").exit_code == 0
        assert sorted(os.listdir(place / "mine")) == ["regions.nrrd", "report.json", "segmentation.seg.nrrd"]
        assert not (place / "results" / "review").exists()

    def test_record_of_an_export_is_a_decisions_file(self, place):
        run(place, BOTH)
        first = place / "results" / "review"
        alone = Path(shutil.copy(first / "report.json", place / "alone.json"))
        assert review(place, alone, "--output", place / "again").exit_code == 0
        volumes = [(folder / "segmentation.seg.nrrd").read_bytes() for folder in (first, place / "again")]
        assert volumes[0] == volumes[1]
        assert report_of(first)["regions"] == report_of(place / "again")["regions"]

    def test_edits_and_regions_of_another_threshold_come_back(self, place):
        results = read_results(place / "results")
        image, source = find_image(results)
        mine = Review(results.prediction, results.regions)
        mine.edit("1", np.random.default_rng(0).integers(0, 3, mine.prediction.shape).astype(np.uint8))
        whole = fake_case(labels=(PANCREAS, LEFT_KIDNEY)).regions
        mine.update_regions(whole)
        mine.decide(mine.regions[-1].region_id, "exclude")
        write_export(Case.of(image, mine, source), place / "slicer")
        done = review(place, place / "slicer" / "report.json", "--output", place / "again")
        assert done.exit_code == 0, done.output
        assert np.array_equal(labels(place / "again" / "segmentation.seg.nrrd"), mine.corrected())

    def test_ct_that_was_moved_is_named(self, place, made):
        edit(place / "results" / "prediction.json", lambda info: info["input"].update(path="/gone/ct.nii.gz"))
        lost = run(place, BOTH)
        assert lost.exit_code == 2
        assert "The image /gone/ct.nii.gz no longer exists; give its new path with --image." in lost.stderr
        assert run(place, BOTH, "--image", str(made / "ct.nii.gz")).exit_code == 0

    def test_dicom_folder(self, tmp_path):
        case = fake_case((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        (tmp_path / "dicom").mkdir()
        write_series(tmp_path / "dicom", case.image)
        write_results(tmp_path / "results", case, source_of(tmp_path / "dicom"))
        (tmp_path / "dicom" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")  # a look at the folder, on a Mac
        done = run(tmp_path, entries({"rank": 1, "verdict": "include"}), "--format", "dicom_seg", "--patient-fields")
        assert done.exit_code == 0, done.output
        assert (tmp_path / "results" / "review" / "segmentation.dcm").exists()
        assert report_of(tmp_path / "results" / "review")["patient"]["Name"] == "Doe, Jane"


def reviewed(results: Results, review: Review) -> Case:
    """The case of a review of results."""
    image, source = find_image(results)
    return Case.of(image, review, source)


class TestClicks:
    """Places with labels, by themselves and beside verdicts."""

    def middle(self, place: Path, rank: int) -> list[float]:
        """The voxel of a region nearest to its centroid, RAS mm."""
        review = open_case(place / "results").review
        region = review.region(str(rank))
        index = np.argwhere(region.mask) + [part.start for part in region.box]
        return review.prediction.grid.to_ras(index[((index - index.mean(axis=0)) ** 2).sum(axis=1).argmin()]).tolist()

    def corrected(self, place: Path, folder: str = "results/review") -> np.ndarray:
        return labels(place / folder / "segmentation.seg.nrrd")

    def test_file_with_clicks_only_in_any_order(self, place):
        first, second = self.middle(place, 1), self.middle(place, 2)
        clicks = [
            {"points_ras": [first], "label": "kidney_left", "region": 1},
            {"points_ras": [second, [second[0] + 2, *second[1:]]], "label": "background", "id": "c7"},
            {"points_ras": [first], "label": 1, "time": "2020-01-01T12:00:00"},
        ]
        mine = open_case(place / "results").review
        for click, label in zip(clicks[:2], (2, 0), strict=True):
            mine.click(click["points_ras"], label)
        for number, given in enumerate((clicks, clicks[::-1])):
            done = run(place, HEAD | {"clicks": given}, "--output", str(place / f"out{number}"))
            assert done.exit_code == 0, done.output
            assert np.array_equal(self.corrected(place, f"out{number}"), mine.corrected())
            record = report_of(place / f"out{number}")["review"]
            assert {each["id"] for each in record["clicks"]} == {"c1", "c2", "c7"}
            assert sorted(each["region"] for each in record["clicks"]) == ["1", "1", "2"]
        assert (mine.corrected() != mine.prediction.segmentation).any()

    def test_the_report_has_the_ranks_by_which_the_file_names_regions(self, place):
        mine, middle = open_case(place / "results").review, self.middle(place, 1)
        mine.click([middle], 1)
        assert [region.region_id for region in mine.regions] == ["2", "1"], "a click seen at once ranks anew"
        assert run(place, HEAD | {"clicks": [{"points_ras": [middle], "label": 1, "region": 1}]}).exit_code == 0
        report = report_of(place / "results" / "review")
        assert [(row["id"], row["rank"]) for row in report["regions"]] == [("1", 1), ("2", 2)]
        assert report["clicks"][0]["region"] == 1

    def test_of_clicks_without_a_time_the_later_in_the_file_counts(self, place):
        middle = self.middle(place, 1)
        clicks = [
            {"points_ras": [middle], "label": "pancreas", "id": "c5"},
            {"points_ras": [middle], "label": "kidney_left"},
        ]
        for number, given in enumerate((clicks, [clicks[1], clicks[0]])):
            assert run(place, HEAD | {"clicks": given}, "--output", str(place / f"out{number}")).exit_code == 0
        voxel = tuple(read_results(place / "results").prediction.grid.to_index(np.array(middle)).round().astype(int))
        assert [self.corrected(place, f"out{number}")[voxel] for number in range(2)] == [2, 1]

    def test_verdicts_are_given_after_all_clicks(self, place):
        clicks = [{"points_ras": [self.middle(place, rank)], "label": rank % 2} for rank in (1, 2)]
        content = entries({"rank": 1, "verdict": "include", "label": "pancreas"}, clicks=clicks)
        assert run(place, content).exit_code == 0
        mine = open_case(place / "results").review
        for click in clicks:
            mine.click(click["points_ras"], click["label"])
        mine.decide("1", "include", 1)
        assert np.array_equal(self.corrected(place), mine.corrected())

    def test_a_region_says_which_clicks_held_when_it_was_decided(self, place):
        r, a, s = self.middle(place, 1)
        clicks = [
            {"points_ras": [[r, a, s]], "label": "background", "id": "c1"},
            {"points_ras": [[r, a, s + 8]], "label": "kidney_left", "id": "c2"},
        ]
        for number, held in enumerate((["c1"], ["c1", "c2"], None)):
            entry = {"rank": 1, "verdict": "accept"} | ({} if held is None else {"clicks": held})
            assert run(place, entries(entry, clicks=clicks), "--output", str(place / f"out{number}")).exit_code == 0
        mine = open_case(place / "results").review
        mine.click(clicks[0]["points_ras"], 0)
        mine.decide("1", "accept")
        mine.click(clicks[1]["points_ras"], 2)
        some, both, every = (self.corrected(place, f"out{number}") for number in range(3))
        assert np.array_equal(some, mine.corrected())
        assert np.array_equal(both, every)
        assert not np.array_equal(some, every)

    def test_report_of_an_export_reproduces_it_with_frozen_regions(self, place):
        results = read_results(place / "results")
        mine = Review(results.prediction, results.regions)
        r, a, s = self.middle(place, 1)
        mine.click([(r, a, s)], 0)
        mine.decide("1", "include", 2)
        mine.click([(r, a, s + 8)], 1)
        mine.click([self.middle(place, 2)], 1)
        mine.remove_click("c1")
        mine.click([(r, a + 8, s)], 0)
        mine.decide("1", "accept")
        mine.remove_click("c2")
        write_export(reviewed(results, mine), place / "slicer")
        done = review(place, place / "slicer" / "report.json", "--output", place / "again")
        assert done.exit_code == 0, done.output
        for name in ("segmentation.seg.nrrd", "regions.nrrd", "report.csv"):
            assert (place / "again" / name).read_bytes() == (place / "slicer" / name).read_bytes()
        first, second = (report_of(place / name) for name in ("slicer", "again"))
        assert {name for name in first | second if first[name] != second[name]} <= {"created", "files", "sha256"}


class TestDicomThatCannotBeWritten:
    def test_ct_of_a_file_is_refused_up_front(self, place):
        done = run(place, BOTH, "--format", "dicom_seg")
        assert done.exit_code == 2
        assert "The DICOM segmentation cannot be written, because the image did not come from DICOM" in done.stderr
        assert not (place / "results" / "review").exists()

    def test_slices_that_lack_what_must_be_repeated(self, tmp_path):
        case = fake_case((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        (tmp_path / "dicom").mkdir()
        for path in write_series(tmp_path / "dicom", case.image):
            dataset = pydicom.dcmread(path)
            del dataset.SOPClassUID
            dataset.save_as(path, enforce_file_format=False)
        write_results(tmp_path / "results", case, Source(tmp_path / "dicom"))
        done = run(tmp_path, entries({"rank": 1, "verdict": "include"}), "--format", "dicom_seg", "--format", "nifti")
        assert done.exit_code == 2
        assert "Error: The DICOM segmentation was not written: " in done.stderr
        assert sorted(os.listdir(tmp_path / "results" / "review")) == ["report.json", "segmentation.nii.gz"]


ALL_ACCEPTED = [{"rank": 1, "verdict": "accept"}, {"rank": 2, "verdict": "accept"}]
CLICK = {"points_ras": [[6.0, -110.0, -180.0]], "label": "pancreas"}


def clicked(**changes) -> dict:
    return HEAD | {"clicks": [CLICK | changes]}


BAD = {
    "no JSON": '{"schema": ',
    "no object": "[]",
    "no text": "\x00\ud83d".encode("utf-16", "surrogatepass"),
    "other schema": {"regions": []},
    "other version": entries() | {"schema_version": 4},
    "no rank": entries({"verdict": "accept"}),
    "no such rank": entries({"rank": 3, "verdict": "accept"}),
    "rank twice": entries(*[{"rank": 1, "verdict": "accept"}] * 2),
    "verdict": entries({"rank": 1, "verdict": "perhaps"}),
    "no verdict": entries({"rank": 1}),
    "misspelt": entries({"rank": 1, "verdict": "accept", "coment": ""}),
    "label": entries({"rank": 1, "verdict": "include", "label": "spleen"}),
    "label's value": entries({"rank": 1, "verdict": "include", "label": 7}),
    "edit without voxels": entries({"rank": 1, "verdict": "edit"}),
    "elsewhere": entries({"rank": 1, "verdict": "accept", "region": {"centroid_ras": [0, 0, 0]}}),
    "signature": entries(signature={"name": " "}),
    "time": entries(signature={"name": "A", "time": "noon"}),
    "signed too early": entries({"rank": 1, "verdict": "accept"}, signature={"name": "A"}),
    "signed by a terminal": entries(*ALL_ACCEPTED, signature={"name": "A\x1b[2J"}),
    "signed in another age": entries(*ALL_ACCEPTED, signature={"name": "A", "time": "0001-01-01T00:00:00"}),
    "nothing": HEAD,
    "click nowhere": clicked(points_ras=[]),
    "click at no place": clicked(points_ras=[[1.0, None, 2.0]]),
    "click outside": clicked(points_ras=[[1e308, 0, 0]]),
    "click of another label": clicked(label="spleen"),
    "click of another value": clicked(label=3),
    "click with a name": clicked(id="mine"),
    "clicks with one name": entries(clicks=[CLICK | {"id": "c1"}] * 2),
    "click at no time": clicked(time="noon"),
    "click in another age": clicked(time="0001-01-01T00:00:00"),
    "click in another region": clicked(region=3),
    "decided with another click": entries({"rank": 1, "verdict": "accept", "clicks": ["c1"]}),
    "not sealed": entries() | {"schema_version": 5},
    "another case": entries(predicted_sha256="0" * 64),
}
"""Of another form, the forms of entries apart (base/test_schema.py), or of another case."""


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_bad_decisions_are_one_sentence_and_nothing_is_written(place, content):
    path = place / "decisions.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        decisions(place, content)
    before = sorted(os.listdir(place / "results"))
    done = review(place, path)
    assert done.exit_code == 2
    assert done.stderr.count("Error:") == 1 and done.stderr.endswith(".\n")
    assert "Traceback" not in done.output
    assert sorted(os.listdir(place / "results")) == before


def forge(path: Path, change: Callable[[dict], None]) -> None:
    """Change the review in a report, and both of its seals."""
    record = report_of(path.parent)
    change(record["review"])
    path.write_text(json.dumps(seal(record | {"review": seal(record["review"])})), encoding="utf-8")


class TestExportThatWasChanged:
    """Of an export, a file or the record is altered, by accident or by hand."""

    @pytest.fixture
    def exported(self, place) -> Path:
        results = read_results(place / "results")
        mine = Review(results.prediction, results.regions)
        mine.edit("1", np.ones(mine.prediction.shape, np.uint8))
        mine.decide("2", "exclude")
        mine.sign("A. Reader")
        write_export(reviewed(results, mine), place / "export")
        return place / "export" / "report.json"

    def refused(self, place: Path, record: Path) -> None:
        assert review(place, record).exit_code == 2
        assert not (place / "results" / "review").exists()

    @pytest.mark.parametrize("name", ["report.json", "copy.json"])
    def test_record(self, place, exported, name):
        """Every part of it is under the seal: output/test_review_fuzz.py."""
        record = report_of(exported.parent)
        record["review"]["signature"]["name"] = "B. Reader"
        (exported.parent / name).write_text(json.dumps(record), encoding="utf-8")
        self.refused(place, exported.parent / name)

    @pytest.mark.parametrize("name", ["segmentation.seg.nrrd", "regions.nrrd", "report.csv", "report.html"])
    def test_one_bit_of_a_file_beside_it(self, place, exported, name):
        content = bytearray((exported.parent / name).read_bytes())
        content[len(content) // 2] ^= 4
        (exported.parent / name).write_bytes(content)
        self.refused(place, exported)

    def test_forged_with_a_new_hash_it_still_cannot_be_signed_with_regions_undecided(self, place, exported):
        def undecide(review: dict) -> None:
            for entry in review["regions"]:
                entry["verdict"] = "pending"

        forge(exported, undecide)
        self.refused(place, exported)

    def test_forged_with_a_new_hash_its_numbers_are_still_those_of_the_prediction(self, place, exported):
        def enlarge(review: dict) -> None:
            for entry in review["regions"]:
                entry["region"] |= {"volume_mm3": 852000.0, "location": "right", "expected_error_mm3": 0.0}

        forge(exported, enlarge)
        assert review(place, exported).exit_code == 0
        assert report_of(place / "results" / "review")["regions"] == report_of(exported.parent)["regions"]
        forge(exported, lambda review: review.update(ijk_to_ras=(2 * np.array(review["ijk_to_ras"])).tolist()))
        done = review(place, exported, "--output", place / "moved")
        assert "The review belongs to an image in another position" in done.stderr.replace("\n", " ")

    def test_files_may_be_left_behind(self, place, exported):
        (exported.parent / "regions.nrrd").unlink()
        assert review(place, exported).exit_code == 0


def test_missing_decisions_file(place):
    done = review(place, place / "nowhere.json")
    assert done.exit_code == 2
    assert "nowhere.json cannot be read (No such file or directory); check the path." in done.stderr.replace("\n", " ")


def another_ct(place: Path) -> list[str]:
    sitk.WriteImage(fake_case(spacing=(2.5, 2.0, 3.0)).image, str(place / "other.nii.gz"))
    return ["--image", str(place / "other.nii.gz")]


def results_on_another_grid(place: Path) -> list[str]:
    for name in ("segmentation", "regions"):
        path = place / "results" / f"{name}.nii.gz"
        image = sitk.ReadImage(str(path))
        image.SetOrigin((0.0, 0.0, 0.0))
        sitk.WriteImage(image, str(path))
    edit(
        place / "results" / "prediction.json",
        lambda info: info.update(files={name: file_digest(place / "results" / name) for name in info["files"]}),
    )
    return []


def no_record(place: Path) -> list[str]:
    (place / "results" / "prediction.json").unlink()
    return []


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (another_ct, "is not the image of these results (other SHA-256)"),
        (results_on_another_grid, "does not fit the results"),
        (no_record, "is not a results folder"),
        (lambda _: ["--format", "pdf"], "There is no format 'pdf' here"),
    ],
    ids=["another CT", "another grid", "no results folder", "unknown format"],
)
def test_what_is_not_of_one_case_is_refused(place, prepare, sentence):
    done = run(place, BOTH, *prepare(place))
    assert done.exit_code == 2
    assert sentence in done.stderr.replace("\n", " ")
