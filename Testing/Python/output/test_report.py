"""The report: what its three formats say, that typed text stays text, and pictures that show the patient's planes."""

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.measurements.interval import volume_number
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.pictures.planes import PLANES
from MoBUncertaintyLib.output.pictures.region_pictures import draw_region
from MoBUncertaintyLib.output.pictures.style import Scale
from MoBUncertaintyLib.output.report import (
    CLICK_COLUMNS,
    COLUMNS,
    build_report,
    render_html,
    write_html,
    write_table,
)
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Extent
from MoBUncertaintyLib.review.review import Review
from support.clicked_cases import resolve
from support.fake_case import LEFT_KIDNEY, PANCREAS, SIZE, fake_case, region_row, regions_of
from support.fake_review import fake_review

HOSTILE = "\"><script>alert(1)</script><img src='http://x/y'> & {{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        self.text += "" if self._style else f" {data}"

    def images(self) -> list[Image.Image]:
        urls = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in urls]


def page(tmp_path: Path, case: Case, warnings: Sequence[str] = (), **options) -> Page:
    report = build_report(case, **options)
    report["warnings"] += warnings
    write_html(tmp_path / "report.html", report, case)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def table(tmp_path: Path, columns: tuple[str, ...], rows: list[dict]) -> list[dict[str, str]]:
    """Rows as a spreadsheet reads them."""
    write_table(tmp_path / "table.csv", columns, rows)
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == columns
        return list(reader)


@pytest.fixture(scope="module")
def signed() -> Case:
    case = fake_review(r1="include", r2="exclude")
    case.review.comment("2", "stomach, not pancreas")
    case.review.sign("Ada Müller", datetime(2026, 5, 31, 14, 30, tzinfo=UTC))
    return case


@pytest.fixture(scope="module")
def shown(signed: Case, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of the signed case."""
    return page(tmp_path_factory.mktemp("report"), signed, warnings=["read with care"])


@pytest.fixture
def clicked() -> Case:
    """A stroke in a region, two clicks of which one is in conflict elsewhere, and a region that is included."""
    case = fake_review()
    review, grid = case.review, case.prediction.grid
    r, a, s = grid.to_ras(np.array([14, 18, 27])).tolist()
    review.click([(r, a, s), (r, a, s + 3)], 0, when=datetime(2026, 5, 31, 14, 30, tzinfo=UTC))
    review.click([tuple(grid.to_ras(np.array([14, 18, 20])))], 1)
    review.decide("2", "include")
    return case


class TestClicks:
    def test_page_lists_them_with_what_they_changed_and_shows_before_and_after(self, tmp_path, clicked):
        found = page(tmp_path, clicked)
        before, now = (volume_number(mm3 / 1000) for mm3 in clicked.review.expected_error_mm3)
        assert f"Expected error, predicted → remaining {before} → {now} ml" in found.text
        net, changed = clicked.review.refiner.effect(clicked.review.clicks[0], clicked.review.clicks)
        assert net < 0 < changed
        rank = clicked.review.region("1").region.rank
        volumes = f"{volume_number(changed / 1000)} −{volume_number(-net / 1000)}"
        row = f"c1 background, stroke {rank} .* {volumes} 31 May 2026, 14:30 UTC"
        assert re.search(row, found.text)
        assert "c2 pancreas –" in found.text
        assert "Length 4 mm" in found.text
        titles = [dict(attributes)["alt"] for tag, attributes in found.tags if tag == "img"]
        assert sum("As predicted" in title for title in titles) == sum("After clicks" in title for title in titles) == 3
        assert len(titles) == 9

    def test_page_says_where_the_length_is_the_models_own(self, clicked):
        report = build_report(clicked)
        report["prediction"]["correlation_mm"] = [10.0, 4.25, 4.0]
        assert "of the model, 4 x 4.25 x 10 mm" in render_html(
            report, {}, Scale.of(clicked.image, clicked.review.settings)
        )

    def test_json_and_csv_say_the_same(self, tmp_path, clicked):
        report = build_report(clicked)
        before, now = clicked.review.expected_error_mm3
        assert report["expected_error_mm3"] == {"predicted": before, "now": now}
        rows = table(tmp_path, CLICK_COLUMNS, report["clicks"])
        given = [(row["id"], row["points"], row["label"]) for row in rows]
        assert given == [("c1", "2", "background"), ("c2", "1", "pancreas")]
        for row, click in zip(rows, clicked.review.clicks, strict=True):
            assert np.allclose([float(row[f"{axis}_mm"]) for axis in "ras"], click.points_ras[0], atol=1e-3)
            assert float(row["net_mm3"]) == pytest.approx(
                clicked.review.refiner.effect(click, clicked.review.clicks).net_mm3
            )
        assert rows[1]["region"] == ""

    def test_outlines_and_locks_are_said(self, tmp_path, clicked):
        corners = np.array([(14, 15, 17), (14, 15, 23), (14, 21, 23), (14, 21, 17)])
        clicked.review.click(clicked.prediction.grid.to_ras(corners).tolist(), 1, extent=Extent.OUTLINE)
        clicked.review.lock(1)
        report, found = build_report(clicked), page(tmp_path, clicked)
        assert [row["extent"] for row in report["clicks"]] == ["stroke", "stroke", "outline"]
        assert [label["locked"] for label in report["labels"]] == [True]
        assert "c3 pancreas, outline" in found.text and "Volume of pancreas, locked" in found.text

    def test_conflicts_are_said(self, tmp_path, clicked):
        review, grid = clicked.review, clicked.prediction.grid
        at = np.array([14, 18, 20])  # deep inside, surrounded by clicks that say otherwise
        for shift in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
            review.click([tuple(grid.to_ras(at + shift))], 0)
        assert "c2" in review.conflicts
        assert "pancreas in conflict" in page(tmp_path, clicked).text
        assert [row["id"] for row in build_report(clicked)["clicks"] if row["in_conflict"]] == sorted(review.conflicts)

    def test_resolved_regions_are_named_and_keep_what_was_expected_of_them(self, tmp_path):
        case = fake_review()
        review = case.review
        resolve(review, "1")
        row = next(row for row in build_report(case)["regions"] if row["id"] == "1")
        assert row["verdict"] == "resolved"
        assert row["clicks"] == len(review.clicks)
        assert row["found_error_mm3"] > row["expected_error_mm3"]
        assert "resolved by clicks" in page(tmp_path, case).text

    def test_pictures_mark_them_and_show_the_maps_as_they_are(self, clicked):
        review = clicked.review
        marked, changed = draw_region(clicked, review.region("1"), review.corrected(), SCALE).values()
        (plain,) = draw_region(fake_review(), review.region("1"), review.corrected(), SCALE).values()
        dots = [[(pixels(png) == 20).all(axis=-1).sum() for png in drawn.values()] for drawn in (plain, marked)]
        assert max(dots[0]) < 20 < min(dots[1])
        assert marked.keys() == changed.keys()
        assert marked != changed


class TestHtml:
    def test_says_what_a_reader_needs_and_nothing_of_clicks_patients_or_folders(self, signed, shown):
        for words in (
            *("Not for clinical use", "ct.nii.gz", "a" * 64, "Fake", "40 x 36 x 28", "2 x 2 x 3 mm", "2 of 2"),
            *("included", "excluded", "stomach, not pancreas", "Superior anterior", "read with care"),
            "Ada Müller on 31 May 2026, 14:30",
        ):
            assert words in shown.text
        predicted, corrected = signed.prediction.segmentation, signed.review.corrected()
        before, after = (volume_number((labels > 0).sum() * 12 / 1000) for labels in (predicted, corrected))
        assert f"Volume of pancreas {before} → {after} ml" in shown.text
        assert f"pancreas {before} {after}" in shown.text
        assert not [words for words in ("click", "Patient Name") if words in shown.text]
        assert "/home/jane" not in shown.source + json.dumps(build_report(signed))

    def test_is_one_file_without_scripts(self, shown):
        assert not [tag for tag, _ in shown.tags if tag in ("script", "link", "iframe", "object", "form")]
        links = [value for _, attributes in shown.tags for name, value in attributes.items() if name in ("src", "href")]
        assert len(shown.images()) == 6 == sum(link.startswith("data:") for link in links)
        assert all(image.format == "PNG" and image.width == image.height >= 256 for image in shown.images())
        assert all(link.startswith(("data:image/png;base64,", "#region-")) for link in links)
        assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
        assert "url(" not in shown.source
        policies = [tag["content"] for _, tag in shown.tags if tag.get("http-equiv") == "Content-Security-Policy"]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]

    def test_is_well_formed(self, shown):
        open_tags: list[str] = []
        for closing, tag in re.findall(r"<(/?)([a-z0-9]+)", re.sub(r"(?s)<style>.*?</style>", "", shown.source)):
            if closing:
                assert open_tags.pop() == tag
            elif tag not in ("meta", "img", "br"):
                open_tags.append(tag)
        assert open_tags == []

    def test_what_others_have_typed_is_never_markup(self, tmp_path):
        labels = replace(PANCREAS, name="<b>p</b>"), LEFT_KIDNEY
        case = fake_review(fake_case(labels=labels), r1="accept", r2="accept")
        case = replace(case, source=Source(name="<i>ct</i>"))
        case.review.comment("1", HOSTILE)
        case.review.sign(HOSTILE)
        found = page(tmp_path, case, patient={HOSTILE: HOSTILE}, dicom={"Study UID": HOSTILE}, warnings=[HOSTILE])
        assert "script" not in {tag for tag, _ in found.tags}
        assert found.text.count(HOSTILE) == 6
        assert "<b>p</b>" in found.text and "<i>ct</i>" in found.text
        assert f"Patient {HOSTILE}" in found.text

    def test_of_several_organs_each_region_names_its_own(self, tmp_path):
        case = fake_review(fake_case(labels=(PANCREAS, LEFT_KIDNEY)))
        rows, shown = build_report(case)["regions"], page(tmp_path, case).text.lower()
        for row, region in zip(rows, case.review.regions, strict=True):
            voxels = np.bincount(case.prediction.segmentation[region.box][region.mask], minlength=3)[1:]
            assert row["organ"] == (PANCREAS, LEFT_KIDNEY)[voxels.argmax()].name
            assert shown.count(f"{readable(row['organ'])}, {row['location']}") == 2, "table and pictures"
        assert f"pancreas, {rows[0]['location']}" not in page(tmp_path, fake_review()).text.lower()

    def test_not_reviewed_yet_and_begun(self, tmp_path):
        text = page(tmp_path, fake_review()).text
        assert "not reviewed yet" in text
        assert "Not signed off 2 of 2 regions are not decided." in text
        assert "→" not in text
        assert "corrected" not in text.lower()
        text = page(tmp_path, fake_review(r1="accept")).text
        assert "not finished" in text and "1 of 2 regions are not decided" in text

    def test_without_regions(self, tmp_path):
        found = page(tmp_path, fake_review(fake_case(with_regions=False)))
        assert "No doubtful region was found." in found.text
        assert found.images() == []


class TestTables:
    def test_csv_has_a_row_for_each_region(self, tmp_path, signed):
        rows = table(tmp_path, COLUMNS, build_report(signed)["regions"])
        assert [(row["verdict"], row["label"]) for row in rows] == [("include", "pancreas"), ("exclude", "")]
        added = (signed.review.corrected() > 0) & (signed.prediction.segmentation == 0)
        assert float(rows[0]["added_mm3"]) == added.sum() * 12
        centroid = signed.review.regions[0].region.centroid_ras
        assert [float(rows[0][f"centroid_{axis}_mm"]) for axis in "ras"] == pytest.approx(centroid, rel=1e-5)
        assert min(centroid) < 0, "a number below zero stays a number"

    def test_comment_is_no_formula_to_a_spreadsheet(self, tmp_path, signed):
        region = build_report(signed)["regions"][0]
        texts = ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "\t=1", " =1", "\r=1", "＝1", "＠1"]
        rows = table(tmp_path, COLUMNS, [region | {"comment": text} for text in texts])
        assert [row["comment"] for row in rows] == [f"'{text}" for text in texts]


# Pictures

STRAIGHT = np.eye(3)
THICK_SLICES, THICK_COLUMNS = (1.5, 2.0, 3.0), (3.0, 1.5, 1.5)
GRIDS = {
    "straight": (STRAIGHT, THICK_SLICES),
    "flipped": (np.diag([-1.0, -1.0, 1.0]), THICK_COLUMNS),
    "left-handed": (np.diag([1.0, 1.0, -1.0]), THICK_SLICES),
    "permuted": (STRAIGHT[[2, 0, 1]], THICK_COLUMNS),
    "oblique": (np.reshape(sitk.VersorTransform((0.3, -0.5, 0.8), 0.6).GetMatrix(), (3, 3)), THICK_SLICES),
}
# Hot balls to the left, to anterior and to superior of the middle: LPS mm.
LEFT, ANTERIOR, SUPERIOR = np.array([30.0, 0, 0]), np.array([0, -22.0, 0]), np.array([0, 0, 14.0])
ORANGE = (249, 150, 60)
SCALE = Scale(-160, 240, Measure.VARIANCE, 0.02, 0.2)


def scene(direction: np.ndarray, spacing=THICK_SLICES) -> tuple[sitk.Image, Review, np.ndarray]:
    """The hot balls about a region, on a grid with a voxel in the very middle."""
    size = np.ceil(96 / np.array(spacing)).astype(int) | 1
    ct = sitk.Image(size.tolist(), sitk.sitkInt16)
    ct.SetSpacing(spacing)
    ct.SetDirection(direction.ravel().tolist())
    focus = np.array([12.0, -7.0, 33.0])
    ct.SetOrigin((focus - direction @ (size // 2 * spacing)).tolist())
    index = np.indices(size[::-1])[::-1].reshape(3, -1)
    points = (np.array(ct.GetOrigin())[:, None] + direction @ (index * np.array(spacing)[:, None])).T - focus

    def ball(centre, radius: float) -> np.ndarray:
        return (np.linalg.norm(points - centre, axis=1) < radius).reshape(size[::-1])

    variance = np.zeros(size[::-1], np.float32)
    for centre in (LEFT, ANTERIOR, SUPERIOR):
        variance[ball(centre, 4.5)] = SCALE.top
    labels = ball(np.zeros(3), 6.0).astype(np.uint16)
    region = region_row(1, (-12.0, 7.0, 33.0), extent_mm=12.0)
    predicted = ball(np.array([6.0, 0, 0]), 8.0).astype(np.uint8)
    label = replace(PANCREAS, colour=ORANGE)
    prediction = Prediction(predicted, np.zeros_like(variance)[None], variance[None], grid_of(ct), (label,))
    return ct, Review(prediction, regions_of(labels, [region]))


def drawn_region(ct, review, prediction, corrected) -> dict[str, bytes]:
    """Pictures by the plane's name."""
    case = Case.of(ct, Review(prediction, review.listed()))
    (drawn,) = draw_region(case, review.regions[0], corrected, SCALE).values()
    return {title.split(",")[0]: png for title, png in drawn.items()}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def hot_spots(png: bytes, width_mm: float = 90.0) -> set[tuple[int, int]]:
    """Where the heat map shows balls: mm to the right and down of the middle, rounded to 4 mm."""
    red, green, blue = np.moveaxis(pixels(png), -1, 0)
    spots, count = ndimage.label(
        ndimage.binary_opening((red > 120) & (blue < red - 40) & (green < red + 5), iterations=2)
    )
    centres = np.array(ndimage.center_of_mass(spots > 0, spots, range(1, count + 1)))
    millimetres = (centres - (red.shape[0] - 1) / 2) * width_mm / red.shape[0]
    return {(round(x / 2), round(y / 2)) for y, x in millimetres}


def near(spots: set[tuple[int, int]], *expected: tuple[float, float]) -> bool:
    """Whether the spots are these, to 2 mm."""
    return len(spots) == len(expected) and all(
        min(np.hypot(x * 2 - a, y * 2 - b) for x, y in spots) <= 2.0 for a, b in expected
    )


@pytest.mark.parametrize(("direction", "spacing"), GRIDS.values(), ids=GRIDS)
def test_pictures_show_the_patients_planes_however_the_volume_is_stored(direction, spacing):
    ct, review = scene(direction, spacing)
    drawn = drawn_region(ct, review, review.prediction, review.prediction.segmentation)
    assert list(drawn) == ["axial", "coronal", "sagittal"]
    assert near(hot_spots(drawn["axial"]), (30, 0), (0, -22))  # left is on the right, anterior is up
    assert near(hot_spots(drawn["coronal"]), (30, 0), (0, -14))  # superior is up
    assert near(hot_spots(drawn["sagittal"]), (-22, 0), (0, -14))  # anterior is on the left


def test_letters_name_what_the_pictures_show():
    assert {plane.name: plane.letters for plane in PLANES} == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
    axes = {(1, 0, 0): "RL", (0, 1, 0): "AP", (0, 0, -1): "SI"}
    assert all(plane.letters == axes[plane.right] + axes[plane.down] for plane in PLANES)


def white(png: bytes) -> int:
    """White pixels of lines; letters and scale bar keep to the sides."""
    return int((pixels(png)[30:-45, 30:-45].min(axis=-1) > 235).sum())


def test_predicted_outline_has_the_colour_of_its_label():
    ct, review = scene(STRAIGHT)
    drawn = drawn_region(ct, review, review.prediction, review.prediction.segmentation)
    for png in drawn.values():
        assert (np.abs(pixels(png) - ORANGE).max(axis=-1) < 12).sum() > 50
        assert white(png) == 0


def test_corrected_outline_shows_where_it_differs():
    ct, review = scene(STRAIGHT)

    def drawn() -> dict[str, bytes]:
        return drawn_region(ct, review, review.prediction, review.corrected())

    assert white(drawn()["axial"]) == 0
    review.decide("1", "exclude")
    differs = white(drawn()["axial"])
    assert differs > 30
    # Elsewhere it lies below the predicted one: with nothing predicted, all of it is seen.
    nothing = replace(review.prediction, segmentation=np.zeros_like(review.prediction.segmentation))
    alone = drawn_region(ct, review, nothing, review.corrected())
    assert white(alone["axial"]) > 1.5 * differs


def test_region_at_the_edge_of_the_volume_is_drawn():
    case = fake_review()
    labels = np.zeros(case.prediction.shape, np.uint16)
    labels[0, 0, 0:2] = 1
    row = replace(case.review.regions[0].region, extent_mm=6.0)
    review = Review(case.prediction, regions_of(labels, [row]))
    assert len(drawn_region(case.image, review, review.prediction, review.prediction.segmentation)) == 3


def test_scale_of_a_model_with_little_variance_is_written_in_full(tmp_path):
    case = fake_case()
    case.regions = replace(case.regions, settings=RegionSettings(variance_threshold=0.003))
    assert " 0.016+ " in page(tmp_path, fake_review(case)).text


def test_pictures_show_the_measure_that_regions_were_found_by(tmp_path):
    case = fake_case()
    case.regions = replace(case.regions, settings=RegionSettings(Measure.BERNOULLI))
    shown = page(tmp_path, fake_review(case)).text
    assert "p (1 − p) 0.050" in shown and "the uncertainty, that is p (1 − p), is thicker" in shown


def test_of_many_regions_the_first_are_listed_and_drawn_and_the_table_holds_all(tmp_path, monkeypatch):
    monkeypatch.setattr("MoBUncertaintyLib.output.report.LISTED_REGIONS", 5)
    monkeypatch.setattr("MoBUncertaintyLib.output.report.DRAWN_REGIONS", 3)
    case, labels = fake_review(), np.zeros(SIZE[::-1], np.uint16)
    for n in range(1, 8):
        labels[2 * n, 10:14, 10:14] = n
    row = case.review.regions[0].region
    rows = [replace(row, rank=n, number=n, expected_error_mm3=2000.0 - n) for n in range(1, 8)]
    case = Case.of(case.image, Review(case.prediction, regions_of(labels, rows)))
    found = page(tmp_path, case)
    listed = [attributes for tag, attributes in found.tags if tag == "td" and attributes.get("class") == "rank"]
    assert len(listed) == 5 and len(found.images()) == 3 * 3
    rest = volume_number((2000 - 6 + 2000 - 7) / 1000)
    assert "These are the first 5 regions by expected error. 2 more" in found.text and f"with {rest} ml" in found.text
    assert "Pictures show the first 3 of 7 regions." in found.text
    assert len(table(tmp_path, COLUMNS, build_report(case)["regions"])) == 7
    links = {attributes["href"].lstrip("#") for tag, attributes in found.tags if tag == "a"}
    assert links == {attributes["id"] for _, attributes in found.tags if "id" in attributes}


def test_a_phone_shows_every_number_with_its_name(tmp_path, signed):
    """On a narrow screen the head of a table is not shown."""
    found = page(tmp_path, signed)
    cells = [attributes for tag, attributes in found.tags if tag == "td"]
    named = [cell["data-label"] for cell in cells if "class" not in cell or cell["class"] == "first"]
    assert len(named) == 5 + 2 * 7
    assert {"expected error, mm³", "volume, mm³", "added, mm³", "change, %"} <= set(named)


@pytest.mark.parametrize(("length", "away"), [(30, 0), (50, 1)], ids=["begun in the region", "far from it"])
@pytest.mark.parametrize("direction", [(1, 0, 0), (-0.6, 0.6, -0.5)])
def test_a_stroke_may_lead_far_from_its_region(length: float, direction: tuple[float, ...], away: int) -> None:
    """Then the pictures show the region where the stroke is nearest to it, and as much of both as they hold."""
    case = fake_review(fake_case(spacing=(6.0, 6.0, 9.0)))
    review, region = case.review, case.review.regions[0]
    middle = np.array(region.found.region.centroid_ras)
    points = [tuple(middle + (part + away) * length * np.array(direction)) for part in (0, 0.5, 1)]
    review.click(points, 1, region.region_id)
    drawn = draw_region(case, review.region(region.region_id), review.corrected(), SCALE)
    assert [len(pictures) for pictures in drawn.values()] == [3, 3]


def test_of_a_region_only_what_lies_in_a_box_is_drawn_there() -> None:
    rng, (region, *_) = np.random.default_rng(0), fake_review().review.regions
    shape = SIZE[::-1]
    whole = np.zeros(shape, bool)
    whole[region.box] = region.mask
    for _ in range(20):
        box = tuple(slice(*sorted(rng.choice(size + 1, 2, replace=False).tolist())) for size in shape)
        assert np.array_equal(region.mask_in(box), whole[box])
