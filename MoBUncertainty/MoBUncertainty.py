"""The scripted module, as Slicer loads it; what it does lies in the library."""

import runpy
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
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

from MoBUncertaintyLib.slicer_app.choices import Device, Engine
from MoBUncertaintyLib.slicer_app.samples import registerSampleData

# What needs scipy or SimpleITK (review, regions and the panel on top of them) is imported where it is first used, so
# that Slicer starts as fast as without this module.


class MoBUncertainty(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MoB Uncertainty")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.contributors = ["The MoB Uncertainty contributors"]
        self.parent.helpText = _("""
Segments organs in CT and MR and shows where it is in doubt: a heat map of the predictive variance, and a short, ranked
list of regions to review, correct and sign off. MoB stands for Mixture-of-Bases, the covariance model behind it.
<p>Choose an image and a model, press Apply, go through the regions, sign off, export.
Everything is computed on this computer, unless you choose another. Not for clinical use.</p>
""")
        self.parent.acknowledgementText = _("""
The method: Structured Covariance Modeling Using Learned Mixture-of-Bases for Uncertainty in 3D Segmentation.
The backbone: nnU-Net (Isensee et al., Nature Methods 18, 2021).
""")
        slicer.app.connect("startupCompleted()", registerSampleData)


@parameterNodeWrapper
class MoBUncertaintyParameterNode:
    """What the user chooses. How results are shown, and their review, is kept with each image instead.

    ct, roi - The volume to segment, and the box of it that is computed alone.
    model - What segments it: the name of a model, or the path of one that was added.
    segmentation, secondSegmentation - What is checked, if not segmented, and what it is compared with.
    dose - What is measured in the organs, in Gy.
    device, engine - Where to compute, and what runs the network.
    overlap, folds, mirror - Fraction of a tile that its neighbour covers too; averaging of folds, of mirrored tiles.
    labels - Names of those that are wanted alone; none: all of the model.
    export... - Which files an export writes, and whether the report may name the patient.
    """

    ct: vtkMRMLScalarVolumeNode
    model: str
    roi: vtkMRMLMarkupsROINode
    segmentation: vtkMRMLSegmentationNode
    dose: vtkMRMLScalarVolumeNode
    secondSegmentation: vtkMRMLSegmentationNode
    device: Device = Device.AUTO
    engine: Engine = Engine.AUTO
    overlap: Annotated[float, WithinRange(0, 0.9)] = 0.5
    folds: bool = True
    mirror: bool = False
    labels: list[str]
    exportReport: bool = True
    exportSegmentation: bool = True
    exportNifti: bool = False
    exportDicomSeg: bool = False
    exportDicomBinary: bool = False
    exportParametricMap: bool = False
    exportStructureSet: bool = False
    exportDicomProbability: bool = False
    exportDicomReport: bool = False
    exportPatientFields: bool = False


class MoBUncertaintyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Keeps the panel, which is in MoBUncertaintyLib/slicer_app/panel.py, in step with the scene."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = self.panel = self._parameterNode = self._parameterNodeGuiTag = None

    def setup(self) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        from MoBUncertaintyLib.slicer_app.installation import ensureReady
        from MoBUncertaintyLib.slicer_app.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/MoBUncertainty.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        # In the .ui file the top-level widget's mrmlSceneChanged is connected to each MRML widget's setMRMLScene.
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = MoBUncertaintyLogic()
        self.panel = Panel(self.ui, self.logic, partial(ensureReady, "MoB Uncertainty"))
        self.panel.fixWidth(uiWidget)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.panel.removals.onNodeAboutToBeRemoved)
        self.addObserver(scene, scene.NodeRemovedEvent, self.panel.removals.onNodeRemoved)

        self.initializeParameterNode()  # needed for module reload, which does not call enter()
        self.panel.review.setEntered(self.parent.isEntered)

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            stack.callback(self.removeObservers)
            ends = self.panel and (self.logic.close, partial(self.setParameterNode, None), self.panel.close)
            for end in ends or ():  # without a panel, setup() has failed, and said why
                stack.callback(end)

    def onReload(self) -> None:
        """Called when a developer reloads the module: its library is loaded anew too, which Slicer does not do."""
        # Slicer cleans up as well, but after it has loaded the new code, which the old panel must not meet.
        self.cleanup()
        for name in [name for name in sys.modules if name.partition(".")[0] == "MoBUncertaintyLib"]:
            del sys.modules[name]
        super().onReload()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.panel.review.setEntered(True)
        self.panel.removals.sayEnded()

    def exit(self) -> None:
        """Called each time the user opens a different module."""
        self.panel.review.setEntered(False)
        self._disconnectGui()

    def onSceneStartClose(self, caller, event) -> None:
        """Called just before the scene is closed."""
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (self.logic.sessions.forget, partial(self.setParameterNode, None), self.panel.leave):
                stack.callback(end)

    def onSceneEndImport(self, caller, event) -> None:
        """Called when a scene has been read, perhaps with results, while Slicer still shows that it is loading."""
        from MoBUncertaintyLib.slicer_app.widgets.section import afterLoading

        afterLoading(self.onSceneChanged)

    def onSceneChanged(self, caller=None, event=None) -> None:
        """Called when there is another scene; at the end of an import perhaps after `cleanup`."""
        scene = slicer.mrmlScene
        if self.parent.isEntered and self.hasObserver(scene, scene.EndCloseEvent, self.onSceneChanged):
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Follow the scene's parameter node; where no image is selected, select one."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.ct:
            from MoBUncertaintyLib.slicer_app.sessions import defaultCt

            self._parameterNode.ct = defaultCt()

    def setParameterNode(self, parameterNode: "MoBUncertaintyParameterNode | None") -> None:
        """Follow another parameter node, or none."""
        self._disconnectGui()
        self._parameterNode = parameterNode
        if parameterNode:
            # In the .ui file the dynamic property SlicerParameterName says which widget goes with which parameter.
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.refresh)
        self.panel.setParameters(parameterNode)

    def _disconnectGui(self) -> None:
        if self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.refresh)


class MoBUncertaintyLogic(ScriptedLoadableModuleLogic):
    """From an image to its results in the scene, through the worker; without a graphical user interface as well.

    Attributes:
        sessions: The reviews that are open.
        client: The worker's client; tests put another in its place.
        computer: The user's choice of the computer that segments.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        from MoBUncertaintyLib.slicer_app.computer import Computer
        from MoBUncertaintyLib.slicer_app.sessions import Sessions
        from MoBUncertaintyLib.slicer_app.worker.client import slicerClient

        self.sessions, self.client, self.computer = Sessions(), slicerClient(), Computer()

    def getParameterNode(self):
        return MoBUncertaintyParameterNode(super().getParameterNode())

    def run(self, ct, models, settings, segmentations=()):
        """Segment an image in the worker and show the results; returns at once. The scene changes only on success.

        :param ct, models, settings: volume to segment; names or paths of models; fields of PredictionSettings
        :param segmentations: segmentation node to check, and one to compare it with; by default, what is predicted is
            reviewed
        :return: the Job, whose result is the ReviewSession of the image
        """
        from MoBUncertaintyLib.slicer_app import requests

        def show(result):
            job.progress.emit(requests.SHOWING)
            return self.sessions.begin(ct, request, result)

        # A new segmentation is looked through as the last one was.
        earlier, computer = self.sessions.opened(ct), self.computer.host
        request = requests.predictRequest(ct, list(map(str, models)), settings, earlier, computer, segmentations)
        job = self.client.request(request, show)
        return job

    def export(self, ct, folder, formats, patientFields):
        """Write a reviewed image's files in the worker; returns at once. Arguments as of `requests.exportRequest`.

        :return: the Job, whose result has the paths of the `files`, and `problems`: what could not be written
        """
        from MoBUncertaintyLib.slicer_app import requests

        return self.client.request(requests.exportRequest(self.sessions.get(ct), Path(folder), formats, patientFields))

    def measure(self, ct, measurements, dose=None, rankBy=None):
        """Measure a reviewed image in the worker; returns at once. Arguments as of `requests.measureRequest`.

        :return: the Job, whose result is a list of `Measured`; an export of the review writes them too
        """
        from MoBUncertaintyLib.slicer_app import requests

        session = self.sessions.get(ct)
        request = requests.measureRequest(session, measurements, dose, rankBy)
        return self.client.request(request, session.receiverOfMeasurements())

    def close(self) -> None:
        """End the worker."""
        self.sessions.forget()
        self.client.close()


class MoBUncertaintyTest(ScriptedLoadableModuleTest):
    """What Reload and Test runs: Testing/Python/MoBUncertaintyTest.py, which only a checkout has."""

    def runTest(self):
        path = Path(__file__).parents[1] / "Testing" / "Python" / "MoBUncertaintyTest.py"
        runpy.run_path(str(path))["MoBUncertaintyTest"]().runTest()
