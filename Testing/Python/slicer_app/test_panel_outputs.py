"""Overlay and export through their widgets, with the fake worker."""

from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.output.formats import Format
from support.documents import CONTRIBUTING, python_blocks, section
from support.late import qt, slicer, slicer_app
from support.small_panel import add_ct, apply, export
from support.standalone import transform

pytestmark = pytest.mark.own_process


class TestOverlay:
    def test_controls_act_at_once(self, desktop, session):
        ui, results = desktop.ui, session.results
        display = results.node("shown").GetDisplayNode()
        ui.lowerThresholdSlider.value = 0.05
        assert display.GetLowerThreshold() == pytest.approx(0.05)
        ui.surfaceCheckBox.checked = False
        assert not results.node("surface").GetDisplayNode().GetVisibility()
        ui.surfaceCheckBox.checked = True
        assert results.node("surface").GetDisplayNode().GetVisibility()

    def test_each_map_has_a_range_of_its_own(self, desktop, ui, session):
        ui.lowerThresholdSlider.value = 0.03
        ui.mapSelector.currentText = "Probability"
        assert ui.lowerThresholdSlider.maximum == 1.0
        ui.lowerThresholdSlider.value = 0.5
        ui.mapSelector.currentText = "Variance"
        assert ui.lowerThresholdSlider.value == pytest.approx(0.03)
        assert ui.lowerThresholdSlider.maximum == 0.25

    @pytest.fixture
    def slow(self, session, monkeypatch):
        """Even a small CT's maps are derived in turns of the event loop."""
        monkeypatch.setattr("MoBUncertaintyLib.slicer_app.widgets.section.AT_ONCE_S", 0.0)
        monkeypatch.setattr("MoBUncertaintyLib.slicer_app.scene.maps.SLAB", 1)

    def test_a_switch_that_takes_long_keeps_the_old_map_until_it_is_done(self, desktop, session, slow):
        ui, results = desktop.ui, session.results
        ui.mapSelector.currentText = "Standard deviation"
        desktop.process()
        assert results.overlay.values["kind"] == "variance"
        assert qt.QApplication.overrideCursor() is not None
        assert not ui.lowerThresholdSlider.enabled
        desktop.process(until=lambda: results.overlay.values["kind"] == "standard deviation")
        assert results.node("shown") is results.node("map")
        assert ui.lowerThresholdSlider.maximum == 0.5
        assert ui.lowerThresholdSlider.enabled
        assert qt.QApplication.overrideCursor() is None

    def test_of_two_switches_the_second_counts(self, desktop, session, slow, monkeypatch):
        ui, results, switched = desktop.ui, session.results, []
        monkeypatch.setattr(results.overlay, "style", lambda: switched.append(results.overlay.values["kind"]))
        ui.mapSelector.currentText = "Standard deviation"
        desktop.process()
        ui.mapSelector.currentText = "Entropy (nats)"
        desktop.process(until=lambda: switched)
        for _turn in range(50):
            desktop.process()
        assert switched == ["entropy"]
        assert qt.QApplication.overrideCursor() is None

    def test_a_switch_ends_with_its_scene(self, desktop, session, slow):
        desktop.ui.mapSelector.currentText = "Entropy (nats)"
        desktop.process()
        desktop.scene.Clear(0)
        for _turn in range(50):
            desktop.process()
        assert desktop.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
        assert desktop.dialogs == []
        assert qt.QApplication.overrideCursor() is None
        assert not desktop.ui.lowerThresholdSlider.enabled

    def test_nodes_and_segments_are_named_in_the_users_language(self, desktop, monkeypatch):
        scene = slicer_app.scene
        for room in (slicer_app.region_names, scene.maps, scene.nodes, scene.results):
            monkeypatch.setattr(room, "_", lambda text: f"«{text}»")
        ct = add_ct(desktop)
        apply(desktop)
        results = desktop.logic.sessions.get(ct).results
        desktop.ui.mapSelector.currentIndex = 1
        desktop.process(until=lambda: results.node("map"))
        found = [results.node(role).GetName() for role in ("variance", "map", "surface", "regions")]
        named = ("predictive variance", "uncertainty map", "uncertainty surface", "doubtful regions")
        assert found == [f"CT «{name}»" for name in named]
        segment = results.node("regions").GetSegmentation().GetSegment("Segment_1")
        assert segment.GetName().startswith("«1: «left», expected error ")
        hierarchy = scene.nodes.subjectHierarchy(desktop.scene)
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(ct))
        assert hierarchy.GetItemName(folder) == "«CT with uncertainty»"


class TestExport:
    def test_it_says_what_is_missing(self, ui, session):
        for folder, chosen in (("/somewhere", True), ("/somewhere", False), ("", True)):
            ui.exportDirectoryEdit.currentPath = folder
            ui.reportCheckBox.checked = ui.segmentationCheckBox.checked = chosen
            assert ui.exportButton.enabled == (bool(folder) and chosen)
            assert ui.exportButton.enabled or ui.exportButton.toolTip.startswith("Choose ")

    def test_every_format_can_be_chosen(self, desktop, session):
        section = desktop.widget.panel.export
        assert set(section._formats) == set(Format)
        desktop.ui.niftiCheckBox.checked = True
        assert "nifti" in section._chosen()
        desktop.ui.niftiCheckBox.checked = False

    def test_dicom_is_offered_to_a_ct_from_dicom(self, desktop, session, monkeypatch):
        ui, ct, files = desktop.ui, session.results.ctNode, {"1.2.3": "/dicom/1.dcm", "1.2.4": "/dicom/2.dcm"}
        database = SimpleNamespace(fileForInstance=lambda uid: files.get(uid, ""))
        monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)

        def offered() -> bool:
            desktop.widget.panel.export.setSession(session)
            desktop.widget.panel.update()
            assert ui.dicomSegCheckBox.enabled == ui.parametricMapCheckBox.enabled
            return ui.dicomSegCheckBox.enabled

        assert not offered() and "DICOM database" in ui.dicomSegCheckBox.toolTip
        ct.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
        assert offered()
        bent = transform(ct, kind="Grid")
        assert not offered() and "evenly spaced slices" in ui.dicomSegCheckBox.toolTip
        desktop.scene.RemoveNode(bent)
        assert offered()
        files.pop("1.2.4")
        assert not offered()
        monkeypatch.delattr(slicer, "dicomDatabase")  # a Slicer without its DICOM module
        assert not offered()

    def test_progress_and_cancel_are_where_the_export_was_started(self, desktop, tmp_path):
        ui, steps = desktop.ui, []
        add_ct(desktop)
        apply(desktop)
        ui.runCollapsibleButton.collapsed, ui.exportCollapsibleButton.collapsed = True, False
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        ui.exportButton.click()
        assert (ui.exportButton.text, ui.exportButton.enabled) == ("Cancel", True)
        assert (ui.applyButton.text, ui.applyButton.enabled) == ("Apply", False)
        assert not ui.exportProgressBar.isHidden()
        ui.exportProgressBar.valueChanged.connect(steps.append)
        desktop.process(until=lambda: steps)
        ui.exportButton.click()
        assert (ui.exportButton.text, ui.exportButton.enabled) == ("Export", True)
        assert ui.exportProgressBar.isHidden()
        assert ui.exportStatusLabel.text == "Cancelled; nothing was written."
        assert ui.applyButton.enabled
        assert ui.statusLabel.text.startswith("Done")  # of the run
        ui.runCollapsibleButton.collapsed = False

    def test_a_folder_that_is_there_is_not_written_to_again(self, tmp_path):
        assert slicer_app.widgets.work.newFolder(tmp_path, "CT: 1/2").name == "CT_ 1_2"
        for expected in ("CT", "CT (2)", "CT (3)"):
            assert slicer_app.widgets.work.newFolder(tmp_path, "CT") == tmp_path / expected
            (tmp_path / expected).mkdir()

    def test_what_could_not_be_written_is_an_error(self, desktop, session, tmp_path):
        problem = "The DICOM segmentation was not written: The slices differ."
        desktop.widget.panel.jobs._onExported({"files": [str(tmp_path / "report.json")], "problems": [problem]})
        assert [shown.text for shown in desktop.dialogs] == [problem]
        assert problem in desktop.ui.exportStatusLabel.text

    def test_what_was_written_can_be_opened_by_a_click(self, desktop, session, tmp_path, monkeypatch):
        ui, opened = desktop.ui, []
        monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
        export(desktop, tmp_path)
        assert desktop.dialogs == []
        (made,) = tmp_path.iterdir()
        ui.exportStatusLabel.linkActivated.emit((made / "report.html").as_uri())
        assert opened == [str(made / "report.html")]


def test_section_of_the_contributors_example_shows_the_times_of_the_prediction(session):
    (example,) = python_blocks(section(CONTRIBUTING, "Add a section of the panel"))
    scope = {}
    exec(compile(example, "CONTRIBUTING.md", "exec"), scope)
    label = qt.QLabel()
    shown = scope["TimingSection"](SimpleNamespace(timingLabel=label))
    assert label.text == ""
    shown.setSession(session)
    timings = session.review.prediction.timings
    assert timings
    assert label.text.splitlines() == [f"{stage}: {round(taken, 1)} s" for stage, taken in timings.items()]
