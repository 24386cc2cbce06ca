"""A case that the model does not suit stands out on every picture and page: a box, red or amber."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort.cases import Outcome, read_case
from MoBUncertaintyLib.output.cohort.table import write_cohort
from MoBUncertaintyLib.output.report import Case, build_report, write_html
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.review.review import Review
from support.fake_case import fake_case, write_results

COLOURS = {Level.UNUSUAL: ("#fff0cc", (255, 196, 77)), Level.NOT_USABLE: ("#fbdcdc", (198, 40, 40))}


@pytest.mark.parametrize("level", Level)
def test_every_page_and_picture_has_a_box(tmp_path: Path, level: Level, capsys: pytest.CaptureFixture[str]) -> None:
    case = fake_case()
    found = Suitability(level, () if level is Level.ORDINARY else ("it is foreign",))
    case.prediction = replace(case.prediction, suitability=found)
    reviewed = Case.of(case.image, Review(case.prediction, case.regions))
    write_results(tmp_path / "case", case)
    write_html(tmp_path / "report.html", build_report(reviewed), reviewed)
    write_cohort(tmp_path, "Hospital", [read_case("case", tmp_path / "case", Outcome.PREDICTED)])
    pages = [tmp_path / "report.html", tmp_path / "case" / "review.html", tmp_path / "cohort.html"]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    picture = np.asarray(Image.open(tmp_path / "case" / "overlay.png").convert("RGB"))
    console.show_review(reviewed, write_export(reviewed, tmp_path / "export", ("report",)))
    shown = capsys.readouterr()
    for other, (page_colour, colour) in COLOURS.items():
        filled = (picture == colour).all(axis=-1)
        assert filled.any(axis=0).mean() > 0.9 if other is level else not filled.any(axis=0).mean() > 0.2
        for text in texts:
            rule = rf"\.suitability[^{{}}]*\{{[^}}]*background: {page_colour}"
            assert re.search(rule, text)
            boxed = f'class="{other.replace(" ", "-")}"' in text or f'suitability {other.replace(" ", "-")}"' in text
            assert boxed == (other is level)
        assert (f"This case is {other}: it is foreign" in shown.err) == (other is level)
    assert level in shown.out
