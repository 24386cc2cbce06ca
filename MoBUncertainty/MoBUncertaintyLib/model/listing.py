"""List the models of a folder, and find one by its path or name."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.resources import RESOURCES, installed_models
from MoBUncertaintyLib.model.card import Fold, ModelCard
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.files import ModelFiles, content_of
from MoBUncertaintyLib.model.folder import Model, is_light, load_model, read_card
from MoBUncertaintyLib.model.nnunet import totalsegmentator
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset
from MoBUncertaintyLib.model.nnunet.training_folder import licence, trained_folds

MODELS_FOLDER = RESOURCES / "Models"
"""The models that ship with the extension."""


@dataclass(frozen=True)
class ListedModel:
    """A model in a folder of models; one that cannot be read has a problem, in one sentence, instead of a card."""

    path: Path
    card: ModelCard | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What people call it: a training folder is called as its data set, without number and count of subjects."""
        if self.card:
            return self.card.name
        named = re.fullmatch(r"Dataset\d+_(.+?)(_\d+subj)?", self.path.parent.name)
        return named[1] if named else self.path.stem

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the images that a case has; none where that cannot be read."""
        with suppress(ModelError):
            return channel_names(content_of(self.path, "dataset.json"))
        return ()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of its labels; none where that cannot be read."""
        if self.card:
            return tuple(label.name for label in self.card.labels)
        with suppress(ModelError):
            return tuple(check_dataset(content_of(self.path, "dataset.json"))[0].values())
        return ()

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """Its trained folds; none where that cannot be read."""
        with suppress(ModelError, OSError):
            return trained_folds(self.card.files if self.card else ModelFiles.of(self.path).names)
        return ()

    @cached_property
    def is_light(self) -> bool:
        """Whether it can be used without PyTorch and nnU-Net."""
        with suppress(ModelError, KeyError, AttributeError):  # nothing in the plans is checked yet
            return self.card is not None and is_light(self.card, content_of(self.path, "plans.json"))
        return False

    @cached_property
    def has_covariance(self) -> bool:
        """Whether its variance is more than the disagreement of tiles and folds."""
        if self.card:
            return self.card.covariance.kind is not Covariance.DETERMINISTIC
        return "covariance" in content_of(self.path, "plans.json")

    @cached_property
    def licence(self) -> str:
        """Licence of its weights."""
        if self.card:
            return self.card.licence
        return licence(content_of(self.path, "dataset.json"), totalsegmentator.number_of(self.path))

    def is_called(self, name: str) -> bool:
        """Whether a name is that of its card or of its file, with or without suffix; upper and lower case are one."""
        names = {self.path.name, self.path.stem} | ({self.card.name} if self.card else set())
        return name.casefold() in {one.casefold() for one in names}

    @classmethod
    def of(cls, path: Path) -> ListedModel:
        """Read the card of a model, or the reason why not; a training folder has none here: only torch can read it."""
        try:
            return cls(path, None if ModelFiles.of(path).trained else read_card(path))
        except ModelError as error:
            return cls(path, None, str(error))


def list_models(folder: Path | str = MODELS_FOLDER) -> list[ListedModel]:
    """List the model folders and zips in a folder, if it exists, by file name; broken ones come with their problem."""
    children = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    models = (child for child in children if child.suffix == ".zip" or (child / "model.json").is_file())
    return [ListedModel.of(child) for child in models if not child.name.startswith(".")]


def find_model(name_or_path: Path | str, folder: Path | str = MODELS_FOLDER) -> Path:
    """Find a model by its path, or by its name (that of its card or of its file) in `folder` or among the installed.

    Weights of TotalSegmentator have names such as `totalsegmentator:291`, see `nnunet.totalsegmentator`.

    Raises:
        ModelError: There is neither.

    Example:
        >>> from MoBUncertaintyLib import find_model
        >>> find_model("HeadNeckOrgans").name
        'HeadNeckOrgans'
    """
    path = Path(name_or_path)
    with suppress(OSError):  # a name too long for a path
        if path.exists():
            return path
    if str(name_or_path).startswith(totalsegmentator.PREFIX):
        return totalsegmentator.find_weights(str(name_or_path).removeprefix(totalsegmentator.PREFIX))
    listed = [*list_models(folder), *list_models(installed_models())]
    for model in listed:
        if model.is_called(str(name_or_path)):
            return model.path
    there_are = ", ".join(model.path.stem for model in listed) or "none"
    raise ModelError(f"There is no model '{name_or_path}'; give a path, or the name of an installed one ({there_are}).")


def loaded(model: Model | Path | str) -> Model:
    """Load a model by its path, or by its name as for `find_model`; one that is loaded already is returned."""
    return model if isinstance(model, Model) else load_model(find_model(model))
