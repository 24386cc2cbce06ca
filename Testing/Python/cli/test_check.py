"""`check`: a segmentation that others have drawn, held against a model, and its review."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.segment_nrrd import Segment, write_segments
from MoBUncertaintyLib.pipeline.drawing import is_of
from MoBUncertaintyLib.regions.region import Discrepancy
from support import tiny
from support.command_line import run

ISLAND = np.s_[2:5, 2:6, 2:6]


@pytest.fixture(scope="module")
def drawn(ct: Path, tmp_path_factory) -> Path:
    """The organ with an island, as Slicer stores it."""
    image = sitk.ReadImage(ct)
    labels = tiny.truth(image).astype(np.uint8)
    labels[ISLAND] = 1
    path = tmp_path_factory.mktemp("drawn") / "drawn.seg.nrrd"
    segments = [Segment(1, "Organ", (1, 2, 3), {}), Segment(2, "spleen", (3, 2, 1), {})]
    write_segments(path, labels, grid_of(image), segments)
    return path


def check(image: Path, segmentation: Path, model: Path, output: Path, *more: str):
    return run("check", image, segmentation, "--model", model, "--output", output, "--no-scene", *more)


@pytest.fixture(scope="module")
def checked(ct: Path, drawn: Path, model: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checked") / "results"
    before = drawn.read_bytes()
    done = check(ct, drawn, model, folder)
    assert done.exit_code == 0, done.output
    assert "stray part" in done.stdout
    assert drawn.read_bytes() == before
    return folder


def test_the_results_are_of_what_was_drawn(checked: Path, drawn: Path) -> None:
    results = read_results(checked)
    labels = sitk.GetArrayFromImage(read_volume(drawn))
    np.testing.assert_array_equal(results.prediction.segmentation, labels)
    told = results.prediction.checked
    assert (told.labels, told.unmatched) == ({"organ": "Organ"}, ("spleen",))
    assert any("stray part" in finding.sentence for finding in told.findings)
    (first, *_) = results.regions.ranked
    assert isinstance(first, Discrepancy) and first.label == "organ"
    with (checked / "regions.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert float(row["discrepancy"]) == pytest.approx(first.discrepancy, rel=1e-3)
    assert (row["label"], row["missing"], row["false_alarms"]) == ("organ", str(first.missing), "")
    assert 0 < results.prediction.agreement["organ"].dice < 1
    own = sitk.GetArrayFromImage(read_volume(checked / "predicted.nii.gz"))
    assert not own[ISLAND].any()
    assert results.regions.whole_map()[ISLAND].all()


def test_its_page_says_what_was_checked_and_that_agreement_is_no_proof(checked: Path) -> None:
    page = (checked / "review.html").read_text(encoding="utf-8")
    for words in ("drawn.seg.nrrd", "no proof", "stray part", "Not checked", "improbable", "expected Dice"):
        assert words in page


def test_its_review_starts_from_what_was_drawn(checked: Path, ct: Path, drawn: Path, tmp_path: Path) -> None:
    results = read_results(checked)
    rank = int(results.regions.whole_map()[ISLAND].flat[0])
    others = [region.rank for region in results.regions.ranked if region.rank != rank]
    decisions = {
        "schema": "mob-uncertainty review",
        "schema_version": 2,
        "regions": [{"rank": rank, "verdict": "exclude"}, *({"rank": each, "verdict": "accept"} for each in others)],
        "signature": {"name": "A. Reader"},
    }
    (tmp_path / "d.json").write_text(json.dumps(decisions))
    done = run("review", checked, "--image", ct, "--decisions", tmp_path / "d.json", "--output", tmp_path / "review")
    assert done.exit_code == 0, done.output
    corrected = sitk.GetArrayFromImage(read_volume(tmp_path / "review" / "segmentation.seg.nrrd"))
    labels = sitk.GetArrayFromImage(read_volume(drawn))
    assert not corrected[ISLAND].any()
    labels[ISLAND] = 0
    np.testing.assert_array_equal(corrected, labels)
    report = (tmp_path / "review" / "report.html").read_text(encoding="utf-8")
    assert "no proof" in report


def test_two_segmentations_are_compared(ct: Path, drawn: Path, model: Path, tmp_path: Path) -> None:
    image, second = sitk.ReadImage(ct), tmp_path / "second.seg.nrrd"
    labels = tiny.truth(image).astype(np.uint8)
    write_segments(second, labels, grid_of(image), [Segment(1, "theirs", (1, 2, 3), {})])
    command = (ct, drawn, model, tmp_path / "out", "--against", second, "--map", "theirs=organ")
    done = check(*command)
    assert done.exit_code == 0, done.output
    assert "second.seg.nrrd" in done.stdout
    results = read_results(tmp_path / "out")
    (region,) = results.regions.ranked
    assert region.compared and not region.missing and region.discrepancy > 0
    assert results.regions.whole_map()[ISLAND].all()
    np.testing.assert_array_equal(results.prediction.segmentation, sitk.GetArrayFromImage(read_volume(drawn)))
    page = (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    for words in ("second.seg.nrrd", "only in the first; the second is more probable"):
        assert words in page
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())["checked"]
    assert is_of(record, drawn, {"theirs": "organ"}, second)
    assert not is_of(record, drawn, {"theirs": "organ"})
    assert not is_of(record, drawn, {"theirs": "organ"}, drawn)


def test_segmentations_without_a_common_label_are_not_compared(
    ct: Path, drawn: Path, model: Path, tmp_path: Path
) -> None:
    done = check(ct, drawn, model, tmp_path / "out", "--against", tmp_path / "nothing.nii.gz")
    assert done.exit_code == 2
    assert "does not exist" in done.stderr
    image, second = sitk.ReadImage(ct), tmp_path / "second.seg.nrrd"
    labels = tiny.truth(image).astype(np.uint8)
    write_segments(second, labels, grid_of(image), [Segment(1, "liver", (1, 2, 3), {})])
    done = check(ct, drawn, model, tmp_path / "out", "--against", second)
    assert done.exit_code == 2
    assert "second.seg.nrrd has no label of the model" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_can_be_mapped(ct: Path, drawn: Path, model: Path, tmp_path: Path) -> None:
    done = check(ct, drawn, model, tmp_path / "out", "--map", "spleen=organ")
    assert done.exit_code == 2
    assert "is empty" in done.stderr
    assert not (tmp_path / "out").exists()


def test_results_are_of_the_names_that_were_mapped(ct: Path, drawn: Path, model: Path, tmp_path: Path) -> None:
    assert check(ct, drawn, model, tmp_path / "out", "--map", "Organ=organ").exit_code == 0
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())["checked"]
    assert is_of(record, drawn, {"organ": "Organ"})
    assert not is_of(record, drawn, {})
    assert not is_of(record, drawn, {"Organ": "organ", "spleen": "organ"})
    assert not is_of(record | {"mapped": {}}, drawn, {"spleen": "organ"})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--map", "liver=organ"), "has no label 'liver' to map; it has Organ, spleen"),
        (("--map", "spleen=liver"), "The model has no label 'liver' to map; it has organ"),
        (("--map", "spleen"), "is not understood"),
    ],
)
def test_a_map_of_what_is_not_there_is_refused(more, words, ct: Path, drawn: Path, model: Path, tmp_path: Path) -> None:
    done = check(ct, drawn, model, tmp_path / "out", *more)
    assert done.exit_code == 2
    assert words in done.stderr


def test_nothing_that_matches_is_an_error(ct: Path, model: Path, tmp_path: Path) -> None:
    image = sitk.ReadImage(ct)
    labels = tiny.truth(image).astype(np.uint8)
    write_segments(tmp_path / "s.seg.nrrd", labels, grid_of(image), [Segment(1, "liver", (1, 2, 3), {})])
    done = check(ct, tmp_path / "s.seg.nrrd", model, tmp_path / "out")
    assert done.exit_code == 2
    assert "has no label of the model" in done.stderr
    assert "(theirs: liver; the model's: organ)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pairs_gives_a_table_worst_first(ct: Path, model: Path, tmp_path: Path) -> None:
    images, drawn, out = (tmp_path / name for name in ("images", "drawn", "out"))
    images.mkdir()
    drawn.mkdir()
    labels = sitk.ReadImage(ct) * 0
    truth = tiny.truth(sitk.ReadImage(ct)).astype(np.uint8)
    for name, shift in (("good", 0), ("shifted", 2), ("alone", None)):
        (images / f"{name}.nii.gz").write_bytes(ct.read_bytes())
        if shift is not None:
            moved = sitk.GetImageFromArray(np.roll(truth, shift, axis=2))
            moved.CopyInformation(labels)
            sitk.WriteImage(moved, drawn / f"{name}.nii.gz")
    done = check(images, drawn, model, out)
    assert done.exit_code == 2  # one has no segmentation
    with (out / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["alone.nii.gz", "shifted.nii.gz", "good.nii.gz"]
    assert "no segmentation of that name" in rows[0]["reason"]
    assert "shifted" in rows[1]["findings"]
    again = check(images, drawn, model, out)
    assert "had these results already" in again.stderr
