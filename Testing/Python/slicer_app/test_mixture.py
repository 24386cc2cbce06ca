"""What uncertainty comes from is chosen in the panel: folds, mirrored tiles, other models, or a better model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.small_panel import add_ct

pytestmark = pytest.mark.own_process


@pytest.fixture
def add(desktop, tmp_path: Path) -> Iterator:
    """Adds training folders of nnU-Net by the dialog, and removes them in the end."""
    from MoBUncertaintyLib.slicer_app.models import removeModel

    added = []

    def add_folder(name: str, *labels: str, folds: int = 1, channel: str = "CT") -> Path:
        folder = tmp_path / f"Dataset001_{name}" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        for fold in range(folds):
            (folder / f"fold_{fold}").mkdir(parents=True)
            (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
        (folder / "plans.json").write_text("{}")
        values = {"background": 0} | {label: value for value, label in enumerate(labels, start=1)}
        (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": channel}, "labels": values}))
        desktop.choose(folder / "plans.json")
        desktop.ui.addModelButton.click()
        desktop.process()
        added.append(folder)
        return folder

    yield add_folder
    for folder in added:
        removeModel(folder)
    desktop.widget.panel.inputs.close()
    desktop.widget.panel.inputs.selector.fill("")


@pytest.fixture
def asked(desktop, monkeypatch) -> list[tuple[list[Path], dict]]:
    """Models and settings of each press of Apply."""
    found: list[tuple[list[Path], dict]] = []
    monkeypatch.setattr(desktop.logic, "run", lambda _ct, models, settings: found.append((models, settings)))
    return found


def test_folds_and_mirrored_tiles_are_chosen_with_their_cost(desktop, add, asked):
    ui = desktop.ui
    add_ct(desktop)
    ui.inputsCollapsibleButton.collapsed = False
    assert not ui.mixturePlace.visible, "the demo's model has a covariance and one fold, and cannot be mirrored"
    add("Organs", "spleen", folds=3)
    note = ui.mixtureNoteLabel
    assert ui.foldsCheckBox.text == "Average all folds, 3 times as long" and ui.foldsCheckBox.checked
    assert ui.mirrorCheckBox.text == "Average mirrored tiles, up to 8 times as long" and not ui.mirrorCheckBox.checked
    assert ui.mixturePlace.visible and note.visible
    assert note.text.index("unsure") < note.text.index("temperature")
    assert note.text.count(".") == 1 and note.text.endswith(".")  # one sentence, in a radiologist's words
    assert not any(
        word in note.text.replace('href="temperature"', "") for word in ("covariance", "temperature", "tile")
    )
    for folds, mirror in ((True, False), (False, False), (False, True), (True, True)):
        ui.foldsCheckBox.checked, ui.mirrorCheckBox.checked = folds, mirror
        ui.applyButton.click()
    found = [(settings["folds"], settings["mirror"]) for _, settings in asked]
    assert found == [(None, False), ([0], False), ([0], True), (None, True)]
    add("One", "spleen")
    assert not ui.foldsCheckBox.visible and ui.mirrorCheckBox.visible
    ui.modelSelector.currentIndex = 0
    ui.applyButton.click()
    assert (asked[-1][1]["folds"], asked[-1][1]["mirror"]) == (None, False)
    assert desktop.widget.panel.parameters.mirror, "kept for models that can"


def test_several_models_make_an_ensemble(desktop, add, asked):
    import qt

    ui, panel = desktop.ui, desktop.widget.panel
    add_ct(desktop)
    ui.inputsCollapsibleButton.collapsed = False
    other, pet = add("Other", "liver", "colon"), add("Pet", "spleen", channel="PET")
    assert not ui.ensemblePlace.visible, "no other model has the same labels and channels"
    first, second = add("Seed0", "spleen", folds=2), add("Seed1", "spleen")
    chooser = panel.inputs._ensembles
    assert ui.ensemblePlace.visible and chooser.summary.text == "Ensemble: none."
    chooser.button.click()
    rows = {chooser.list.item(row).text(): chooser.list.item(row) for row in range(chooser.list.count)}
    assert rows["Other"].toolTip() == "Other has other labels: liver, colon."
    assert rows["Pet"].toolTip() == "Pet takes other images: PET."
    assert not rows["Other"].flags() & qt.Qt.ItemIsEnabled and rows["Seed0"].flags() & qt.Qt.ItemIsEnabled
    rows["Seed0"].setCheckState(qt.Qt.Checked)
    assert chooser.summary.text == "Ensemble: with Seed0."
    assert panel.parameters.ensemble == [str(first)]
    assert not ui.foldsCheckBox.visible, "all folds of all models are averaged"
    ui.applyButton.click()
    assert asked[0][0] == [second, first] and asked[0][1]["folds"] is None
    panel.parameters.ensemble = [str(other)]  # as a scene from elsewhere may have it
    assert ui.applyButton.toolTip.startswith("Other has other labels: liver, colon. Uncheck it under Ensemble")
    panel.parameters.ensemble = ["Elsewhere"]
    assert ui.applyButton.toolTip.startswith("There is no model Elsewhere on this computer;")
    panel.parameters.ensemble = [str(first)]
    ui.modelSelector.currentIndex = 0
    assert panel.parameters.ensemble == [] and ui.applyButton.enabled
    members = [{"name": folder.parent.name, "path": str(folder)} for folder in (first, second)]
    panel.inputs.chooseMakers({"model": members[0], "ensemble": members})
    assert [model.path for model in panel.inputs.models] == [first, second]
    panel.inputs.chooseMakers({"model": {"path": str(pet)}})
    assert [model.path for model in panel.inputs.models] == [pet]


def test_a_model_without_a_covariance_links_to_recalibration(desktop, add):
    add("Organs", "spleen")
    inputs = desktop.widget.panel.inputs
    desktop.ui.mixtureNoteLabel.linkActivated.emit("temperature")
    assert inputs.recalibrate.window.windowTitle == "Recalibrate nnUNetTrainer__nnUNetPlans__3d_fullres"
