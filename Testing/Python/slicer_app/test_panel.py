"""Run, the module's own test, and what importing the module costs; with the fake worker."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import Cancelled, OutputError
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.worker.predictions import STAGES
from support import MODULE_FOLDER, PHANTOM_MODEL, TESTS
from support.late import qt, slicer, slicer_app
from support.marks import needs_posix
from support.sessions import as_answer, sign
from support.small_panel import (
    MATRIX,
    accept_all,
    add_ct,
    apply,
    decide,
    finish,
    show_result,
    statuses,
    two_labels,
    use_worker,
)
from support.standalone import shift, transform

pytestmark = pytest.mark.own_process


@pytest.fixture
def asked(desktop) -> list[dict]:
    """What the worker is asked for, which never answers."""
    found: list[dict] = []
    desktop.logic.client.close()
    fake = SimpleNamespace(busy=False, close=lambda: None, cancel=lambda: None)
    fake.request = lambda message, _receive: found.append(message) or slicer_app.worker.client.Job()
    desktop.logic.client = fake
    return found


def unfolded(desktop) -> list[str]:
    """The sections of the panel that are open."""
    parts = {name: getattr(desktop.ui, f"{name}CollapsibleButton") for name in slicer_app.panel.SECTIONS}
    return [name for name, part in parts.items() if part.visible and not part.collapsed]


class TestRun:
    def test_what_the_widgets_say_is_what_is_asked_for(self, desktop, asked):
        ct, ui = add_ct(desktop), desktop.ui
        transform(ct, shift(100))
        roi = desktop.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        roi.SetCenter(110.0, 10.0, 12.0)
        roi.SetSize(8.0, 6.0, 4.0)
        ui.roiSelector.setCurrentNode(roi)
        ui.deviceSelector.currentText = "CPU (processor)"
        ui.engineSelector.currentText = "OpenVINO"
        ui.overlapSlider.value = 0.25
        ui.applyButton.click()
        settings = asked[0]["settings"]
        assert settings.pop("region_of_interest") == pytest.approx([6, 14, 7, 13, 10, 14])
        assert settings == {
            **{"overlap": 0.25, "mirror": False, "folds": None, "device": "cpu", "engine": "openvino"},
            "labels": None,
            "force": True,  # the panel has asked about the modality
        }
        assert np.array_equal(asked[0]["ct"]["array"], slicer.util.arrayFromVolume(ct))
        assert asked[0]["ct"]["ijk_to_ras"] == MATRIX.tolist()
        assert asked[0]["models"] == [str(PHANTOM_MODEL)]
        ui.applyButton.click()
        ui.deviceSelector.currentIndex = ui.engineSelector.currentIndex = 0

    def test_what_comes_next_is_unfolded_from_apply_to_a_signed_export(self, desktop, tmp_path):
        panel, ui, seen = desktop.widget.panel, desktop.ui, []

        def note() -> None:
            seen.append((panel.state.value, *unfolded(desktop)))

        panel.ensureReady = lambda *_formats: note()
        note()
        add_ct(desktop)
        ui.applyButton.click()
        note()
        finish(desktop)
        note()
        accept_all(desktop)
        ui.readerEdit.text = "A. Reader"
        ui.signOffButton.click()
        note()
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        ui.exportButton.click()
        note()
        ui.exportButton.click()
        note()
        ui.signOffButton.click()  # Reopen
        note()
        desktop.scene.Clear(0)
        desktop.process()
        note()
        assert seen == [
            *((state, "inputs", "run") for state in ("ready", "needs packages", "running")),
            ("reviewing", "review"),
            *((state, "review", "export") for state in ("signed", "needs packages", "exporting", "signed")),
            ("reviewing", "review", "export"),
            ("ready", "inputs", "run"),
        ]

    def test_what_the_reader_has_folded_stays_so_until_another_image_is_seen(self, desktop, session):
        ui, panel = desktop.ui, desktop.widget.panel
        ui.overlayCollapsibleButton.collapsed = ui.runCollapsibleButton.collapsed = False
        ui.reviewCollapsibleButton.collapsed = True

        def decline(*_formats) -> None:
            raise Cancelled("Nothing was installed.")

        panel.ensureReady = decline
        ui.applyButton.click()
        assert unfolded(desktop) == ["run", "overlay"]  # what is said stands in Run
        panel.ensureReady = lambda *_formats: None
        ui.applyButton.click()
        assert unfolded(desktop) == ["run", "overlay"] and not ui.exportCollapsibleButton.visible
        ui.applyButton.click()
        show_result(desktop, *two_labels(), "Other")
        assert unfolded(desktop) == ["review"]

    def test_closing_the_scene_ends_the_run(self, desktop):
        use_worker(desktop, "slow")
        add_ct(desktop)
        desktop.ui.applyButton.click()
        desktop.process(until=lambda: desktop.ui.statusLabel.text.startswith("Predicting"))
        desktop.scene.Clear(0)
        desktop.process()
        assert not desktop.logic.client.busy
        assert desktop.ui.applyButton.text == "Apply"
        assert desktop.ui.ctSelector.enabled
        assert desktop.dialogs == []

    def test_a_ct_that_is_removed_meanwhile_is_not_computed_on(self, desktop):
        ct = add_ct(desktop)
        desktop.ui.applyButton.click()
        desktop.scene.RemoveNode(ct)
        assert not desktop.logic.client.busy
        assert desktop.ui.applyButton.text == "Apply"
        desktop.process(until=lambda: "removed" in desktop.ui.statusLabel.text)
        assert desktop.ui.statusLabel.text.endswith("\nSelect an image first.")  # why Apply is grey stays visible
        assert desktop.dialogs == []

    def test_a_ct_that_is_removed_in_another_module_is_named_on_return(self, desktop, session):
        """Its computation ends, and the review of another image takes its place."""
        ct, ui = add_ct(desktop, "Other"), desktop.ui
        ui.applyButton.click()
        desktop.widget.exit()
        desktop.scene.RemoveNode(ct)
        desktop.process()
        desktop.widget.enter()
        desktop.process(until=lambda: "removed" in ui.statusLabel.text)
        said = ui.statusLabel.text
        assert desktop.widget.panel.review.session is session
        assert not ui.runCollapsibleButton.collapsed
        desktop.widget.exit()
        desktop.widget.enter()
        desktop.process()
        assert ui.statusLabel.text == said  # once; what is said later is not replaced

    def test_a_ct_that_is_changed_meanwhile_gets_no_results(self, desktop):
        ct = add_ct(desktop)
        desktop.ui.applyButton.click()
        slicer.util.updateVolumeFromArray(ct, np.zeros((4, 5, 6), np.int16))
        desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")
        (dialog,) = desktop.dialogs
        assert "changed while being segmented" in dialog.text
        assert desktop.logic.sessions.get(ct) is None

    def test_results_that_cannot_be_shown_are_one_dialog(self, desktop, monkeypatch):
        def fail(*_):
            yield
            raise MemoryError

        monkeypatch.setattr(slicer_app.requests, "showResult", fail)
        add_ct(desktop)
        apply(desktop)
        (dialog,) = desktop.dialogs
        assert "could not be shown (MemoryError)" in dialog.text
        assert "Traceback" in dialog.details
        assert desktop.ui.applyButton.enabled

    @pytest.mark.parametrize("missing", ["labels", "segmentation", "region_map", "provenance"])
    def test_a_result_that_is_none_is_one_sentence_and_earlier_results_stay(self, desktop, session, missing):
        begin = desktop.logic.sessions.begin
        answer = {name: value for name, value in as_answer(*two_labels()).items() if name != missing}
        with pytest.raises(OutputError, match=missing):
            next(begin(session.results.ctNode, {"ct": {"ijk_to_ras": MATRIX}}, answer))
        assert session.isComplete()

    def test_a_run_unlocks_only_what_it_has_locked(self, ui, session):
        for locked in (True, False):
            ui.applyButton.click()
            assert (ui.modelSelector.enabled, ui.includeButton.enabled) == (not locked, not locked)
            assert not ui.removeModelButton.enabled

    def test_showing_results_cannot_be_cancelled_but_the_scene_can_be_closed(self, desktop):
        add_ct(desktop)
        desktop.ui.applyButton.click()
        desktop.process(until=lambda: desktop.ui.statusLabel.text == "Showing the results")
        assert (desktop.ui.applyButton.text, desktop.ui.applyButton.enabled) == ("Cancel", False)
        desktop.app.processEvents()
        desktop.scene.Clear(0)
        desktop.process()
        assert not desktop.logic.client.busy
        assert desktop.ui.applyButton.text == "Apply"
        assert desktop.dialogs == []

    def test_the_bar_shows_a_fraction_only_where_it_is_known(self, desktop):
        work, bar, label = desktop.widget.panel.run.work, desktop.ui.progressBar, desktop.ui.statusLabel
        job = slicer_app.worker.client.Job()
        work.follow(job)
        assert bar.maximum == 0  # moves to and fro
        step = {"stage": "model", "done": 1, "total": 1, "fraction": 0.31, "seconds_left": None}
        job.progress.emit(step)
        assert bar.maximum == 0
        job.progress.emit(step | {"stage": "network", "done": 3, "total": 9, "seconds_left": 8.0})
        assert (bar.value, bar.maximum, bar.format) == (310, 1000, "%p %, 8 s left")
        assert label.text == "Predicting tiles: 3 of 9"
        words = {slicer_app.widgets.work.stageText(step | {"stage": stage}) for stage in ("model", *STAGES)}
        assert len(words) == 1 + len(STAGES)
        job.warning.emit("The CT <b>Lung</b> is odd.")
        work.stop("")
        assert label.textFormat == qt.Qt.PlainText  # what is quoted is shown as it is
        assert label.text.startswith("The CT <b>Lung</b> is odd.")
        work.say("")

    @pytest.mark.parametrize(("name", "request_of"), [("applyButton", "predict"), ("exportButton", "export")])
    def test_what_cannot_even_be_asked_for_is_one_dialog(self, desktop, session, monkeypatch, name, request_of):
        def fail(*_):
            raise MemoryError

        button, ui = getattr(desktop.ui, name), desktop.ui
        ui.exportDirectoryEdit.currentPath = "/somewhere"
        monkeypatch.setattr(slicer_app.requests, f"{request_of}Request", fail)
        before = button.text
        button.click()
        assert len(desktop.dialogs) == 1
        assert (button.text, button.enabled) == (before, True)
        assert all(widget.enabled for widget in (ui.applyButton, ui.exportButton, ui.ctSelector, ui.includeButton))
        assert "MemoryError" in desktop.errors.pop()  # raised again, for Slicer's log

    @pytest.mark.parametrize("name", ["applyButton", "exportButton"])
    def test_nothing_else_can_be_begun_while_packages_are_installed(self, desktop, session, tmp_path, name):
        """Installing lets the application live on: a second click must not begin the same again."""
        panel, ui = desktop.widget.panel, desktop.ui
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        asked, seen = [], []

        def install(formats, begun, *_rest):
            asked.append(formats)
            label = ui.statusLabel if name == "applyButton" else ui.exportStatusLabel
            assert label.text == ""  # as long as the user is asked
            begun()
            desktop.process()
            seen.append((label.text, ui.applyButton.enabled, ui.exportButton.enabled, ui.ctSelector.enabled))
            ui.applyButton.click()
            ui.exportButton.click()
            panel.jobs.apply()

        panel.ensureReady = install
        button = getattr(ui, name)
        before = button.text
        button.click()
        assert [sorted(formats) for formats in asked] == [[] if name == "applyButton" else ["report", "segmentation"]]
        assert seen == [("Installing missing packages...", False, False, False)]
        assert button.text == "Cancel"
        button.click()
        assert not desktop.logic.client.busy
        assert button.text == before
        assert all(widget.enabled for widget in (ui.applyButton, ui.exportButton, ui.ctSelector))

    @pytest.mark.parametrize("removed", ["scene", "ct", "results"])
    @pytest.mark.parametrize("name", ["applyButton", "exportButton"])
    def test_what_is_removed_while_packages_are_installed_is_not_worked_on(
        self, desktop, ui, session, tmp_path, name, removed
    ):
        ui.exportDirectoryEdit.currentPath = str(tmp_path)

        def install(*_asked):
            if removed == "scene":
                desktop.scene.Clear(0)
            else:
                desktop.scene.RemoveNode(
                    session.results.ctNode if removed == "ct" else session.results.node("variance")
                )
            desktop.process()

        desktop.widget.panel.ensureReady = install
        getattr(ui, name).click()
        label = ui.statusLabel if name == "applyButton" else ui.exportStatusLabel
        assert label.text.startswith("The image or its results were changed or removed")
        assert desktop.dialogs == []
        assert not desktop.logic.client.busy
        assert (ui.applyButton.text, ui.exportButton.text) == ("Apply", "Export")
        assert ui.ctSelector.enabled
        assert list(tmp_path.iterdir()) == []

    def test_a_new_run_keeps_what_counts_as_a_region(self, desktop, session, asked):
        """All of it, for the model that it was set for: no later run must fall back, or have a half of it."""
        for threshold, measure in ((None, None), (0.02, None), (0.4, Measure.ENTROPY)):
            session.regions.find(threshold, 50.0, measure)
            desktop.ui.applyButton.click()
            desktop.ui.applyButton.click()
        assert [message["regions"] for message in asked] == [
            {"measure": "variance", "threshold": None, "minimum_mm3": 50.0},
            {"measure": "variance", "threshold": 0.02, "minimum_mm3": 50.0},
            {"measure": "entropy", "threshold": 0.4, "minimum_mm3": 50.0},
        ]
        assert {message["regions_of_model"] for message in asked} == {"0" * 64}
        del session.review.prediction.provenance["model"]  # then it goes by the model's own
        desktop.ui.applyButton.click()
        desktop.ui.applyButton.click()
        assert asked[3]["regions"] == {}

    def test_a_new_run_asks_before_clicks_are_lost(self, desktop, session):
        session.step(Review.click, [session.review.regions[0].region.centroid_ras], 1)
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        assert len(desktop.dialogs) == 1
        assert desktop.ui.applyButton.text == "Apply"
        assert len(desktop.logic.sessions.get(session.results.ctNode).review.clicks) == 1

    def test_a_region_of_interest_without_a_size_is_said(self, desktop):
        add_ct(desktop)
        desktop.ui.roiSelector.addNode().SetSize(0, 0, 0)
        desktop.ui.applyButton.click()
        assert len(desktop.dialogs) == 1
        assert desktop.ui.applyButton.text == "Apply"

    def test_the_time_said_is_that_from_the_click_to_the_result(self, desktop, monkeypatch):
        """Not that which the worker has measured, and without that in which a question was answered."""
        times = iter([100.0, 128.6, 200.0, 230.0, 242.0])
        monkeypatch.setattr(slicer_app.panel, "time", SimpleNamespace(monotonic=lambda: next(times)))
        add_ct(desktop)
        apply(desktop)
        assert desktop.ui.statusLabel.text.startswith("Done in 29 s.")
        desktop.ui.acceptButton.click()
        desktop.answer("Ok")
        apply(desktop)
        assert desktop.ui.statusLabel.text.startswith("Done in 12 s.")

    def test_a_new_segmentation_shows_no_clicks_of_the_last_review(self, desktop):
        ct = add_ct(desktop)
        apply(desktop)
        session = desktop.logic.sessions.get(ct)
        session.step(Review.click, [session.review.regions[0].region.centroid_ras], 0)
        desktop.ui.nextButton.click()
        marks = [session.results.node(f"clicks.{role}") for role in ("background", "suggestion")]
        assert [each.GetNumberOfControlPoints() for each in marks] == [1, 1]
        desktop.answer("Ok")
        apply(desktop)
        assert [each.GetNumberOfControlPoints() for each in marks] == [0, 0]

    @pytest.mark.parametrize("is_in_database", [True, False])
    def test_a_run_asks_where_the_image_is_not_what_the_model_takes(self, desktop, monkeypatch, is_in_database):
        ct = add_ct(desktop)
        if is_in_database:
            database = SimpleNamespace(
                fileForInstance=lambda uid: f"/{uid}.dcm",
                fileValue=lambda file, tag: {("/1.2.dcm", "0008,0060"): "MR"}[file, tag],
            )
            monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
            ct.SetAttribute("DICOM.instanceUIDs", "1.2 1.3")
        else:  # as a scene keeps it
            items = slicer_app.scene.nodes.subjectHierarchy(desktop.scene)
            items.SetItemAttribute(items.CreateItem(items.GetSceneItemID(), ct), "DICOM.Modality", "MR")
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        assert desktop.ui.applyButton.text == "Apply" and desktop.ui.statusLabel.text == ""
        assert "MR" in desktop.dialogs[-1].text and "CT" in desktop.dialogs[-1].text
        desktop.answer("Ok")
        apply(desktop)
        assert desktop.logic.sessions.get(ct)
        assert slicer_app.requests.predictRequest(ct, [str(PHANTOM_MODEL)], {})["ct"]["modality"] == "MR"

    def test_a_new_run_asks_before_it_ends_a_review(self, desktop, session):
        decide(desktop.ui.includeButton)
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        assert desktop.ui.applyButton.text == "Apply"
        assert statuses(desktop)[0] == "Included"
        desktop.answer("Ok")
        apply(desktop)
        assert statuses(desktop) == ["To review"] * 3
        assert desktop.logic.sessions.get(session.results.ctNode) is not session

    @pytest.mark.parametrize("threshold", [0.015, 0.24])  # with regions, and without any
    def test_the_question_before_a_new_run_names_who_has_signed(self, desktop, session, threshold):
        session.regions.find(threshold, 20.0)
        assert bool(session.review.regions) == (threshold < 0.1)
        sign(session, "Dr. Åse Müller")
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        (dialog,) = desktop.dialogs
        assert f"signed off by Dr. Åse Müller, {session.review.signature.time:%Y-%m-%d %H:%M}." in dialog.text
        assert session.review.signature


def test_volumes_are_handed_over_in_slicers_own_temporary_folder(desktop, tmp_path, monkeypatch):
    """Which users move to a disk with room, and which may have been cleared away meanwhile."""
    folder = tmp_path / "cleared away"
    monkeypatch.setattr(slicer.app, "temporaryPath", str(folder))
    monkeypatch.setattr(
        slicer_app.worker.client, "WorkerProcess", lambda *arguments: made.append(arguments[-1]) or 1 / 0
    )
    made = []
    failures = []
    slicer_app.worker.client.slicerClient(("-c", "pass")).request({}).failed.connect(
        lambda *error: failures.append(error)
    )
    desktop.process(until=lambda: failures)
    assert "ZeroDivisionError" in failures[0][1]
    assert made == [str(folder)]
    assert folder.is_dir()


@needs_posix
def test_the_modules_own_test_passes(desktop, tmp_path, monkeypatch):
    """What ctest runs in Slicer, but for the demo's model, which needs OpenVINO; `PythonSlicer` is this Python."""
    import MoBUncertainty

    program = tmp_path / "PythonSlicer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    MoBUncertainty.MoBUncertaintyTest().runTest()


def test_importing_the_module_costs_little():
    """Beyond what Slicer has imported itself; neither torch nor what takes long comes with it."""
    script = """
        import sys, time
        from pathlib import Path
        from slicer_host import host
        host.application.start()
        import slicer
        slicer.__path__.append(str(host.FAKES))
        import slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper, slicer.i18n
        sys.path.insert(0, sys.argv[1])
        had, began = set(sys.modules), time.process_time()
        import MoBUncertainty
        print("SECONDS", time.process_time() - began)
        heavy = {"torch", "scipy", "SimpleITK", "matplotlib", "nnunetv2"}
        print("HEAVY", sorted(heavy & (set(sys.modules) - had)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(MODULE_FOLDER)],
        env=os.environ | {"PYTHONPATH": str(TESTS), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("SECONDS", "HEAVY")))
    assert told, done.stderr
    assert told["HEAVY"] == "[]"
    assert float(told["SECONDS"]) < 0.3
