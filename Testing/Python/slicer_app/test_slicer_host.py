"""The desktop that panels are tested on, with a little module of its own and, with SLICER_SOURCE, Slicer's template."""

import ast
import os
import shutil
import textwrap
from pathlib import Path

import pytest

from support import MODULE_FOLDER

pytestmark = pytest.mark.own_process

MODULE = """
    import slicer
    import vtk
    from typing import Annotated
    from slicer import vtkMRMLScalarVolumeNode
    from slicer.i18n import tr as _
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
    from slicer.ScriptedLoadableModule import *
    from slicer.util import VTKObservationMixin


    class Doubler(ScriptedLoadableModule):
        def __init__(self, parent):
            ScriptedLoadableModule.__init__(self, parent)
            parent.title = _("Doubler")


    @parameterNodeWrapper
    class DoublerParameterNode:
        volume: vtkMRMLScalarVolumeNode
        factor: Annotated[float, WithinRange(0, 10)] = 2.0
        loud: bool = True


    class DoublerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
        def __init__(self, parent=None):
            ScriptedLoadableModuleWidget.__init__(self, parent)
            VTKObservationMixin.__init__(self)

        def setup(self):
            ScriptedLoadableModuleWidget.setup(self)
            uiWidget = slicer.util.loadUI(self.resourcePath("UI/Doubler.ui"))
            self.layout.addWidget(uiWidget)
            self.ui = slicer.util.childWidgetVariables(uiWidget)
            uiWidget.setMRMLScene(slicer.mrmlScene)
            self.logic = DoublerLogic()
            self.parameters = self.logic.getParameterNode()
            self.tag = self.parameters.connectGui(self.ui)
            self.ui.applyButton.clicked.connect(self.onApply)

        def enter(self):
            pass

        def exit(self):
            self.parameters.disconnectGui(self.tag)

        def onApply(self, _checked):
            with slicer.util.tryWithErrorDisplay(_("Doubling failed.")):
                if slicer.util.confirmYesNoDisplay(_("Double it?")):
                    self.logic.process(self.ui.volumeSelector.currentNode(), self.ui.factorSlider.value)


    class DoublerLogic(ScriptedLoadableModuleLogic):
        def getParameterNode(self):
            return DoublerParameterNode(super().getParameterNode())

        def process(self, volume, factor):
            if volume is None:
                raise ValueError("Choose a volume.")
            slicer.util.updateVolumeFromArray(volume, factor * slicer.util.arrayFromVolume(volume))
"""

UI = """
    <ui version="4.0">
     <class>Doubler</class>
     <widget class="qMRMLWidget" name="Doubler">
      <layout class="QVBoxLayout">
       <item><widget class="ctkCollapsibleButton" name="inputs">
        <property name="text"><string>Inputs</string></property>
        <layout class="QFormLayout">
         <item row="0" column="0"><widget class="QLabel" name="label">
          <property name="text"><string>Volume:</string></property></widget></item>
         <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="volumeSelector">
          <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
          <property name="noneEnabled"><bool>true</bool></property>
          <property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
         <item row="1" column="1"><widget class="ctkSliderWidget" name="factorSlider">
          <property name="SlicerParameterName" stdset="0"><string>factor</string></property></widget></item>
         <item row="2" column="1"><widget class="QCheckBox" name="loudCheckBox">
          <property name="SlicerParameterName" stdset="0"><string>loud</string></property></widget></item>
        </layout></widget></item>
       <item><widget class="QPushButton" name="applyButton">
        <property name="text"><string>Apply</string></property></widget></item>
      </layout>
     </widget>
     <connections><connection>
      <sender>Doubler</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
      <receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot>
     </connection></connections>
    </ui>
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The module above, open."""
    from slicer_host.host import open_module

    folder = tmp_path_factory.mktemp("module")
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Doubler.py").write_text(textwrap.dedent(MODULE))
    (folder / "Resources" / "UI" / "Doubler.ui").write_text(textwrap.dedent(UI).strip())
    desktop = open_module("Doubler", folder)
    yield desktop
    desktop.close()


@pytest.fixture
def desktop(opened):
    """The module with no volume and no dialog."""
    for node in opened.ui.volumeSelector.nodes():
        opened.scene.RemoveNode(node)
    opened.dialogs.clear()
    yield opened
    assert not opened.errors


def add_volume(desktop, name="CT"):
    import numpy as np
    import slicer

    node = desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.arange(20 * 30 * 40, dtype=np.int16).reshape(20, 30, 40) // 240)
    node.CreateDefaultDisplayNodes()
    return node


def test_widgets_nodes_and_parameters_follow_each_other(desktop):
    ui, parameters = desktop.ui, desktop.logic.getParameterNode()
    assert ui.volumeSelector.currentNode() is None
    node = add_volume(desktop)
    assert [found.GetName() for found in ui.volumeSelector.nodes()] == ["CT"]
    ui.volumeSelector.setCurrentNode(node)
    assert parameters.volume is node
    parameters.factor = 4.5
    assert ui.factorSlider.value == 4.5
    ui.factorSlider.value = 7.25
    assert parameters.factor == 7.25
    ui.loudCheckBox.click()
    assert parameters.loud is False
    with pytest.raises(ValueError):
        parameters.factor = 11.0
    desktop.scene.RemoveNode(node)
    assert ui.volumeSelector.currentNode() is None
    assert parameters.volume is None


def test_dialogs_are_noted_and_answered(desktop):
    import qt
    import slicer

    desktop.answer(qt.QMessageBox.No)
    desktop.ui.applyButton.click()
    assert [shown.text for shown in desktop.dialogs] == ["Double it?"]
    volume, desktop.ui.factorSlider.value = add_volume(desktop), 2.0
    desktop.ui.volumeSelector.setCurrentNode(volume)
    desktop.answer(qt.QMessageBox.Yes)
    desktop.ui.applyButton.click()
    assert slicer.util.arrayFromVolume(volume).max() == 2 * 99


def test_error_is_one_dialog(desktop):
    import qt

    desktop.answer(qt.QMessageBox.Yes)
    desktop.ui.applyButton.click()
    assert [shown.text for shown in desktop.dialogs] == ["Double it?", "Doubling failed.\n\nChoose a volume."]
    assert "ValueError" in desktop.dialogs[-1].details
    with pytest.raises(AssertionError, match="Choose a volume"):  # raised again, as in Slicer
        desktop.process()
    desktop.errors.clear()


def test_question_without_an_answer_does_not_hang(desktop):
    import slicer

    with pytest.raises(AssertionError, match="Nobody has prepared an answer to: Really"):
        slicer.util.confirmOkCancelDisplay("Really?")


def test_folded_part_hides_what_it_holds(desktop):
    ui = desktop.ui
    height = ui.inputs.height
    ui.inputs.collapsed = True
    desktop.process()
    assert not ui.factorSlider.visible
    assert ui.inputs.sizeHint().height() < height
    ui.inputs.click()
    desktop.process()
    assert ui.factorSlider.visible


def test_picture_shows_panel_and_slices(desktop, tmp_path):
    import numpy as np
    import slicer
    from PIL import Image

    slicer.util.setSliceViewerLayers(background=add_volume(desktop), fit=True)
    desktop.screenshot(tmp_path / "picture.png")
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    x, y = desktop.views[0].mapTo(desktop.window, desktop.views[0].rect.center()).toTuple()
    axial = picture[y - 40 : y + 40, x - 40 : x + 40]
    assert np.ptp(axial) > 2  # the volume rises along y
    assert np.array_equal(axial[..., 0], axial[..., 2])  # in grey
    assert len(np.unique(picture[:, : desktop.scroll.width].reshape(-1, 3), axis=0)) > 20  # text and frames


@pytest.mark.skipif("SLICER_SOURCE" not in os.environ, reason="SLICER_SOURCE names no checkout of Slicer's sources")
def test_template_of_slicer_opens_and_applies(tmp_path):
    from slicer_host.host import open_module

    source = Path(os.environ["SLICER_SOURCE"]) / "Utilities" / "Templates" / "Modules" / "Scripted"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    code = (tmp_path / "TemplateKey.py").read_text()  # PySide6 does not connect by a signal's name
    (tmp_path / "TemplateKey.py").write_text(code.replace('.connect("clicked(bool)", ', ".clicked.connect("))
    desktop = open_module("TemplateKey", tmp_path)
    assert not desktop.ui.applyButton.enabled
    desktop.ui.inputSelector.setCurrentNode(add_volume(desktop))
    desktop.ui.outputSelector.addNode()
    assert desktop.ui.applyButton.enabled
    assert desktop.ui.imageThresholdSliderWidget.maximum == 500
    desktop.ui.imageThresholdSliderWidget.value = 123
    assert desktop.widget._parameterNode.imageThreshold == 123
    desktop.close()


def test_no_signal_calls_a_method_of_qt_with_its_own_arguments():
    """PythonQt calls `close(False)` for `clicked`, an error; PySide, which the tests use, drops the argument."""
    from PySide6 import QtWidgets

    known = {*dir(QtWidgets.QDialog), *dir(QtWidgets.QPushButton), *dir(QtWidgets.QLineEdit)} - {"emit"}
    found = []
    for path in sorted((MODULE_FOLDER / "MoBUncertaintyLib" / "slicer_app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="connect"), args=[ast.Attribute(attr=name, value=owner)]):
                    if name in known and ast.unparse(owner) != "self":
                        found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
