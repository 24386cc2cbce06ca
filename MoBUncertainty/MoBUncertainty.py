import importlib.util
import shutil
import sys
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

from MoBUncertaintyLib.slicer_app.choices import Device, Method
from MoBUncertaintyLib.slicer_app.samples import registerSampleData

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
        """Whether a CT is segmented, or a review exported."""
        return self._client is not None and self._client.busy

    @property
    def niceness(self) -> int:
        """How nice the worker is to other programs, 0 to 19."""
        return self._client.niceness if self._client is not None else 0

    def run(self, ct, model, settings):
        """
        Segment a CT in the worker and show the results; returns at once. The scene changes only when all went well.
        :param ct: CT volume
        :param model: name of a model, or its path
        :param settings: fields of prediction.PredictionSettings
        :return: the Job, whose result is the ReviewSession of the CT
        """
        from MoBUncertaintyLib.slicer_app import requests

        def show(result):
            job.progress.emit(requests.SHOWING)
            return self.sessions.begin(ct, request, result)

        # A new segmentation is looked through as the last one was.
        request = requests.predictRequest(ct, str(model), settings, self.sessions.opened(ct))
        job = self.client.request(request, show)
        return job

    def export(self, ct, folder, formats, patientFields):
        """
        Write a reviewed CT's files in the worker; returns at once.
        :param ct: CT volume with results
        :param folder: the files' own folder
        :param formats: of "report", "segmentation", "nifti", "dicom_seg", "parametric_map"
        :param patientFields: the report may name the patient
        :return: the Job, whose result has the paths of the `files`, and `problems`: what could not be written
        """
        from MoBUncertaintyLib.slicer_app import requests

        return self.client.request(requests.exportRequest(self.session(ct), Path(folder), formats, patientFields))

    def cancel(self) -> None:
        """End what the worker computes, at once; results that are just being shown are gone, as are earlier ones."""
        self.client.cancel()

    def session(self, ct):
        """
        :return: the ReviewSession of a CT with results; None without results
        :raises ReviewError: what the scene holds is damaged
        """
        return self.sessions.get(ct)

    def close(self) -> None:
        """End the worker."""
        self.sessions.forget()
        if self._client is not None:
            self._client.close()


#
# MoBUncertaintyTest
#


class MoBUncertaintyTest(ScriptedLoadableModuleTest):
    """What Reload and Test runs: Testing/Python/MoBUncertaintyTest.py, which only a checkout has."""

    def runTest(self):
        """Run as few or as many tests as needed here."""
        path = FOLDER.parent / "Testing" / "Python" / "MoBUncertaintyTest.py"
        spec = importlib.util.spec_from_file_location("MoBUncertaintyTest", path)
        tests = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tests)
        tests.MoBUncertaintyTest().runTest()
