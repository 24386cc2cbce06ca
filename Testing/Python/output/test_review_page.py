"""The review page, alone in a real browser: slices, clicks, verdicts, and the decisions that it saves."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid, whole
from MoBUncertaintyLib.output.case import Source
from MoBUncertaintyLib.output.pages.review_page import patient_axes, write_review_page
from MoBUncertaintyLib.output.review_files import open_case
from support.browser import Reader, reader
from support.fake_case import LEFT_HANDED, LEFT_KIDNEY, OBLIQUE, PANCREAS, fake_case, write_case, write_results
from support.fake_review import fake_review
from support.marks import needs_browser

HOSTILE = "</script><script>document.title = 'taken'</script>"


def data_of(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="case">(.*?)</script>', text, re.DOTALL).group(1))


def unpack(crop: dict, name: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(crop[name])), np.uint8).reshape(-1, *crop["shape"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_review_page(tmp_path / "review.html", fake_review())
    return tmp_path / "review.html"


@pytest.fixture
def person(browser: Any, path: Path) -> Iterator[Reader]:
    with reader(browser) as each:
        each.open(path.as_uri())
        yield each


class TestFile:
    @pytest.mark.parametrize("direction", [OBLIQUE, LEFT_HANDED, (0, 0, 1, 1, 0, 0, 0, -1, 0)])
    def test_voxels_are_where_its_matrix_says(self, tmp_path, direction):
        review = fake_review(fake_case(direction))
        write_review_page(tmp_path / "review.html", review)
        crops = data_of(tmp_path / "review.html")["crops"].values()
        for crop in crops:
            grey, (labels, _, mask) = unpack(crop, "ct")[0], unpack(crop, "maps")
            matrix = np.array(crop["ijk_to_ras"])
            assert np.allclose(np.linalg.inv(matrix), crop["ras_to_ijk"])
            assert (np.abs(matrix[:3, 2::-1]).argmax(axis=0) == (2, 1, 0)).all()  # S, A, R
            assert (matrix[(2, 1, 0), (2, 1, 0)] > 0).all()
            for voxel in np.argwhere(mask)[::97]:
                lps = LPS_TO_RAS * (matrix @ (*voxel[::-1], 1))[:3]
                index = review.image.TransformPhysicalPointToIndex(lps.tolist())
                assert labels[tuple(voxel)] == review.prediction.segmentation[index[::-1]]
                assert (grey[tuple(voxel)] == 255) == (review.image[index] >= 240)
        assert crops

    def test_text_stays_text(self, tmp_path):
        review = fake_review()
        review = replace(review, source=Source(name=HOSTILE))
        review.prediction.warnings.append(HOSTILE)
        write_review_page(tmp_path / "review.html", review)
        text = (tmp_path / "review.html").read_text(encoding="utf-8")
        assert HOSTILE not in text
        assert text.count("<script") == 2

    def test_axes_of_the_patient(self):
        matrix = np.eye(4)
        matrix[:3, :3] = [[0, 0, 3], [-1, 0, 0], [0, -2, 0]]  # i runs to P, j to I, k to R
        assert patient_axes(Grid.from_matrix(matrix)) == ((1, 2, 0), (True, True, False))


@needs_browser
class TestReader:
    def test_click_is_where_it_was_made(self, person, path):
        crop = data_of(path)["crops"]["1"]
        person.press("o")
        person.click(0, 0.5, 0.5)
        person.press("l")
        person.click(1, 0.4, 0.6)
        organ, other = person.save()["clicks"]
        assert (organ["label"], other["label"]) == ("pancreas", "background")
        for click in (organ, other):
            voxel = np.array(crop["ras_to_ijk"]) @ (*click["points_ras"][0], 1)
            assert np.allclose(voxel, voxel.round(), atol=1e-6)
            assert ((voxel[2::-1] >= -0.1) & (voxel[2::-1] < crop["shape"])).all()
        middle = np.array(crop["ijk_to_ras"]) @ (*((np.array(crop["shape"][::-1]) - 1) / 2), 1)
        assert np.abs(np.array(organ["points_ras"][0])[:2] - middle[:2]).max() < 3.1  # half a voxel, oblique

    def test_stroke_is_one_click(self, person):
        person.press("o")
        person.draw(0, (0.4, 0.5), (0.6, 0.5))
        (stroke,) = person.save()["clicks"]
        points = np.array(stroke["points_ras"])
        assert len(points) > 2
        assert len({tuple(point) for point in points}) == len(points)

    def test_verdicts_comments_and_signature(self, person):
        person.press("i")
        person.page.fill("#comment", "tail")
        person.page.fill("#reader", "A. Reader")
        assert "signature" not in person.save(), "a region is open"
        person.page.focus("#regions")
        person.page.locator("#regions li").nth(1).click()
        person.press("a")
        saved = person.save()
        first, second = saved["regions"]
        assert (first["verdict"], first["comment"], second["verdict"]) == ("include", "tail", "accept")
        assert saved["signature"]["name"] == "A. Reader"

    def test_undo_takes_back_click_and_verdict(self, person):
        before = person.pixels(0)
        person.press("o")
        person.click(0, 0.5, 0.5)
        person.press("a")
        assert "1 click, 1 of 2 regions decided" in person.text("#count")
        person.press("Control+z", "u", "v")
        assert "0 clicks, 0 of 2 regions decided" in person.text("#count")
        person.page.locator("#regions li").nth(0).click()
        assert person.pixels(0) == before

    def test_stroke_that_runs_into_a_decided_region_opens_it(self, person, path):
        person.press("a", "ArrowDown", "a", "ArrowUp", "o")
        person.draw(0, (0.05, 0.5), (0.5, 0.5))
        (stroke,) = person.save()["clicks"]
        assert stroke["region"] is None  # it begins beside
        assert [region["rank"] for region in person.save()["regions"]] == [2]

    def test_click_can_be_removed(self, person):
        person.press("o")
        person.click(0, 0.5, 0.5)
        person.press("a")
        person.page.click("#clicks .remove")
        saved = person.save()
        assert (saved["clicks"], saved["regions"]) == ([], [])  # a verdict was given with it

    def test_keys_act_after_a_slider_was_used(self, person):
        person.page.focus("#slice-0")
        person.press("ArrowRight")
        for _ in range(2):
            person.page.keyboard.down("a")  # the second is a repetition, and no verdict
        person.page.keyboard.up("a")
        assert "1 of 2 regions decided" in person.text("#count")
        assert person.page.evaluate("current") == "1"

    def test_stroke_ends_where_another_region_is_shown(self, person):
        person.press("o")
        person.page.hover("#plane-0")
        person.page.mouse.down()
        person.press("ArrowDown")
        person.page.mouse.up()
        assert person.save()["clicks"] == []

    def test_looking_and_leafing_mark_nothing(self, person):
        before = person.pixels(1)
        person.click(0, 0.4, 0.4)
        assert person.pixels(1) != before
        caption = person.text("#caption-0")
        person.page.hover("#plane-0")
        person.page.mouse.wheel(0, -100)
        assert person.text("#caption-0") != caption
        assert person.save()["clicks"] == []

    def test_keys_typed_as_text_decide_nothing_and_are_not_lost_unasked(self, person):
        person.page.click("#comment")
        person.page.keyboard.type("a nice tail")
        assert "0 of 2 regions decided" in person.text("#count")
        assert person.page.evaluate("unsaved")

    def test_label_is_chosen_where_there_are_several(self, browser, tmp_path):
        case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
        write_review_page(tmp_path / "review.html", fake_review(case))
        with reader(browser) as person:
            person.open((tmp_path / "review.html").as_uri())
            organ, _, place = person.text("#title").removeprefix("1. ").partition(", ")
            assert organ in {"pancreas", "kidney left"} and place == case.regions.ranked[0].location
            person.page.select_option("#label", label="kidney left")
            person.press("o")
            person.click(0, 0.5, 0.5)
            assert person.save()["clicks"][0]["label"] == "kidney_left"

    def test_box_in_a_decided_region_opens_it_and_one_beside_does_not(self, person):
        person.press("a", "o", "j")
        person.draw(0, (0.02, 0.02), (0.1, 0.1))
        assert [region["rank"] for region in person.save()["regions"]] == [1]
        person.draw(0, (0.4, 0.4), (0.6, 0.6))
        assert person.save()["regions"] == []
        person.press("j")
        person.click(0, 0.5, 0.5)
        assert [click["extent"] for click in person.save()["clicks"]] == ["outline", "outline", "stroke"]

    def test_lassos_and_locks_applied_are_what_was_drawn(self, browser, tmp_path):
        case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
        write_results(tmp_path / "results", case)
        sitk.WriteImage(case.image, tmp_path / "ct.nii.gz")
        with reader(browser) as person:
            person.open((tmp_path / "results" / "review.html").as_uri())
            person.page.click("#lock")
            person.page.select_option("#label", label="kidney left")
            person.press("k")
            person.draw(0, (0.03, 0.2), (0.97, 0.3), (0.97, 0.8), (0.03, 0.7))
            assert person.page.locator("#clicks li").all_inner_texts()[0].startswith("pancreas is locked")
            saved = person.save()
        (tmp_path / "decisions.json").write_text(json.dumps(saved), encoding="utf-8")
        review = open_case(tmp_path / "results", tmp_path / "decisions.json", tmp_path / "ct.nii.gz").review
        (lasso,) = review.drawn
        predicted, corrected = review.prediction.segmentation, review.corrected()
        assert list(review.locks) == [1] and np.array_equal(corrected == 1, predicted == 1)
        inside = tuple(review.refiner.voxels_of(lasso).T)
        assert set(zip(predicted[inside], corrected[inside], strict=True)) >= {(0, 2), (1, 1)}
        assert (corrected[inside][predicted[inside] != 1] == 2).all()

    def test_saved_decisions_applied_are_the_review_itself(self, browser, tmp_path):
        write_case(tmp_path)
        folder = tmp_path / "results"
        with reader(browser) as person:
            person.open((folder / "review.html").as_uri())
            person.press("l")
            person.click(0, 0.5, 0.5)
            person.press("v", "a", "ArrowDown", "o")
            person.click(1, 0.5, 0.45)
            person.draw(0, (0.45, 0.5), (0.55, 0.5))
            person.press("v", "i")
            saved = person.save()
        (tmp_path / "decisions.json").write_text(json.dumps(saved), encoding="utf-8")
        applied = open_case(folder, tmp_path / "decisions.json").review

        expected = open_case(folder).review
        for number, click in enumerate(saved["clicks"]):
            expected.click(click["points_ras"], min(number, 1), when=datetime.fromisoformat(click["time"]))
            if number == 0:
                expected.decide("1", "accept")
        expected.decide("2", "include")
        verdicts, wanted = ({each.number: each.verdict for each in review.regions} for review in (applied, expected))
        assert verdicts == wanted  # a report has the ranks of the page that was read
        assert np.array_equal(applied.corrected(), expected.corrected())
        assert not np.array_equal(expected.corrected(), expected.prediction.segmentation)
        everywhere = whole(expected.prediction.shape)
        for ours, theirs in zip(applied.maps_in(everywhere), expected.maps_in(everywhere), strict=True):
            assert np.array_equal(ours, theirs)

    def test_nothing_is_asked_of_the_network(self, browser, path):
        with reader(browser) as person:
            asked = []
            person.page.on("request", lambda request: asked.append(request.url))
            person.open(path.as_uri())
            person.press("ArrowDown", "a")
            person.save()
        assert {url.partition(":")[0] for url in asked} <= {"file", "blob"}
