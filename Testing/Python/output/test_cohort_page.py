"""The table of a cohort: worst first, in a file for programs and on a page that sorts, in a real browser."""

import csv
import ntpath
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort import table
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Organ, Outcome, failed_case
from MoBUncertaintyLib.output.cohort.table import write_cohort
from support.browser import Reader, reader
from support.marks import needs_browser, needs_posix

HOSTILE = "</script><script>document.title = 'taken'</script>"
FOREIGN = Suitability(Level.NOT_USABLE, ("the pancreas measures 5 ml",), {"volume:pancreas": 9.0})
TWO = ("The image states no spacing; 1 mm was assumed.", "Much is doubtful.")


def case(name: str, folder: Path, volume: float, error: float, **more: object) -> CohortCase:
    organs = (Organ("pancreas", volume, error), Organ("left_kidney", 150.0, 1.0))
    values = {"regions": 3, "expected_error_in_regions_ml": error / 2, "seconds": 9.5} | more
    return CohortCase(name, Outcome.PREDICTED, "", folder / name, organs, error, **values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cohort of six cases, given in no order; one has results of an earlier version."""
    cases = [
        case("b 10%", tmp_path, 9.0, 2.0),
        failed_case("truncated", "It is truncated."),
        case("b 9", tmp_path, 100.0, 12.0, warnings=TWO),
        case("c", tmp_path, 55.0, 7.0, seconds=1234.0),
        case("foreign", tmp_path, 5.0, 0.1, suitability=FOREIGN),
        CohortCase("old", Outcome.KEPT, folder=tmp_path / "old", organs=(Organ("pancreas", 50.0, None),), regions=0),
    ]
    write_cohort(tmp_path, "Hospital", cases, [("notes.txt", "it is not a volume.")])
    (tmp_path / "b 10%").mkdir()
    (tmp_path / "b 10%" / "review.html").write_text("<title>review of b</title>")
    return tmp_path


@pytest.fixture
def person(browser: Any, folder: Path) -> Iterator[Reader]:
    with reader(browser) as each:
        each.page.goto((folder / "cohort.html").as_uri())
        yield each


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def order(person: Reader) -> list[str]:
    return [str(name) for name in person.page.locator("tbody th").evaluate_all("all => all.map(e => e.dataset.value)")]


def press(person: Reader, heading: str) -> None:
    person.page.get_by_role("button", name=heading).click()


WORST_FIRST = ["truncated", "foreign", "b 9", "c", "b 10%", "old"]


def test_file_for_programs(folder: Path) -> None:
    rows = read_table(folder)
    assert [row["case"] for row in rows] == WORST_FIRST
    assert rows[0]["reason"] == "It is truncated." and rows[0]["pancreas_ml"] == ""
    assert float(rows[2]["pancreas_ml"]) == 100 and float(rows[2]["left_kidney_expected_error_ml"]) == 1
    assert rows[2]["warnings"] == " ".join(TWO) and rows[2]["results"] == "b 9"
    assert (rows[1]["suitability"], rows[1]["suitability_reasons"]) == ("not usable", "the pancreas measures 5 ml")
    assert rows[5]["left_kidney_ml"] == "" and rows[5]["expected_error_ml"] == ""


@pytest.mark.parametrize(
    ("folder", "results", "way", "link"),
    [
        (r"Z:\out", r"Z:\out\a b", "a b", "a%20b"),
        (r"Z:\out", r"z:\OUT\a", "a", "a"),
        (r"\\server\share\out", r"Z:\out\a b", "Z:/out/a b", "file:///Z:/out/a%20b"),
        (r"C:\out", r"\\server\share\a", "//server/share/a", "file://server/share/a"),
    ],
)
def test_results_on_another_drive_are_named_whole(
    folder: str, results: str, way: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as windows:
        windows.setattr(table, "Path", PureWindowsPath)
        windows.setattr(table.os, "path", ntpath)
        found = table._way(folder, results)
        assert (found.as_posix(), table._link(found)) == (way, link)


@pytest.mark.parametrize("named", ["link", "itself"])
@needs_posix
def test_results_in_a_folder_behind_a_link_are_beside_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """As in /tmp of macOS, which is /private/tmp."""
    (tmp_path / "private" / "out" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("private")
    monkeypatch.chdir(tmp_path)
    cohort, results = Path("link") / "out", tmp_path / ("link" if named == "link" else "private") / "out"
    write_cohort(cohort, "Hospital", [case("a", results, 1.0, 1.0)])
    assert [row["results"] for row in read_table(cohort)] == ["a"]
    assert 'href="a/review.html"' in (cohort / "cohort.html").read_text(encoding="utf-8")


def test_text_stays_text(tmp_path: Path) -> None:
    cases = [case("=1+1", tmp_path, 1.0, 1.0, warnings=(HOSTILE,)), failed_case(HOSTILE, HOSTILE)]
    write_cohort(tmp_path, HOSTILE, cases, [(HOSTILE, HOSTILE)])
    assert HOSTILE not in (tmp_path / "cohort.html").read_text(encoding="utf-8")
    assert "'=1+1" in (tmp_path / "cohort.csv").read_text(encoding="utf-8-sig")  # no formula


@needs_browser
class TestReader:
    def test_worst_is_first_and_reasons_are_shown(self, person: Reader) -> None:
        assert order(person) == WORST_FIRST
        assert "It is truncated." in person.text("tbody tr:first-child")
        assert "6 cases: 4 predicted, 1 kept, 1 failed" in person.text("header")
        assert "notes.txt: it is not a volume." in person.text(".others")
        person.page.locator("summary").click()
        assert TWO[1] in person.text("tbody tr:nth-child(3)")

    def test_headings_sort_and_sort_back(self, person: Reader) -> None:
        press(person, "Pancreas")
        assert order(person) == ["b 9", "c", "old", "b 10%", "foreign", "truncated"]  # what has no value is last
        press(person, "Pancreas")
        assert order(person) == ["foreign", "b 10%", "old", "c", "b 9", "truncated"]
        press(person, "Time")
        assert order(person)[0] == "c"  # 1 234 s, with a space between thousands on the page
        press(person, "Suitability")
        assert order(person)[0] == "foreign"
        press(person, "Case")
        assert order(person) == ["b 9", "b 10%", "c", "foreign", "old", "truncated"]
        assert person.page.locator("th[aria-sort]").count() == 1
        assert person.page.locator("th[aria-sort='ascending']").inner_text().startswith("Case")
        press(person, "Rank")
        assert order(person) == WORST_FIRST

    def test_keys_alone_are_enough(self, person: Reader) -> None:
        person.press("Tab", "Tab", "Enter")
        assert order(person) == ["b 9", "b 10%", "c", "foreign", "old", "truncated"]
        person.press("Shift+Tab", "Space")
        assert order(person) == WORST_FIRST

    def test_a_name_leads_to_its_review(self, person: Reader) -> None:
        assert person.page.locator("tbody a").count() == 5  # not of the one that failed
        person.page.get_by_role("link", name="b 10%").click()
        assert person.page.title() == "review of b"

    def test_it_fits_a_narrow_window(self, person: Reader) -> None:
        person.page.set_viewport_size({"width": 400, "height": 800})
        assert person.page.evaluate("document.documentElement.scrollWidth") <= 400
        press(person, "Case")
        assert order(person)[0] == "b 9"
