"""Open models; `network.export` writes them, `listing` finds them.

A model folder holds `model.json` (the card), nnU-Net's `plans.json` and `dataset.json`, and
`fold_K/weights.safetensors`. A zip of it, and nnU-Net's own training folder, are models too. Nothing in any of them is
executed. This module imports no torch until weights, or a training folder, are read.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.integrity import file_digest
from MoBUncertaintyLib.base.publishing import remove_private_folder
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.card import MODEL_FILE, Fold, ModelCard, card_from_json
from MoBUncertaintyLib.model.files import ModelFile
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset, covered_values, label_values
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing, previous_stage, resolve
from MoBUncertaintyLib.model.nnunet.results import (
    FIRST_STAGE,
    beside,
    first_stage_of,
    is_training_folder,
    lacks,
)
from MoBUncertaintyLib.model.nnunet.training_folder import open_training_folder
from MoBUncertaintyLib.model.weights import WEIGHTS_LIMIT, read_checkpoint, read_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Model:
    """A checked model, its weights still on disk.

    Attributes:
        card: Its description.
        plans: Content of `plans.json`, checked by `check_plans`.
        dataset: Content of `dataset.json`, checked by `check_dataset`.
        path: Path that the user gave: a model folder, a zip, or nnU-Net's training folder.
        sources: Weights file of each fold.
        digests: SHA-256 of each file, by its name in the model: as `model.json` states it or, in nnU-Net's training
            folder, as it was when first read. What is read later must have the same.
        first_stage: Of a cascade, if this is the second: the model whose label map is its further input.

    A model from a zip owns a temporary folder, which is removed by `close()`, at the end of a `with` block, when the
    model is garbage-collected, or when the program ends.
    """

    card: ModelCard
    plans: dict[str, Any]
    dataset: dict[str, Any]
    path: Path
    sources: Mapping[Fold, Path]
    digests: dict[str, str]
    first_stage: Model | None = None
    _remove: Callable[[], object] | None = field(default=None, repr=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the images that a case has, in the order of the network's input channels."""
        return channel_names(self.dataset)

    @property
    def inputs(self) -> int:
        """Number of the network's input channels: the images and, in a second stage, the labels of the first."""
        return len(self.channels) + (len(label_values(self.dataset)) if self.first_stage else 0)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds it has weights for."""
        return tuple(self.sources)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `model.json`, which holds that of every other file.

        For nnU-Net's training folder, the SHA-256 of what its `model.json` would say.
        """
        if "model.json" in self.digests:
            return self.digests["model.json"]
        for source in self.sources.values():
            if _name_of(source) not in self.digests:
                self.digests[_name_of(source)] = file_digest(source)
        first = {"first_stage": self.first_stage.digest} if self.first_stage else {}
        content = asdict(self.card) | {"files": self.digests} | first
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def state_dict(self, fold: Fold) -> dict[str, Tensor]:
        """Read the weights of one fold, float32, with the keys of `StochasticNetwork`.

        Raises:
            ModelError: There is no such fold, or its file is damaged, unsafe or changed since the model was opened.
        """
        if fold not in self.sources:
            there_are = ", ".join(map(str, self.folds))
            raise ModelError(f"{self.path} has no fold {fold} (there is: {there_are}).")
        source = self.sources[fold]
        file = ModelFile.read(source.parents[1], _name_of(source), str(self.path), WEIGHTS_LIMIT)
        if self.digests.setdefault(file.name, file.sha256) != file.sha256:
            raise ModelError(f"{file} was changed while it was in use; start again with the model as it is now.")
        if source.suffix == ".safetensors":
            return read_weights(file)
        checkpoint = read_checkpoint(file)
        if checkpoint.configuration != self.card.configuration:
            raise ModelError(f"The folds of {self.path} have different configurations; train them alike.")
        return checkpoint.weights

    def close(self) -> None:
        """Remove the folder that a zip was unpacked to. Weights already read stay valid."""
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_model(path: Path | str, checkpoint: str | None = None, folds: Sequence[Fold] | None = None) -> Model:
    """Open a model folder, a zipped model or nnU-Net's training folder, and check all but the weights' values.

    Args:
        path: Path of the model, or of one of its files.
        checkpoint: For nnU-Net's training folder: name of the checkpoint file; None:
            as `nnunet.open_training_folder` chooses.
        folds: For nnU-Net's training folder: folds to use; None: all that are trained.

    Raises:
        ModelError: It is not a model, or damaged, altered or unsafe.

    Example:
        >>> from MoBUncertaintyLib import find_model, load_model
        >>> model = load_model(find_model("PhantomPancreas"))
        >>> model.card.covariance.kind.value, [label.name for label in model.card.labels]
        ('mixture-of-bases', ['pancreas'])
    """
    path = Path(path)
    with _reading(path):
        path = model_of(path)
        if path.is_file():
            root = archive.unpack(path)
            try:
                model = _load(root, path, checkpoint, folds)
            except BaseException:
                remove_private_folder(root)
                raise
            model._remove = weakref.finalize(model, remove_private_folder, root)
            return model
        return _load(path, path, checkpoint, folds)


def _load(root: Path, path: Path, checkpoint: str | None, folds: Sequence[Fold] | None) -> Model:
    """Load the model or training folder `root`, which the user knows as `path`."""
    if (root / "model.json").is_file():
        return load_folder(root, path)
    if is_training_folder(root):
        card, plans, dataset, sources, digests = open_training_folder(root, checkpoint, folds, path)
        previous = previous_stage(resolve(plans, card.configuration))
        first = _first_stage(root, path, previous, card, channel_names(dataset)) if previous else None
        return Model(card, plans, dataset, path, sources, digests, first)
    raise _no_model(path)


def _first_stage(root: Path, path: Path, configuration: str, card: ModelCard, channels: tuple[str, ...]) -> Model:
    """Open the first stage of a cascade: nnU-Net keeps its training folder beside that of the second.

    Args:
        root: The training folder of the second stage; the first may lie in it, as that of a zip does.
        path: The same, or the zip of it, as the user knows it.
        configuration: Of the first stage.
        card, channels: Of the second stage.
    """
    inside, name = root / FIRST_STAGE, beside(path.absolute().name, configuration)
    if is_training_folder(inside):
        first = _load(inside, path / FIRST_STAGE, None, None)
    elif path.is_file():
        raise ModelError(
            f"{path} holds the second stage of a cascade without the first one, {configuration}; put both training "
            "folders into one zip, or unpack it and put that of the first stage beside that of the second."
        )
    elif is_training_folder(path.absolute().with_name(name)):
        first = load_model(path.absolute().with_name(name))
    else:
        raise ModelError(
            f"{path} is the second stage of a cascade, and the first one is not beside it; put its training folder "
            f"{name} there."
        )
    if first.card.configuration != configuration or first.first_stage:
        raise ModelError(f"{first.path} is not of the configuration {configuration}; train the cascade again.")
    if (first.card.labels, first.channels) != (card.labels, channels):
        raise ModelError(f"The two stages of the cascade {path} have other labels or input channels; train them alike.")
    return first


def model_of(path: Path | str) -> Path:
    """Find the model that a path means: that of a file in it, or the only one in a folder of nnU-Net's results.

    Both stages of a cascade are one model, which its second stage stands for.

    Raises:
        ModelError: The folder holds several training folders.
    """
    path = Path(path)
    if path.is_file() and path.name in ("model.json", "plans.json", "dataset.json"):
        return path.parent
    if path.is_file() and path.suffix in (".pth", ".safetensors") and path.parent.name.startswith("fold_"):
        return path.parent.parent
    if path.is_dir() and not (path / "model.json").is_file() and not is_training_folder(path):
        with suppress(OSError):
            trained = sorted(child for child in path.iterdir() if child.is_dir() and is_training_folder(child))
            stages = {first_stage_of(each.name, read_plans(each)) for each in trained}
            if len(trained) == 2 and len(seconds := [each for each in trained if each.name not in stages]) == 1:
                return seconds[0]
            if len(trained) > 1:
                raise ModelError(f"{path} holds {', '.join(each.name for each in trained)}; choose one of them.")
            return trained[0] if trained else path
    return path


def is_trained(path: Path) -> bool:
    """Whether a path is nnU-Net's training folder, or a zip of it: what it is stands in a checkpoint."""
    return is_training_folder(path) or (path.is_file() and archive.holds_training_folder(path))


def read_card(path: Path | str) -> ModelCard:
    """Read a model's card without reading, unpacking or checking the rest.

    Only nnU-Net's training folder needs torch for that.

    Raises:
        ModelError: There is no readable card.
    """
    path = Path(path)
    with _reading(path):
        path = model_of(path)
        if path.is_file() and archive.holds_training_folder(path):
            with load_model(path) as model:
                return model.card
        if path.is_file():
            file = ModelFile("model.json", str(path), archive.read_file(path, "model.json"))
            return card_from_json(file.json(), str(path))
        if (path / "model.json").is_file():
            return card_from_json(ModelFile.read(path, "model.json", str(path)).json(), str(path))
        if is_training_folder(path):
            return open_training_folder(path)[0]
        raise _no_model(path)


def read_channels(path: Path) -> tuple[str, ...]:
    """Read the names of a model's input channels, and nothing else of it; none where that cannot be read."""
    with suppress(ModelError):
        return channel_names(read_dataset(path))
    return ()


def read_plans(path: Path) -> dict[str, Any]:
    """As `read_dataset`, of `plans.json`."""
    return _unchecked(path, "plans.json")


def read_dataset(path: Path) -> dict[str, Any]:
    """Read a model's `dataset.json`, unchecked, and nothing else of it; empty where that cannot be read."""
    return _unchecked(path, "dataset.json")


def _unchecked(path: Path, name: str) -> dict[str, Any]:
    with suppress(ModelError, OSError, KeyError):
        path = model_of(path)
        if path.is_file():
            return ModelFile(name, str(path), archive.read_file(path, name)).json()
        return ModelFile.read(path, name, str(path)).json()
    return {}


def load_folder(root: Path, path: Path) -> Model:
    """Load the model folder `root`, which the user knows as `path`."""
    where = str(path)
    card_file = ModelFile.read(root, "model.json", where)
    card = card_from_json(card_file.json(), where)
    on_disk = {file.relative_to(root).as_posix() for file in root.glob("fold_*/weights.safetensors")}
    needed = {"plans.json", "dataset.json"}
    for name in sorted((on_disk | needed) - set(card.files)):
        raise ModelError(f"{where} uses {name}, which its model.json does not list; export the model again.")
    read = {}
    for name, expected in card.files.items():
        if not (root / name).is_file():
            raise ModelError(f"{where} lacks {name}, which its model.json lists; copy or download the model again.")
        if name in needed:
            read[name] = ModelFile.read(root, name, where)
        # Weights are read later, and must still have this SHA-256 then.
        if (read[name].sha256 if name in needed else file_digest(root / name)) != expected:
            raise ModelError(
                f"{name} in {where} has been changed or damaged (its SHA-256 is not the one in model.json); "
                "copy or download the model again."
            )
    sources: dict[Fold, Path] = {}
    for name in card.files:
        fold = MODEL_FILE.fullmatch(name)["fold"]  # type: ignore[index]
        if fold is not None:
            sources["all" if fold == "all" else int(fold)] = root / name
    if not sources:
        raise ModelError(f"{where} lists no weights in its model.json; export the model again.")
    plans, dataset = read["plans.json"].json(), read["dataset.json"].json()
    _check_card_fits(card, plans, dataset, where)
    return Model(card, plans, dataset, path, sources, card.files | {card_file.name: card_file.sha256})


def _check_card_fits(card: ModelCard, plans: dict[str, Any], dataset: dict[str, Any], where: str) -> None:
    planned = check_plans(plans, card.configuration)
    if previous_stage(planned):
        raise ModelError(f"{where} is the second stage of a cascade without the first; use nnU-Net's training folders.")
    names = check_dataset(dataset, len(planned["normalization_schemes"]))
    labels = {label.value: label.name for label in card.labels}
    covered = {label.value: label.covers for label in card.labels if label.covers}
    if list(labels.items()) != list(names.items()) or covered != covered_values(dataset):
        raise ModelError(
            f"The labels in model.json of {where} ({', '.join(labels.values())}) are not those in dataset.json "
            f"({', '.join(names.values())}); export the model again."
        )
    spacing = image_spacing(plans, planned)
    if any(abs(a - b) > 1e-3 for a, b in zip(card.spacing, spacing, strict=True)):
        raise ModelError(f"The spacing in model.json of {where} is not that of plans.json; export the model again.")


def _name_of(source: Path) -> str:
    """Return a weights file's name in its model."""
    return f"{source.parent.name}/{source.name}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report what the system says about reading a model."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror or error}.") from error


def _no_model(path: Path) -> ModelError:
    if not path.exists():
        return ModelError(f"There is no model at {path}; check the path.")
    if missing := lacks(path):
        return ModelError(f"{path} is a training folder of nnU-Net without {' and '.join(missing)}; copy all of it.")
    return ModelError(
        f"{path} has no model.json; choose a model folder or zip made by `mob-uncertainty export`, "
        "or a training folder of nnU-Net."
    )
