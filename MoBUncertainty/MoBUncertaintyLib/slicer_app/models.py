"""The models that a user can choose from: shipped, installed from a catalogue or by TotalSegmentator, or added.

Added models stay where they are; Slicer's settings keep their paths. Only their cards are read, without torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.resources import installed_models
from MoBUncertaintyLib.model.files import ModelFiles
from MoBUncertaintyLib.model.listing import MODELS_FOLDER, ListedModel, list_models
from MoBUncertaintyLib.model.nnunet.totalsegmentator import installed_weights
from MoBUncertaintyLib.model.nnunet.totalsegmentator import name_of as nameOfWeights
from MoBUncertaintyLib.pipeline.catalogue.install import remove as uninstall

SETTINGS_KEY = "MoBUncertainty/Models"


def listModels() -> dict[str, ListedModel]:
    """List the shipped models, the installed, the added and TotalSegmentator's.

    They go by the names that a scene remembers them by, see `sceneName`.
    """
    shipped = list_models()
    taken = {model.path.name for model in shipped}
    installed = [model for model in list_models(installed_models()) if model.path.name not in taken]
    weights = [ListedModel(path, None) for path in installed_weights().values()]
    every = [*shipped, *installed, *map(ListedModel.of, addedModels()), *weights]
    return {sceneName(model): model for model in every}


def sceneName(model: ListedModel) -> str:
    """Return what a scene remembers a model by: its path or, if it ships or was installed, its name."""
    if ships(model) or isInstalled(model):
        return model.path.name
    return nameOfWeights(model.path) or str(model.path)


def ships(model: ListedModel) -> bool:
    """Tell whether a model ships with the extension."""
    return model.path.parent == MODELS_FOLDER


def isInstalled(model: ListedModel) -> bool:
    """Tell whether a model was installed from a catalogue."""
    return model.path.parent == installed_models()


def findModel(name: str) -> ListedModel:
    """Return the model of a name that is not among `listModels`: a scene may come from another computer."""
    path = Path(name)
    if path.is_absolute():
        return ListedModel.of(path)
    text = _("There is no model {name} on this computer; find or add it, or choose another one.")
    return ListedModel(path, None, text.format(name=name))


def addModel(path: Path | str) -> ListedModel:
    """Remember a model that the user has chosen; raises `ModelError` if it cannot be used.

    It is a model folder, a training folder of nnU-Net, a file in one of them, or a .zip of one.
    """
    path = ModelFiles.of(Path(path).absolute()).path
    listed = ListedModel.of(path)
    if listed.problem:
        raise ModelError(listed.problem)
    if path not in [model.path for model in listModels().values()]:
        _keep([*addedModels(), path])
    return listed


def removeModel(path: Path | str) -> None:
    """Forget an added model, whose files stay, or remove an installed one and its files.

    Raises `OutputError` if its files cannot be removed.
    """
    if Path(path).parent == installed_models():
        uninstall(Path(path).name)
        return
    _keep([added for added in addedModels() if added != Path(path)])


def addedModels() -> list[Path]:
    """List the paths of the models that the user has added."""
    return [Path(path) for path in slicer.util.settingsValue(SETTINGS_KEY, [], converter=json.loads)]


def whyNotUse(model: ListedModel | None) -> str | None:
    """Say why a model cannot predict; None: it can, as far as is known here."""
    return model.problem if model else _("Add a model first.")


def _keep(paths: list[Path]) -> None:
    slicer.app.userSettings().setValue(SETTINGS_KEY, json.dumps([str(path) for path in paths]))
