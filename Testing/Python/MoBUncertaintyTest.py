"""What runs inside Slicer: ctest runs this file, and so does Reload and Test where the module lies in a checkout."""

import importlib.util
import time
import unittest
from contextlib import contextmanager
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from MoBUncertainty import MoBUncertaintyLogic
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.samples import RESOURCES, loadSampleData
from MoBUncertaintyLib.slicer_app.worker.client import slicerClient


class MoBUncertaintyTest(ScriptedLoadableModuleTest):
    """
    Run the module on its demo CT. A fake takes the worker's place, which makes up a result and needs no packages; with
    OpenVINO in Slicer's Python, the demo model is run as well.
    """

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.logic = MoBUncertaintyLogic()

    def tearDown(self):
        self.logic.close()

    def runTest(self):
        """Run as few or as many tests as needed here."""
        for test in (
            self.test_segmentReviewAndReopen,
            self.test_cancelLeavesTheSceneAsItWas,
            self.test_failureIsOneSentence,
            self.test_panel,
            self.test_demoModel,
        ):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:
                self.delayDisplay(str(reason))
            finally:
                self.tearDown()
        self.delayDisplay("Test passed")

    def test_segmentReviewAndReopen(self):
        """A verdict changes its region and nothing else, undo takes it back, and the scene keeps it."""
        ct = loadSampleData()
        session = self.segment(ct, mode="normal")
        first, second, third = session.review.regions
        session.step(Review.decide, first.region_id, "include")
        session.step(Review.decide, second.region_id, "exclude")
        session.step(Review.decide, third.region_id, "accept")
        changed = session.results.organs.array() != session.review.prediction.segmentation
        labels = session.review.listed().whole_map()
        self.assertTrue(changed.any())
        self.assertFalse(changed[(labels != first.number) & (labels != second.number)].any())
        session.step(Review.undo)
        self.assertEqual(session.review.reviewed, (2, 3))
        session.step(Review.decide, third.region_id, "accept")
        session.step(Review.sign, "Test Reader")

        self.logic.sessions.forget()  # as if the scene had been saved and opened again
        again = self.logic.sessions.get(ct)
        self.assertIsNot(again, session)
        self.assertEqual(again.review.signature, session.review.signature)
        for before, after in zip(session.review.regions, again.review.regions, strict=True):
            self.assertEqual((after.region_id, after.verdict), (before.region_id, before.verdict))
        self.assertTrue((again.results.organs.array() == session.review.corrected()).all())

    def test_cancelLeavesTheSceneAsItWas(self):
        """Cancel comes back at once; no node has been added."""
        ct = loadSampleData()
        before = slicer.mrmlScene.GetNumberOfNodes()
        progress = []
        self.start(ct, mode="slow").progress.connect(progress.append)
        self.waitFor(lambda: progress)
        self.logic.client.cancel()
        self.assertFalse(self.logic.client.busy)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.assertIsNone(self.logic.sessions.get(ct))

    def test_failureIsOneSentence(self):
        """The worker's own sentence comes through, and one is made for a worker that dies."""
        ct = loadSampleData()
        before = slicer.mrmlScene.GetNumberOfNodes()
        for mode, expected in (("fails", "single slice"), ("dies", "ended unexpectedly")):
            errors = []
            self.start(ct, mode).failed.connect(lambda *error, errors=errors: errors.append(error))
            self.waitFor(lambda errors=errors: errors)
            ((_code, message, _details),) = errors
            self.assertIn(expected, message)
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_panel(self):
        """The panel's buttons lead from a CT to a signed review, whose verdicts change the scene."""
        import numpy as np

        from MoBUncertaintyLib.review.region import Verdict
        from MoBUncertaintyLib.slicer_app.sections.regions import statusText

        with self.openPanel() as (logic, ui):
            ct = loadSampleData()
            ui.ctSelector.setCurrentNode(ct)
            ui.modelSelector.currentText = "PhantomPancreas"  # whose licence needs no agreement
            ui.applyButton.click()
            self.waitFor(lambda: not logic.client.busy)
            session = logic.sessions.get(ct)
            self.assertIsNotNone(session)

            def expect(*verdicts):
                shown = [ui.regionsTable.item(row, 1).text()[2:] for row in range(ui.regionsTable.rowCount)]
                self.assertEqual(shown, [statusText(verdict) for verdict in verdicts])

            expect(Verdict.PENDING, Verdict.PENDING, Verdict.PENDING)
            ui.includeButton.click()  # shows what would change
            expect(Verdict.PENDING, Verdict.PENDING, Verdict.PENDING)
            ui.includeButton.click()
            expect(Verdict.INCLUDE, Verdict.PENDING, Verdict.PENDING)
            ui.undoButton.click()
            expect(Verdict.PENDING, Verdict.PENDING, Verdict.PENDING)
            self.assertTrue((session.results.organs.array() == session.review.prediction.segmentation).all())

            ui.editButton.click()
            region = session.review.region(session.drawing.regionId)
            session.results.organs.update(region.box, np.ones_like(region.mask, np.uint8))  # as if it were painted
            ui.editButton.click()
            expect(Verdict.EDIT, Verdict.PENDING, Verdict.PENDING)
            drawn = session.results.organs.array()[region.box]
            self.assertTrue(drawn[region.mask].all())
            self.assertTrue((drawn == session.review.prediction.segmentation[region.box])[~region.mask].all())

            ui.mapSelector.currentIndex = 1
            self.waitFor(lambda: session.results.overlay.values["kind"] == "standard deviation")
            ui.lowerThresholdSlider.value = 0.2
            shown = session.results.node("shown")
            self.assertEqual(session.results.overlay.values["kind"], "standard deviation")
            self.assertIs(shown, session.results.node("map"))
            self.assertAlmostEqual(shown.GetDisplayNode().GetLowerThreshold(), 0.2)

            ui.regionThresholdSlider.value = 0.02
            self.waitFor(lambda: abs(session.review.settings.level - 0.02) < 1e-6)
            self.assertEqual(session.review.region(region.region_id).verdict, Verdict.EDIT)
            for row in range(ui.regionsTable.rowCount):
                ui.regionsTable.selectRow(row)
                ui.acceptButton.click()
            expect(*[Verdict.ACCEPT] * len(session.review.regions))
            ui.readerEdit.text = "Test Reader"
            ui.signOffButton.click()
            self.assertEqual(session.review.signature.name, "Test Reader")
            self.assertFalse(ui.includeButton.enabled)

    def test_demoModel(self):
        """The demo model finds most of what was drawn in the demo CT."""
        if not importlib.util.find_spec("openvino"):
            self.skipTest("OpenVINO is not installed; the demo model was not run.")
        ct = loadSampleData()
        session = self.segment(ct, mode=None)
        contours = slicer.util.loadLabelVolume(str(RESOURCES / "SampleData/HeadNeckCT-contours.seg.nrrd"))
        drawn, made = slicer.util.arrayFromVolume(contours), session.review.prediction.segmentation
        agreeing = (drawn == made) & (drawn > 0)
        self.assertGreater(2 * agreeing.sum() / ((drawn > 0).sum() + (made > 0).sum()), 0.7)
        self.assertGreater(len(session.review.regions), 0)

    @contextmanager
    def openPanel(self):
        """Open the module's own panel, with the fake worker until the test is over."""
        widget = slicer.util.getModuleWidget("MoBUncertainty")
        hasWindow = slicer.util.mainWindow() is not None
        if hasWindow:
            slicer.util.selectModule("MoBUncertainty")
        else:
            widget.enter()
        ensureReady, reader = widget.panel.ensureReady, widget.ui.readerEdit.text
        client = widget.logic.client
        widget.panel.ensureReady = lambda *_formats: None
        widget.logic.client = self.fakeWorker("normal")
        try:
            yield widget.logic, widget.ui
        finally:
            widget.panel.leave()
            widget.logic.client.close()
            widget.logic.client = client
            widget.panel.ensureReady, widget.ui.readerEdit.text = ensureReady, reader
            if not hasWindow:
                widget.exit()

    @staticmethod
    def fakeWorker(mode):
        """Make a client of the fake worker in one of its modes."""
        return slicerClient(("-u", "-P", str(Path(__file__).parent / "support" / "fake_worker.py"), mode))

    def segment(self, ct, mode):
        """Run to the end, and return the session."""
        sessions, errors = [], []
        job = self.start(ct, mode)
        job.finished.connect(sessions.append)
        job.failed.connect(lambda *error: errors.append(error))
        self.waitFor(lambda: sessions or errors, seconds=300)
        self.assertFalse(errors)
        return sessions[0]

    def start(self, ct, mode):
        """Run with the fake worker in a mode; with None, with the real one."""
        if mode:
            self.logic.client.close()
            self.logic.client = self.fakeWorker(mode)
        return self.logic.run(ct, ["HeadNeckOrgans"], {})

    def waitFor(self, condition, seconds=60):
        """Let the application run until something is true."""
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            slicer.app.processEvents()
            time.sleep(0.01)
