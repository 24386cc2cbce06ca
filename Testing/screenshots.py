"""Draw the pictures of the documents: the panel in each of its states, and the demo's overlay.

`make screenshots` runs the demo, then this. `python Testing/screenshots.py FOLDER` draws only the panel, but also in
states that no document shows.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent / "Python"))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import SimpleITK as sitk
import slicer.util
from packaging.requirements import Requirement
from PIL import Image

from MoBUncertaintyLib.model.licences import agree
from MoBUncertaintyLib.model.listing import MODELS_FOLDER
from MoBUncertaintyLib.pipeline.demo import DEMO_MODEL
from slicer_host.mouse import Mouse
from support.requirements import SLICERS_PACKAGES, requirements
from support.small_panel import apply, decide, finish, load_demo, open_panel

ROOT = Path(__file__).parents[1]
RESOURCES = ROOT / "MoBUncertainty" / "Resources"
FOLDER = RESOURCES / "Screenshots"
CONTOURS = RESOURCES / "SampleData" / "HeadNeckCT-contours.seg.nrrd"
SIZE = (1120, 730)  # of the window: as narrow as slice views can be read, since the CT's noise makes files large
OVERLAY_WIDTH = 960  # pixels; pages show less
QUALITY = 85  # of JPEG; a palette of few colours makes steps of the greys
EXPORTS = "/home/reader/Documents"
READER = "Dr. A. Reader"


def main(folder: Path = FOLDER) -> None:
    with TemporaryDirectory() as data, patch.dict(os.environ, XDG_DATA_HOME=data):
        agree([MODELS_FOLDER / DEMO_MODEL], lambda _terms: None)
        draw(folder)


def draw(folder: Path) -> None:
    desktop = open_panel()
    desktop.window.resize(*SIZE)
    ui = desktop.ui

    def take(state: str, section=None, in_documents: bool = True, only=None) -> None:
        """Take a picture, with a part of the panel in view, or only of one widget of the window."""
        if not (in_documents or folder != FOLDER):
            return
        desktop.process()
        top = section.mapTo(desktop.panel, section.rect.topLeft()).y() if section else 0
        desktop.scroll.verticalScrollBar().value = top
        path = folder / f"panel-{state}.png"
        desktop.screenshot(path)
        if only:
            x, y = only.pos.x(), only.pos.y()
            Image.open(path).crop((x, y, x + only.width, y + only.height)).save(path)
        make_small(path)

    first = load_demo(desktop)
    take("ready")
    ask(desktop, lambda box: take("asking", only=box))
    ui.applyButton.click()
    desktop.process(until=lambda: ui.progressBar.value > 0 and ui.progressBar.maximum, seconds=120)
    take("running", in_documents=False)
    finish(desktop)
    session = desktop.logic.sessions.get(first)
    region = session.review.regions[0].region
    session.results.jumpTo(region.centroid_ras, region.extent_mm)
    ui.overlayCollapsibleButton.collapsed = False
    take("overlay")
    ui.overlayCollapsibleButton.collapsed = True
    click_where_it_helps(desktop, session)
    take("clicks")
    ui.clicksOffButton.click()
    ui.regionsTable.selectRow(0)
    ui.acceptButton.click()
    ui.regionsTable.selectRow(1)
    decide(ui.excludeButton)
    ui.commentEdit.text = "Masseter"
    ui.commentEdit.editingFinished.emit()
    ui.regionsTable.selectRow(2)
    desktop.process(until=lambda: not session.changes.holders(), seconds=10)
    take("review")
    ui.editButton.click()
    take("edit", in_documents=False)
    ui.discardEditButton.click()
    for row in range(2, ui.regionsTable.rowCount):
        ui.regionsTable.selectRow(row)
        decide(ui.includeButton) if row == 2 else ui.acceptButton.click()
    ui.readerEdit.text = READER
    ui.signOffButton.click()
    ui.regionsTable.selectRow(2)
    ui.regionsTable.scrollToTop()
    ui.exportCollapsibleButton.collapsed = False
    ui.exportDirectoryEdit.currentPath = EXPORTS
    take("signed-off", ui.reviewCollapsibleButton)
    if folder != FOLDER:
        ui.exportCollapsibleButton.collapsed = True
        ui.ctSelector.setCurrentNode(None)
        load_demo(desktop)
        apply(desktop)
        ui.inputsCollapsibleButton.collapsed = False
        take("second-ct")
        ui.ctSelector.setCurrentNode(first)
        take("first-ct-again")
    else:
        overlay = Image.open(ROOT / "demo-results" / "overlay.png").convert("RGB")
        overlay.thumbnail((OVERLAY_WIDTH, OVERLAY_WIDTH))
        overlay.save(folder / "command-line.png")
        make_small(folder / "command-line.png")
    desktop.close()


def click_where_it_helps(desktop, session) -> None:
    """Go to the place where a click helps most, and say what was drawn there."""
    ui = desktop.ui
    ui.nextButton.click()
    place = tuple(slicer.util.arrayFromMarkupsControlPoints(session.results.node("clicks.suggestion"))[0])
    drawn = sitk.ReadImage(CONTOURS)
    r, a, s = (float(mm) for mm in place)
    label = drawn[drawn.TransformPhysicalPointToIndex((-r, -a, s))]
    if label:
        ui.clickLabelSelector.currentIndex = label - 1
    (ui.organHereButton if label else ui.notOrganHereButton).click()
    Mouse("Red").click(place)


def make_small(path: Path) -> None:
    """Store a picture as JPEG, which the Extensions Index takes, in place of the PNG."""
    Image.open(path).convert("RGB").save(path.with_suffix(".jpg"), quality=QUALITY, optimize=True, subsampling=0)
    path.unlink()


def ask(desktop, take) -> None:
    """Ask whether missing packages may be installed, take a picture of the question, and say no."""
    import ctk
    import qt

    from MoBUncertaintyLib.slicer_app import installation

    def show(box) -> int:
        box.setParent(desktop.window, qt.Qt.Widget)
        # A part of the window has neither a frame nor, once it is styled, a background of its own.
        box.setStyleSheet("QMessageBox { border: 1px solid #808080; background: palette(window); }")
        box.adjustSize()
        box.move((desktop.window.width - box.width) // 2, (desktop.window.height - box.height) // 2)
        box.show()
        take(box)
        box.hide()
        return qt.QMessageBox.Cancel

    # What a Slicer lacks that has none of the packages yet.
    lacking = [f"{name}{version}" for name, version in requirements("-export", "", "-openvino").items()]
    lacking = [need for need in lacking if Requirement(need).name not in SLICERS_PACKAGES]
    with (
        patch.object(installation, "missingPackages", lambda *_: lacking),
        patch.object(ctk.ctkMessageBox, "exec_", show),
    ):
        desktop.ui.applyButton.click()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
