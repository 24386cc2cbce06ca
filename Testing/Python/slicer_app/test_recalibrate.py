"""A model is recalibrated by clicks: folders are chosen, before and after is shown, and the new model kept or not."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.own_process


def test_new_model_is_shown_and_kept_or_not(desktop, tmp_path, monkeypatch):
    import qt

    monkeypatch.setenv("MOB_UNCERTAINTY_MODELS", str(tmp_path / "installed"))
    ui, inputs = desktop.ui, desktop.widget.panel.inputs
    ui.recalibrateButton.click()
    dialog = inputs.recalibrate
    assert not dialog.ui.startButton.enabled
    dialog.add(tmp_path)
    dialog.add(tmp_path)  # once is enough
    assert dialog.ui.folderList.count == 1 and dialog.ui.startButton.enabled
    assert not dialog.ui.removeButton.enabled
    dialog.ui.folderList.setCurrentRow(0)
    dialog.ui.removeButton.click()
    assert dialog.ui.folderList.count == 0 and not (dialog.ui.removeButton.enabled or dialog.ui.startButton.enabled)
    dialog.add(tmp_path)

    def recalibrate(answer) -> str:
        desktop.answer(answer)
        shown = len(desktop.dialogs)
        dialog.ui.startButton.click()
        desktop.process(until=lambda: dialog.ui.startButton.text != "Cancel" and len(desktop.dialogs) > shown)
        return desktop.dialogs[-1].text

    try:
        told = recalibrate(qt.QMessageBox.Cancel)
        assert "negative log-likelihood: 0.5 → 0.4" in told and "temperature 1.3" in told
        assert dialog.ui.statusLabel.text == "The new model was not kept."
        assert list((tmp_path / "installed").iterdir()) == []
        recalibrate(qt.QMessageBox.Ok)
        assert dialog.ui.statusLabel.text == "PhantomPancreas, calibrated is installed, and chosen in the panel."
        assert ui.modelSelector.currentText == "PhantomPancreas, calibrated"
        assert desktop.widget.panel.parameters.model == "PhantomPancreas, calibrated"
        assert (tmp_path / "installed" / "PhantomPancreas, calibrated" / "model.json").is_file()
    finally:
        inputs.close()
        inputs.selector.fill("")


def test_that_cases_do_not_suffice_is_said_in_the_dialog_and_is_no_error(desktop, tmp_path):
    inputs = desktop.widget.panel.inputs
    desktop.ui.recalibrateButton.click()
    dialog, shown = inputs.recalibrate, len(desktop.dialogs)
    try:
        dialog._onFailed("calibration", "These 5 cases do not show that the model would be better.", "")
        assert dialog.ui.statusLabel.text == "These 5 cases do not show that the model would be better."
        assert len(desktop.dialogs) == shown
        dialog._onFailed("internal", "The computation failed.", "Traceback")
        assert (desktop.dialogs[-1].text, dialog.ui.statusLabel.text) == ("The computation failed.", "")
    finally:
        inputs.close()
