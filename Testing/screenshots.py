"""Pictures of the panel in each of its states, for the README: `python Testing/screenshots.py [FOLDER]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "Python"))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from desktop.panel import load_demo, open_panel, running

FOLDER = Path(__file__).parents[1] / "MoBUncertainty" / "Resources" / "Screenshots"
SIZE = (1340, 900)
EXPORTS = "/home/reader/Documents"
READER = "Dr. A. Reader"


def main(folder: Path = FOLDER) -> None:
    desktop = open_panel()
    desktop.window.resize(*SIZE)
    ui = desktop.ui

    def take(state: str, section=None) -> None:
        """Take a picture, with a part of the panel in view."""
        if section:
            desktop.process()
            desktop.scroll.verticalScrollBar().value = section.mapTo(desktop.panel, section.rect.topLeft()).y() - 10
        desktop.screenshot(folder / f"panel-{state}.png")

    load_demo(desktop)
    take("ready")
    ui.applyButton.click()
    desktop.process(until=lambda: ui.statusLabel.text.startswith("Predicting tiles: 9 of"), seconds=120)
    take("running")
    desktop.process(until=lambda: not running(desktop), seconds=240)
    session = desktop.logic.session(ui.ctSelector.currentNode())
    session.results.showInViews(session.review.regions[0].region.centroid_ras)
    take("overlay")
    ui.regionsTable.selectRow(0)
    ui.acceptButton.click()
    ui.regionsTable.selectRow(1)
    ui.excludeButton.click()
    ui.commentEdit.text = "Duodenum"
    ui.commentEdit.editingFinished.emit()
    ui.regionsTable.selectRow(2)
    take("review", ui.reviewCollapsibleButton)
    for row in range(2, ui.regionsTable.rowCount):
        ui.regionsTable.selectRow(row)
        (ui.includeButton if row == 2 else ui.acceptButton).click()
    ui.reviewerEdit.text = READER
    ui.signOffButton.click()
    ui.regionsTable.selectRow(2)
    ui.regionsTable.scrollToTop()
    ui.exportCollapsibleButton.collapsed = False
    ui.exportDirectoryEdit.currentPath = EXPORTS
    take("signed-off", ui.reviewCollapsibleButton)
    desktop.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
