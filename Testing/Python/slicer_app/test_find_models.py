"""Models by clicks: a catalogue is listed and searched, one is installed, used and removed, one is recalibrated."""

import json
import shutil
from pathlib import Path

import pytest

from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.pipeline.demo import DEMO_MODEL
from support import MODULE_FOLDER, PHANTOM_MODEL
from support.catalogues import hosted
from support.late import slicer, slicer_app
from support.small_panel import add_ct, apply

pytestmark = pytest.mark.own_process


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A catalogue of one model under two other names."""
    from MoBUncertaintyLib.pipeline.catalogue.publish import publish

    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(PHANTOM_MODEL, folder / "model")
    picture = MODULE_FOLDER / "Resources" / "Icons" / "HeadNeckCT.png"
    for name, licence in (("Pancreas", "CC0-1.0"), ("Liver", "CC-BY-4.0")):
        card = json.loads((PHANTOM_MODEL / "model.json").read_text(encoding="utf-8"))
        (folder / "model" / "model.json").write_text(json.dumps(card | {"name": name, "licence": licence}))
        publish(load_model(folder / "model"), folder / "catalogue", picture)
    return folder / "catalogue"


@pytest.fixture
def finder(desktop, published, tmp_path, monkeypatch):
    """The dialog, with the catalogue in a folder."""
    monkeypatch.setenv("MOB_UNCERTAINTY_MODELS", str(tmp_path / "installed"))
    inputs = desktop.widget.panel.inputs
    desktop.ui.findModelsButton.click()
    inputs.finder.ui.addressEdit.text = str(published)
    yield inputs.finder
    inputs.close()
    inputs.selector.fill("")


def listed(desktop, finder) -> list[str]:
    finder.ui.listButton.click()
    desktop.process(until=lambda: not finder.ui.statusLabel.text.startswith("Contacting"))
    return texts(finder)


def texts(finder) -> list[str]:
    return [finder.ui.modelList.item(row).text() for row in range(finder.ui.modelList.count)]


def install(desktop, finder) -> None:
    desktop.answer("Ok")
    finder.ui.installButton.click()
    desktop.process(until=lambda: finder.ui.installButton.text != "Cancel")


def test_no_address_is_made_up_and_the_dialog_has_a_button_that_closes_it(desktop):
    slicer.app.userSettings().remove(slicer_app.model_dialogs.CATALOGUE_KEY)
    desktop.ui.findModelsButton.click()
    finder = desktop.widget.panel.inputs.finder
    assert finder.ui.addressEdit.text == "" and finder.ui.addressEdit.placeholderText.startswith("https://")
    finder.ui.listButton.click()
    assert len(desktop.dialogs) == 1
    assert finder.window.visible
    finder.ui.closeButton.click()
    assert not finder.window.visible
    desktop.widget.panel.inputs.close()


def test_a_model_is_found_installed_used_and_removed(desktop, finder, tmp_path):
    ui, panel = desktop.ui, desktop.widget.panel
    assert not finder.ui.installButton.enabled
    assert listed(desktop, finder) == ["Liver", "Pancreas"]
    desktop.process(until=lambda: finder.ui.pictureLabel.pixmap and not finder.ui.pictureLabel.pixmap.isNull())
    finder.ui.searchEdit.text = "panc CC"
    assert texts(finder) == ["Liver", "Pancreas"]  # whose label is the pancreas
    finder.ui.searchEdit.text = "panc cc0"
    assert texts(finder) == ["Pancreas"]
    finder.ui.modelList.currentRow = 0
    assert "CC0-1.0" in finder.ui.cardBrowser.toPlainText()
    desktop.answer("Cancel")
    finder.ui.installButton.click()
    assert not (tmp_path / "installed").exists()
    assert "CC0-1.0" in desktop.dialogs[-1].text
    install(desktop, finder)
    assert finder.ui.statusLabel.text == "Pancreas is installed and selected in the panel."
    assert texts(finder) == ["Pancreas – installed"]
    assert not finder.ui.installButton.enabled
    assert (ui.modelSelector.currentText, panel.parameters.model) == ("Pancreas", "Pancreas")
    assert panel.inputs.selector.model.path == tmp_path / "installed" / "Pancreas"
    add_ct(desktop)
    apply(desktop)
    assert panel.review.session
    desktop.answer("Cancel")
    ui.removeModelButton.click()
    assert ui.modelSelector.currentText == "Pancreas"
    desktop.answer("Ok")
    ui.removeModelButton.click()
    assert ui.modelSelector.currentText == DEMO_MODEL
    assert list((tmp_path / "installed").iterdir()) == []


def test_what_goes_wrong_is_said_and_leaves_nothing(desktop, finder, published, tmp_path):
    catalogue = shutil.copytree(published, tmp_path / "catalogue")
    installed = tmp_path / "installed"
    with hosted(catalogue) as host:
        finder.ui.addressEdit.text = host.address + "/elsewhere"
        assert listed(desktop, finder) == []
        assert "HTTP 404" in finder.ui.statusLabel.text
        finder.ui.addressEdit.text = host.address
        assert listed(desktop, finder) == ["Liver", "Pancreas"]
        host.faults[".zip"] = "truncated"
        install(desktop, finder)
        assert "ended after" in desktop.dialogs[-1].text
        assert not installed.exists()
        host.faults[".zip"] = "silent"
        desktop.answer("Ok")
        finder.ui.installButton.click()
        assert finder.ui.installButton.text == "Cancel"
        desktop.process(until=lambda: any(path.endswith(".zip") for _, path, _ in host.asked[-1:]))
        finder.ui.installButton.click()
        assert finder.ui.statusLabel.text == "Cancelled; nothing was installed."
        desktop.process(until=lambda: not list(installed.glob(".*")))
    assert list(installed.glob("*")) == []


@pytest.fixture
def recalibration(desktop, tmp_path, monkeypatch):
    """The dialog in which a model is recalibrated."""
    monkeypatch.setenv("MOB_UNCERTAINTY_MODELS", str(tmp_path / "installed"))
    desktop.ui.recalibrateButton.click()
    yield desktop.widget.panel.inputs.recalibrate
    desktop.widget.panel.inputs.close()
    desktop.widget.panel.inputs.selector.fill("")


def test_a_recalibrated_model_is_shown_and_kept_or_not(desktop, recalibration, tmp_path):
    ui, dialog = desktop.ui, recalibration
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

    told = recalibrate("Cancel")
    assert "0.5 → 0.4" in told and "temperature 1.3" in told
    assert list((tmp_path / "installed").iterdir()) == []
    recalibrate("Ok")
    assert ui.modelSelector.currentText == "PhantomPancreas, calibrated"
    assert desktop.widget.panel.parameters.model == "PhantomPancreas, calibrated"
    assert (tmp_path / "installed" / "PhantomPancreas, calibrated" / "model.json").is_file()


def test_that_cases_do_not_suffice_is_said_in_the_dialog_and_is_no_error(desktop, recalibration):
    recalibration._onFailed("calibration", "These 5 cases do not suffice.", "")
    assert recalibration.ui.statusLabel.text == "These 5 cases do not suffice."
    assert desktop.dialogs == []
    recalibration._onFailed("internal", "The computation failed.", "Traceback")
    assert (desktop.dialogs[-1].text, recalibration.ui.statusLabel.text) == ("The computation failed.", "")
