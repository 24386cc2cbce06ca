"""Press Apply's installation in an otherwise empty Python: `python installation_side.py PACKAGING REQUIREMENTS PIP...`.

PACKAGING is the folder of Slicer's `packaging.py`, REQUIREMENTS one with the requirements files, PIP the command of a
pip that installs here. Prints what was asked, said and raised, and what is missing in the end, as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace


def slicer_of(folder: str, pip: list[str], asked: list[str]) -> ModuleType:
    """A `slicer` that has the real `packaging`, and of the rest what it and `app.installation` use."""

    def executePythonModule(module: str, args: list[str], **_options) -> None:  # noqa: N802
        assert module == "pip"
        subprocess.run([*pip, *args], check=True, stdout=sys.stderr)

    made = {name: ModuleType(name) for name in ("slicer", "slicer.util", "slicer.i18n")}
    slicer, util, i18n = made.values()
    slicer.__path__ = [folder]
    slicer.util, i18n.tr = util, lambda text: text
    slicer.app = SimpleNamespace(
        majorVersion=5, minorVersion=13, testingEnabled=lambda: False, processEvents=lambda: None
    )
    util.executePythonModule = executePythonModule
    util.confirmOkCancelDisplay = lambda question, **_options: not asked.append(question)
    sys.modules.update(made)
    import slicer.packaging

    slicer.packaging._isSlicerAppAvailable = lambda: False  # no progress dialog
    return slicer


def main(folder: str, requirements: str, *pip: str) -> dict:
    asked: list[str] = []
    slicer_of(folder, list(pip), asked)
    from MoBUncertaintyLib.base.errors import UserError
    from MoBUncertaintyLib.slicer_app import installation

    installation.RESOURCES, installation.TORCH = Path(requirements), "torch>=1"
    answers: dict = {"missing": [installation.missingPackages()], "raised": None, "started": []}
    try:
        installation.ensureReady("Test", onInstall=lambda: answers["started"].append(len(asked)))
    except UserError as error:
        answers["raised"] = str(error)
    answers["missing"].append(installation.missingPackages())
    return answers | {"asked": asked}


if __name__ == "__main__":
    print("\nFACTS " + json.dumps(main(*sys.argv[1:])))
