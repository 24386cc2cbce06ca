import importlib.util
import shutil
import sys
import time
import traceback
import unittest
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from MoBUncertaintyLib.errors import UserError
from MoBUncertaintyLib.slicer_app.panel.choices import Device, Method
from MoBUncertaintyLib.slicer_app.samples import loadSampleData, registerSampleData

# What needs scipy or SimpleITK (review, regions and the panel's parts on top of them) is imported where it is first
# used, so that Slicer starts as fast as without this module.

TITLE = "MoB Uncertainty"
FOLDER = Path(__file__).parent


#
# MoBUncertainty
#


class MoBUncertainty(ScriptedLoadableModule):
    """Uses ScriptedLoadableModule base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py
    """

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MoB Uncertainty")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The MoB Uncertainty contributors"]
        self.parent.helpText = _("""
Segments organs in CT and shows where the segmentation is doubtful: a heat map of the predictive variance, and a short,
ranked list of regions to review, correct and sign off. MoB stands for Mixture-of-Bases, the covariance model behind it.
<p>Choose a CT and a model, press Apply, go through the regions, sign off, export.
Everything is computed on this computer. Not for clinical use.</p>
""")
        self.parent.acknowledgementText = _("""
The method: Structured Covariance Modeling Using Learned Mixture-of-Bases for Uncertainty in 3D Segmentation.
The backbone: nnU-Net (Isensee et al., Nature Methods 18, 2021).
""")
        # Additional initialization step after application startup is complete
        slicer.app.connect("startupCompleted()", registerSampleData)


#
# MoBUncertaintyParameterNode
#


@parameterNodeWrapper
class MoBUncertaintyParameterNode:
    """
    The parameters needed by module. How results are shown, and their review, is kept with each CT instead.

    ct - The volume to segment.
    model - What segments it: the name of a model that ships with the module, or the path of one that was added.
    roi - Only what lies in this box is computed.
    method - How the moments of the probability are computed.
    samples - With Monte Carlo, how many.
    device - Where to compute.
    overlap - Share of a tile that its neighbour covers too.
    mirror - Average over mirrored copies.
    export... - Which files an export writes, and whether the report may name the patient.
    """

    ct: vtkMRMLScalarVolumeNode
    model: str
    roi: vtkMRMLMarkupsROINode
    method: Method = Method.EXACT
    samples: Annotated[int, WithinRange(2, 500)] = 30
    device: Device = Device.AUTO
    overlap: Annotated[float, WithinRange(0, 0.9)] = 0.5
    mirror: bool = False
    exportReport: bool = True
    exportSegmentation: bool = True
    exportNifti: bool = False
    exportDicomSeg: bool = False
    exportParametricMap: bool = False
    exportPatientFields: bool = False


#
# MoBUncertaintyWidget
#


class MoBUncertaintyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Keeps the panel, which is in MoBUncertaintyLib/slicer_app/panel, in step with the scene."""

    def __init__(self, parent=None) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self.panel = None

    def setup(self) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        from MoBUncertaintyLib.slicer_app.installation import ensureReady
        from MoBUncertaintyLib.slicer_app.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/MoBUncertainty.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        # In the .ui file the top-level widget's mrmlSceneChanged is connected to each MRML widget's setMRMLScene.
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = MoBUncertaintyLogic()
        self.panel = Panel(self.ui, self.logic, partial(ensureReady, TITLE))
        self.panel.fixWidth(uiWidget)

        # These connections ensure that we update parameter node when scene is closed
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        # A scene that is loaded may bring results, and a parameter node of its own
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)

        # Make sure parameter node is initialized (needed for module reload)
        self.initializeParameterNode()
        self.panel.review.setEntered(self.parent.isEntered)  # Reload does not call enter()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        if self.panel is not None:  # else setup() has failed, and said why
            self.panel.close()
            self.setParameterNode(None)
            self.logic.close()
        self.removeObservers()

    def onReload(self) -> None:
        """Called when a developer reloads the module: its library is loaded anew too, which Slicer does not do."""
        # Slicer does so as well, but after it has loaded the new code, which the old panel must not meet. Twice does no
        # harm.
        self.cleanup()
        for name in [name for name in sys.modules if name.partition(".")[0] == "MoBUncertaintyLib"]:
            del sys.modules[name]
        super().onReload()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        # Make sure parameter node exists and observed
        self.initializeParameterNode()
        self.panel.review.setEntered(True)

    def exit(self) -> None:
        """Called each time the user opens a different module."""
        self.panel.review.setEntered(False)
        # Do not react to parameter node changes (GUI will be updated when the user enters into the module)
        if self._parameterNode and self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)

    def onSceneStartClose(self, caller, event) -> None:
        """Called just before the scene is closed."""
        self.panel.leave()
        # Parameter node will be reset, do not use it anymore
        self.setParameterNode(None)
        self.logic.sessions.forget()

    def onSceneEndClose(self, caller, event) -> None:
        """Called just after the scene is closed."""
        # If this module is shown while the scene is closed then recreate a new parameter node immediately
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """Called when another scene has been read, while Slicer still shows that it is loading."""
        self.panel.afterLoading.later(self.onSceneImported)

    def onSceneImported(self) -> None:
        """Called once the application is back in its event loop after that."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node) -> None:
        """Called whenever a node is going to be removed: with a CT its results go."""
        if self._parameterNode:
            self.logic.sessions.noteOrphans(node)

    def onNodeRemoved(self, caller, event) -> None:
        """Called whenever a node has been removed."""
        if self._parameterNode:
            self.panel.onNodeRemoved()

    def onParametersModified(self, caller=None, event=None) -> None:
        """Called whenever a parameter changes."""
        self.panel.refresh()

    def initializeParameterNode(self) -> None:
        """Ensure parameter node exists and observed."""
        # Parameter node stores all user choices in parameter values, node selections, etc.
        # so that when the scene is saved and reloaded, these settings are restored.
        self.setParameterNode(self.logic.getParameterNode())

        # Select default input nodes if nothing is selected yet to save a few clicks for the user
        if not self._parameterNode.ct:
            from MoBUncertaintyLib.slicer_app.sessions import defaultCt

            self._parameterNode.ct = defaultCt()
        self.panel.showOpened()

    def setParameterNode(self, inputParameterNode: "MoBUncertaintyParameterNode | None") -> None:
        """
        Set and observe parameter node.
        Observation is needed because when the parameter node is changed then the GUI must be updated immediately.
        """
        if self._parameterNode and self._parameterNodeGuiTag is not None:  # not since exit()
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNodeGuiTag = None
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            # Note: in the .ui file, a Qt dynamic property called "SlicerParameterName" is set on each
            # ui element that needs connection.
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.panel.setParameters(self._parameterNode)


#
# MoBUncertaintyLogic
#


class MoBUncertaintyLogic(ScriptedLoadableModuleLogic):
    """From a CT to its results in the scene, through the worker; without a graphical user interface as well.

    Attributes:
        modelList: The models there are.
        sessions: The reviews that are open.
        client: The worker's client; tests put another in its place.
    """

    def __init__(self, client=None, modelList=None) -> None:
        """Called when the logic class is instantiated."""
        ScriptedLoadableModuleLogic.__init__(self)
        from MoBUncertaintyLib.slicer_app.models import ModelList
        from MoBUncertaintyLib.slicer_app.sessions import Sessions

        self.modelList = modelList or ModelList()
        self.sessions = Sessions()
        self._client = client
        self._showing = None  # the steps in which results come into the scene

    def getParameterNode(self):
        return MoBUncertaintyParameterNode(super().getParameterNode())

    @property
    def client(self):
        """The worker's client, made when it is first needed."""
        if self._client is None:
            self._client = self.newClient("-u", "-m", "MoBUncertaintyLib.worker")
        return self._client

    @client.setter
    def client(self, client) -> None:
        if self._client is not None:
            self._client.close()
        self._client = client

    @staticmethod
    def newClient(*arguments):
        """
        A client for a worker in Slicer's Python.
        :param arguments: of Python
        """
        from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

        program = shutil.which("PythonSlicer") or "PythonSlicer"
        return WorkerClient(program, arguments=arguments, folder=slicer.app.temporaryPath)

    @property
    def busy(self) -> bool:
        """Whether the worker computes something."""
        return self._showing is not None or (self._client is not None and self._client.busy)

    @property
    def niceness(self) -> int:
        """How nice the worker is to other programs, 0 to 19."""
        return self._client.niceness if self._client is not None else 0

    def run(self, ct, model, settings, onProgress, onWarning, onResult, onError) -> None:
        """
        Segment a CT in the worker and show the results; returns at once. The scene changes only when all went well.
        :param ct: CT volume
        :param model: name of a model, or its path
        :param settings: fields of prediction.PredictionSettings
        :param onProgress: called with dicts of stage, text, fraction (0 to 1) and seconds_left
        :param onWarning: called with each warning
        :param onResult: called with the ReviewSession of the CT
        :param onError: called with code, message and details
        """
        from MoBUncertaintyLib.slicer_app import requests
        from MoBUncertaintyLib.slicer_app.steps import Steps

        def show(result):
            onProgress(requests.SHOWING)
            self._showing = Steps(requests.showResultInSteps(ct, request, result), shown, failed)

        def shown(session):
            self._showing = None
            self.sessions.put(ct, session)
            onResult(session)

        def failed(error):
            self._showing = None
            if isinstance(error, UserError):
                onError("scene", str(error), "")
                return
            # Of whatever kind: the run is over, and the user must learn it.
            self.sessions.forgetIncomplete()
            text = _("The results could not be shown ({reason}), and this CT has none now; apply again.")
            details = "".join(traceback.format_exception(error))
            onError("scene", text.format(reason=type(error).__name__), details)

        # A new segmentation is looked through as the last one was.
        request = requests.predictRequest(ct, str(model), settings, self.sessions.opened(ct))
        self.client.request(request, onProgress, onWarning, show, onError)

    def export(self, ct, folder, formats, patientFields, onProgress, onWarning, onResult, onError) -> None:
        """
        Write a reviewed CT's files in the worker; returns at once.
        :param ct: CT volume with results
        :param folder: the files' own folder
        :param formats: of "report", "segmentation", "nifti", "dicom_seg", "parametric_map"
        :param patientFields: the report may name the patient
        :param onResult: called with the paths of the files, and with sentences about what could not be written
        """
        from MoBUncertaintyLib.slicer_app import requests

        def written(result):
            onResult(result["files"], result["problems"])

        request = requests.exportRequest(self.session(ct), Path(folder), formats, patientFields)
        self.client.request(request, onProgress, onWarning, written, onError)

    def cancel(self) -> None:
        """End what the worker computes, at once; results that are just being shown are gone, as are earlier ones."""
        if self._showing is not None:
            self._showing.cancel()
            self._showing = None
        self.client.cancel()

    def session(self, ct):
        """
        :return: the ReviewSession of a CT with results; None without results
        :raises ReviewError: what the scene holds is damaged
        """
        return self.sessions.get(ct)

    def close(self) -> None:
        """End the worker."""
        if self._showing is not None:
            self._showing.cancel()
        self.sessions.forget()
        if self._client is not None:
            self._client.close()


#
# MoBUncertaintyTest
#


def ignore(*_values) -> None:
    """A callback that does nothing."""


class MoBUncertaintyTest(ScriptedLoadableModuleTest):
    """
    Runs the module on its demo CT. A stand-in takes the worker's place, which invents a result and needs no PyTorch;
    with PyTorch and nnU-Net in Slicer's Python, the demo model is run as well.
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
        session.decide(first.region_id, "include")
        session.decide(second.region_id, "exclude")
        session.decide(third.region_id, "accept")
        changed = session.results.corrected() != session.review.predicted
        labels = session.review.label_map()
        self.assertTrue(changed.any())
        self.assertFalse(changed[(labels != first.label) & (labels != second.label)].any())
        session.undo()
        self.assertEqual(session.review.reviewed, (2, 3))
        session.decide(third.region_id, "accept")
        session.sign("Test Reader")

        self.logic.sessions.forget()  # as if the scene had been saved and opened again
        again = self.logic.session(ct)
        self.assertIsNot(again, session)
        self.assertEqual(again.review.signature, session.review.signature)
        for before, after in zip(session.review.regions, again.review.regions, strict=True):
            self.assertEqual((after.region_id, after.verdict), (before.region_id, before.verdict))
        self.assertTrue((again.results.corrected() == session.review.corrected()).all())

    def test_cancelLeavesTheSceneAsItWas(self):
        """Cancel comes back at once; no node has been added."""
        ct = loadSampleData()
        before = slicer.mrmlScene.GetNumberOfNodes()
        progress = []
        self.start(ct, mode="slow", onProgress=progress.append)
        self.waitFor(lambda: progress)
        self.logic.cancel()
        self.assertFalse(self.logic.busy)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.assertIsNone(self.logic.session(ct))

    def test_failureIsOneSentence(self):
        """The worker's own sentence comes through, and one is made for a worker that dies."""
        ct = loadSampleData()
        before = slicer.mrmlScene.GetNumberOfNodes()
        for mode, expected in (("fails", "single slice"), ("dies", "ended unexpectedly")):
            errors = []
            self.start(ct, mode, onError=lambda code, message, details, into=errors: into.append(message))
            self.waitFor(lambda into=errors: into)
            self.assertIn(expected, errors[0])
            self.assertEqual(len(errors), 1)
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_panel(self):
        """The panel's buttons lead from a CT to a signed review, whose verdicts change the scene."""
        import numpy as np

        from MoBUncertaintyLib.review.region import Verdict
        from MoBUncertaintyLib.slicer_app.panel.table import STATUS, statusText

        with self.openPanel() as (logic, ui):
            ct = loadSampleData()
            ui.ctSelector.setCurrentNode(ct)
            ui.applyButton.click()
            self.waitFor(lambda: not logic.busy)
            session = logic.session(ct)
            self.assertIsNotNone(session)

            def expect(*verdicts):
                shown = [ui.regionsTable.item(row, STATUS).text() for row in range(ui.regionsTable.rowCount)]
                self.assertEqual(shown, [statusText(verdict) for verdict in verdicts])

            expect(Verdict.PENDING, Verdict.PENDING, Verdict.PENDING)
            ui.includeButton.click()
            expect(Verdict.INCLUDE, Verdict.PENDING, Verdict.PENDING)
            ui.undoButton.click()
            expect(Verdict.PENDING, Verdict.PENDING, Verdict.PENDING)
            self.assertTrue((session.results.corrected() == session.review.predicted).all())

            ui.editButton.click()
            region = session.review.region(session.editing)
            session.results.updateSegmentation(region.box, np.ones_like(region.mask, np.uint8))  # as if it were painted
            ui.editButton.click()
            expect(Verdict.EDIT, Verdict.PENDING, Verdict.PENDING)
            drawn = session.results.corrected()[region.box]
            self.assertTrue(drawn[region.mask].all())
            self.assertTrue((drawn == session.review.predicted[region.box])[~region.mask].all())

            ui.mapSelector.currentIndex = 1
            self.waitFor(lambda: session.results.overlay["kind"] == "standard deviation")
            ui.lowerThresholdSlider.value = 0.2
            shown = session.results.node("shown")
            self.assertEqual(session.results.overlay["kind"], "standard deviation")
            self.assertIs(shown, session.results.node("map"))
            self.assertAlmostEqual(shown.GetDisplayNode().GetLowerThreshold(), 0.2)

            ui.doubtThresholdSlider.value = 0.02
            self.waitFor(lambda: abs(session.settings.level - 0.02) < 1e-6)
            self.assertEqual(session.review.region(region.region_id).verdict, Verdict.EDIT)
            for _region in session.review.regions:
                ui.nextButton.click()
                ui.acceptButton.click()
            expect(*[Verdict.ACCEPT] * len(session.review.regions))
            ui.reviewerEdit.text = "Test Reader"
            ui.signOffButton.click()
            self.assertEqual(session.review.signature.name, "Test Reader")
            self.assertFalse(ui.includeButton.enabled)

    def test_demoModel(self):
        """The demo model finds most of the phantom's pancreas."""
        if not all(map(importlib.util.find_spec, ("torch", "nnunetv2"))):
            self.skipTest("PyTorch or nnU-Net is not installed; the demo model was not run.")
        ct = loadSampleData()
        session = self.segment(ct, mode=None)
        truth = slicer.util.loadLabelVolume(str(FOLDER / "Resources/SampleData/PhantomCT-pancreas.nii.gz"))
        expected, found = slicer.util.arrayFromVolume(truth) > 0, session.review.predicted > 0
        dice = 2 * (expected & found).sum() / (expected.sum() + found.sum())
        self.assertGreater(dice, 0.8)
        self.assertGreater(len(session.review.regions), 0)

    @contextmanager
    def openPanel(self):
        """The module's own panel, with the stand-in worker until the test is over."""
        widget = slicer.util.getModuleWidget("MoBUncertainty")
        hasWindow = slicer.util.mainWindow() is not None
        if hasWindow:
            slicer.util.selectModule("MoBUncertainty")
        else:
            widget.enter()
        ensureReady, reviewer = widget.panel.ensureReady, widget.ui.reviewerEdit.text
        widget.panel.ensureReady = ignore
        widget.logic.client = self.standIn("normal")
        try:
            yield widget.logic, widget.ui
        finally:
            widget.panel.leave()
            widget.logic.client = None
            widget.panel.ensureReady, widget.ui.reviewerEdit.text = ensureReady, reviewer
            if not hasWindow:
                widget.exit()

    @staticmethod
    def standIn(mode):
        """A client for the stand-in worker in that mode."""
        return MoBUncertaintyLogic.newClient("-u", "-m", "MoBUncertaintyLib.worker.fake", mode)

    def segment(self, ct, mode):
        """Run to the end, and return the session."""
        sessions, errors = [], []
        self.start(ct, mode, onResult=sessions.append, onError=lambda *error: errors.append(error))
        self.waitFor(lambda: sessions or errors, seconds=300)
        self.assertFalse(errors)
        return sessions[0]

    def start(self, ct, mode, onProgress=ignore, onResult=ignore, onError=ignore):
        """Run with the stand-in worker in that mode; with None, with the real one."""
        if mode:
            self.logic.client = self.standIn(mode)
        self.logic.run(ct, "PhantomPancreas", {}, onProgress, ignore, onResult, onError)

    def waitFor(self, condition, seconds=60):
        """Let the application run until something is true."""
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            slicer.app.processEvents()
            time.sleep(0.01)
