import os
import shutil
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
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from MoBUncertaintyLib.app.choices import Device, Method
from MoBUncertaintyLib.app.samples import registerSampleData

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
        self.parent.title = TITLE
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
    exportDicomSeg: bool = False
    exportParametricMap: bool = False
    exportPatientFields: bool = False


#
# MoBUncertaintyWidget
#


class MoBUncertaintyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Uses ScriptedLoadableModuleWidget base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py

    What the panel does is in MoBUncertaintyLib/app/panel.py; this class keeps it in step with the scene.
    """

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
        from MoBUncertaintyLib.app.installation import ensureReady
        from MoBUncertaintyLib.app.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/MoBUncertainty.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        # In the .ui file the top-level widget's mrmlSceneChanged is connected to each MRML widget's setMRMLScene.
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = MoBUncertaintyLogic()
        self.panel = Panel(self.ui, self.logic, lambda: ensureReady(TITLE))

        # These connections ensure that we update parameter node when scene is closed
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        # A scene that is loaded may bring results, and a parameter node of its own
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)

        # Make sure parameter node is initialized (needed for module reload)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        self.removeObservers()
        self.panel.close()
        self.setParameterNode(None)
        self.logic.close()

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
        self.logic.forgetSessions()

    def onSceneEndClose(self, caller, event) -> None:
        """Called just after the scene is closed, or another one has been read."""
        # If this module is shown while the scene is closed then recreate a new parameter node immediately
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodeRemoved(self, caller, event) -> None:
        """Called whenever a node is removed: a CT that has lost a part of its results has none."""
        if self._parameterNode and self.logic.forgetIncomplete():
            self.panel.refresh()

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
            self._parameterNode.ct = self.logic.defaultCt()

    def setParameterNode(self, inputParameterNode: MoBUncertaintyParameterNode | None) -> None:
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
    Uses ScriptedLoadableModuleLogic base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py

    Attributes:
        modelList: The models there are.
        client: The worker's client; tests put another in its place.
    """

    def __init__(self, client=None, modelList=None) -> None:
        """Called when the logic class is instantiated."""
        ScriptedLoadableModuleLogic.__init__(self)
        from MoBUncertaintyLib.app.models import ModelList

        self.modelList = modelList or ModelList()
        self._client = client
        self._sessions = {}

    def getParameterNode(self):
        return MoBUncertaintyParameterNode(super().getParameterNode())

    @property
    def client(self):
        """The worker's client, made when it is first needed."""
        if self._client is None:
            from MoBUncertaintyLib.app.client import WorkerClient

            paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
            self._client = WorkerClient(shutil.which("PythonSlicer") or "PythonSlicer", environment)
        return self._client

    @client.setter
    def client(self, client) -> None:
        if self._client is not None:
            self._client.close()
        self._client = client

    @property
    def busy(self) -> bool:
        """Whether the worker computes something."""
        return self._client is not None and self._client.busy

    def models(self) -> list:
        """The models there are: those that ship with the module, and those the user has added."""
        return self.modelList.models()

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
        from MoBUncertaintyLib.app import tasks

        def show(result):
            if ct.GetScene() is None:
                onError("cancelled", _("The CT was removed while it was segmented; there is nothing to show."), "")
                return
            self._sessions[ct.GetID()] = tasks.showResult(ct, result)
            onResult(self._sessions[ct.GetID()])

        request = tasks.predictRequest(ct, str(model), settings, self._sessions.get(ct.GetID()))
        self.client.request(request, onProgress, onWarning, show, onError)

    def export(self, ct, folder, formats, patientFields, onProgress, onWarning, onResult, onError) -> None:
        """
        Write a reviewed CT's files in the worker; returns at once.
        :param ct: CT volume with results
        :param folder: the files' own folder
        :param formats: of "report", "segmentation", "dicom_seg", "parametric_map"
        :param patientFields: the report may name the patient
        :param onResult: called with the paths of the files
        """
        from MoBUncertaintyLib.app import tasks

        request = tasks.exportRequest(self.session(ct), Path(folder), formats, patientFields)
        self.client.request(request, onProgress, onWarning, lambda result: onResult(result["files"]), onError)

    def cancel(self) -> None:
        """End what the worker computes, at once."""
        self.client.cancel()

    def session(self, ct):
        """
        The ReviewSession of a CT with results, opened from the scene if need be; None without results.
        :raises ReviewError: what the scene holds is damaged
        """
        from MoBUncertaintyLib.app.scene import ResultScene, findResults

        if ct is None or ct not in findResults(slicer.mrmlScene):
            return None
        if ct.GetID() not in self._sessions:
            from MoBUncertaintyLib.app.session import ReviewSession

            self._sessions[ct.GetID()] = ReviewSession.open(ResultScene(ct))
        return self._sessions[ct.GetID()]

    def forgetSessions(self) -> None:
        """Forget all reviews; the scene holds them."""
        self._sessions.clear()

    def forgetIncomplete(self) -> bool:
        """
        Forget the sessions of CTs whose results are no longer all in the scene.
        :return: whether there were any
        """
        gone = [name for name, session in self._sessions.items() if not session.isComplete()]
        for name in gone:
            del self._sessions[name]
        return bool(gone)

    def defaultCt(self):
        """The first volume of the scene that is no map of this module's, or None."""
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return next((node for node in volumes if not self.isResult(node)), None)

    def isResult(self, node) -> bool:
        """Whether a volume is a map that was made of a CT."""
        from MoBUncertaintyLib.app.nodes import CtNodes
        from MoBUncertaintyLib.app.scene import findResults

        roles = ("probability", "variance", "map")
        return any(node in CtNodes(ct).nodes(role) for ct in findResults(slicer.mrmlScene) for role in roles)

    def close(self) -> None:
        """End the worker."""
        self.forgetSessions()
        if self._client is not None:
            self._client.close()


#
# MoBUncertaintyTest
#


class MoBUncertaintyTest(ScriptedLoadableModuleTest):
    """
    This is the test case for your scripted module.
    Uses ScriptedLoadableModuleTest base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py
    """
