"""The worklist of the panel, and cases for it."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from support.small_panel import LIMIT, SHAPE


def make_scans(folder: Path, *names: str) -> Path:
    """Write small CTs."""
    folder.mkdir()
    for seed, name in enumerate(names):
        image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 90, SHAPE).astype(np.int16))
        image.SetSpacing((1.5, 1.5, 2.0))
        sitk.WriteImage(image, folder / name)
    return folder


def open_worklist(desktop, scans: Path | None = None):
    """Open the worklist if it is not, with a folder of cases if one is given."""
    if desktop.widget.panel.worklist is None:
        desktop.ui.worklistButton.click()
    dock = desktop.widget.panel.worklist
    if scans:
        desktop.choose(scans)
        dock.ui.folderButton.click()
        idle(desktop)
    return dock


def close_worklist(desktop) -> None:
    if desktop.widget.panel.worklist:
        desktop.widget.panel.worklist.close()
        desktop.widget.panel.worklist = None


def idle(desktop) -> None:
    """Wait until the worklist has nothing to do."""
    dock = desktop.widget.panel.worklist
    desktop.process(until=lambda: not dock.client.busy and not dock.run.work.running, seconds=LIMIT)


def rows(dock) -> dict[str, list[str]]:
    """The cells of each case, by its name."""
    table = dock.ui.caseTable
    cells = [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]
    return {name: rest for name, *rest in cells}


def states(dock) -> dict[str, str]:
    return {name: state for name, (state, *_rest) in rows(dock).items()}
