"""The desktop that panels are tested on: what fails on it, and, with SLICER_SOURCE, Slicer's template."""

import ast
import os
import shutil
from pathlib import Path

import pytest

from support import MODULE_FOLDER
from support.late import qt, slicer
from support.small_panel import add_ct

pytestmark = pytest.mark.own_process


def test_a_question_without_an_answer_and_an_error_in_a_slot_fail(desktop):
    with pytest.raises(AssertionError, match="Really"):
        slicer.util.confirmOkCancelDisplay("Really?")
    qt.QTimer.singleShot(0, lambda: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        desktop.process(until=lambda: False)
    desktop.errors.clear()


@pytest.mark.skipif("SLICER_SOURCE" not in os.environ, reason="SLICER_SOURCE names no checkout of Slicer's sources")
def test_template_of_slicer_opens_and_applies(desktop, tmp_path):
    from slicer_host.host import open_module

    source = Path(os.environ["SLICER_SOURCE"]) / "Utilities" / "Templates" / "Modules" / "Scripted"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    code = (tmp_path / "TemplateKey.py").read_text()  # PySide6 does not connect by a signal's name
    (tmp_path / "TemplateKey.py").write_text(code.replace('.connect("clicked(bool)", ', ".clicked.connect("))
    template = open_module("TemplateKey", tmp_path)
    assert not template.ui.applyButton.enabled
    template.ui.inputSelector.setCurrentNode(add_ct(desktop))
    template.ui.outputSelector.addNode()
    assert template.ui.applyButton.enabled
    assert template.ui.imageThresholdSliderWidget.maximum == 500
    template.ui.imageThresholdSliderWidget.value = 123
    assert template.widget._parameterNode.imageThreshold == 123
    template.close()


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
