"""The story of a review with clicks, through the panel's widgets and by real events of the slice views' interactors.

With the real worker and the demo CT: three clicks, one of them taken back, one region resolved, one accepted, one
included after its preview, the rest decided, signed, exported, saved, and opened again.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.own_process

READER = "Dr. Åse Müller"


@pytest.fixture(scope="module")
def desktop():
    from slicer_host.panel import apply, load_demo, open_panel

    desktop = open_panel()
    load_demo(desktop)
    desktop.ui.overlapSlider.value = 0.0  # fewer tiles
    apply(desktop)
    yield desktop
    assert not desktop.errors
    desktop.close()
    assert "torch" not in sys.modules  # it belongs into the worker's process


def session(desktop):
    return desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())


def statuses(desktop) -> list[str]:
    table = desktop.ui.regionsTable
    return [table.item(row, 1).text()[2:] for row in range(table.rowCount)]


def suggested(desktop) -> tuple[tuple[float, ...], int]:
    """The place that the cross marks, and the label that the truth has there."""
    import slicer.util

    place = tuple(slicer.util.arrayFromMarkupsControlPoints(session(desktop).results.node("clicks.suggestion"))[0])
    return place, truth_at(place)


def truth_at(place) -> int:
    import SimpleITK as sitk

    from support import MODULE_FOLDER

    truth = sitk.ReadImage(MODULE_FOLDER / "Resources" / "SampleData" / "PhantomCT-pancreas.nii.gz")
    r, a, s = (float(mm) for mm in place)
    return int(truth[truth.TransformPhysicalPointToIndex((-r, -a, s))])


def click(desktop, place, label: int) -> None:
    from slicer_host.mouse import Mouse

    (desktop.ui.organHereButton if label else desktop.ui.notOrganHereButton).click()
    Mouse("Red").click(place)
    desktop.ui.clicksOffButton.click()


def test_a_review_with_clicks(desktop, tmp_path):
    import SimpleITK as sitk
    import slicer.util

    from slicer_host.panel import running

    ui, review = desktop.ui, session(desktop).review
    predicted, error = review.prediction.segmentation.copy(), review.expected_error_mm3[1]

    # Three clicks, each where Next leads to; the third is taken back.
    for count in (1, 2, 3):
        ui.nextButton.click()
        click(desktop, *suggested(desktop))
        assert len(review.clicks) == count
        assert ui.clickStatusLabel.text.startswith(f"{count} click")
    third = review.clicks[2]
    ui.undoButton.click()
    assert third not in review.clicks
    assert len(review.clicks) == ui.clicksTable.rowCount == 2

    # The first region is clicked in until it is resolved.
    first = review.clicks[0].region_id
    while not review.region(first).resolved:
        region = review.region(first)
        assert len(review.clicks) < 40
        p = review.maps_in(region.box)[0][0]
        doubt = np.where(region.mask, np.minimum(p, 1 - p), -1.0)
        index = np.array(np.unravel_index(doubt.argmax(), doubt.shape)) + [part.start for part in region.box]
        place = tuple(review.prediction.grid.to_ras(index).tolist())
        click(desktop, place, truth_at(place))
    ids = [region.region_id for region in review.regions]
    assert statuses(desktop)[ids.index(first)] == "Resolved"
    assert review.expected_error_mm3[1] < error

    # One is accepted, one is included once it is seen what that changes, and the rest are accepted.
    pending = [row for row, status in enumerate(statuses(desktop)) if status == "To review"]
    ui.regionsTable.selectRow(pending[0])
    ui.acceptButton.click()
    ui.regionsTable.selectRow(pending[1])
    included, before = review.regions[pending[1]].region_id, review.corrected()
    ui.includeButton.click()
    assert ui.clickStatusLabel.text.startswith("Include would add ")
    assert np.array_equal(review.corrected(), before)
    ui.includeButton.click()
    assert review.region(included).verdict == "include"
    assert (review.corrected() != before).any()
    for row, status in enumerate(statuses(desktop)):
        if status == "To review":
            ui.regionsTable.selectRow(row)
            ui.acceptButton.click()
    ui.readerEdit.text = READER
    ui.signOffButton.click()
    assert review.signature.name == READER
    corrected, clicks, verdicts = review.corrected(), review.clicks, statuses(desktop)
    assert np.array_equal(session(desktop).results.organs.array(), corrected)
    assert (corrected != predicted).any()

    # Exported.
    ui.exportDirectoryEdit.currentPath = str(tmp_path / "exports")
    ui.exportButton.click()
    desktop.process(until=lambda: not running(desktop))
    assert desktop.dialogs == []
    (made,) = (tmp_path / "exports").iterdir()
    written = sitk.GetArrayFromImage(sitk.ReadImage(made / "segmentation.seg.nrrd"))
    assert np.array_equal(written, corrected)
    told = json.loads((made / "report.json").read_text(encoding="utf-8"))
    assert len(told["clicks"]) == len(clicks)
    assert [each["verdict"] for each in told["regions"]].count("include") == 1
    assert READER in (made / "report.html").read_text(encoding="utf-8")

    # Saved and opened again: all is there, and a click asks before it withdraws the signature.
    assert slicer.util.saveScene(str(tmp_path / "case.mrb"))
    desktop.scene.Clear(0)
    desktop.process()
    assert ui.clicksTable.rowCount == ui.regionsTable.rowCount == 0
    slicer.util.loadScene(tmp_path / "case.mrb")
    desktop.process()
    assert desktop.dialogs == []
    again = session(desktop)
    assert again.review.clicks == clicks
    assert again.review.signature.name == READER
    assert statuses(desktop) == verdicts
    assert np.array_equal(again.results.organs.array(), corrected)
    assert ui.clicksTable.rowCount == len(clicks)
    marks = [again.results.node(f"clicks.{role}") for role in ("organ", "background", "conflict")]
    assert sum(node.GetNumberOfControlPoints() for node in marks if node) == len(clicks)
    desktop.answer(0x00400000)  # Cancel
    click(desktop, clicks[0].points_ras[0], 1)
    (dialog,) = desktop.dialogs
    assert READER in dialog.text
    assert again.review.clicks == clicks
