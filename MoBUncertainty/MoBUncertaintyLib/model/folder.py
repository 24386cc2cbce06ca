"""Open models; `network.export` writes them, `listing` finds them.

A model folder holds `model.json` (the card), nnU-Net's `plans.json` and `dataset.json`, and
`fold_K/weights.safetensors` with `graph.json`, the network as data. A zip of it, and nnU-Net's own training folder, are
models too. Nothing in them is executed. Only a training folder, or weights as tensors, need torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.card import GRAPH, MODEL_FILE, Fold, ModelCard, card_from_json, overlap
from MoBUncertaintyLib.model.click_trees import TREES_FILE, TREES_LIMIT, ClickTrees
from MoBUncertaintyLib.model.files import DESCRIPTIONS, ModelFile, ModelFiles
from MoBUncertaintyLib.model.graph import Graph, output_shapes
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset, label_values
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing, is_cubic, previous_stage, resolve
from MoBUncertaintyLib.model.nnunet.training_folder import open_training_folder
from MoBUncertaintyLib.model.weights import WEIGHTS_LIMIT, read_checkpoint, read_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Model:
    """A checked model, its weights still on disk."""

    card: ModelCard
    plans: dict[str, Any]  # content of `plans.json`, checked by `check_plans`
    dataset: dict[str, Any]  # content of `dataset.json`, checked by `check_dataset`
    weights: Mapping[Fold, str]  # name of the weights file of each fold
    files: ModelFiles
    first_stage: Model | None = None  # of a cascade, if this is the second: its label map is a further input
    warnings: tuple[str, ...] = ()  # sentences for the user on how it was written

    @property
    def path(self) -> Path:
        """Path that the user gave: of a model folder, a zip, or nnU-Net's training folder."""
        return self.files.path

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
        return tuple(self.weights)

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The configuration in `plans.json`, with what it inherits."""
        return resolve(self.plans, self.card.configuration)

    @property
    def tile(self) -> tuple[int, ...]:
        """Voxels of a tile along the network's axes."""
        return tuple(self.configuration["patch_size"])

    @property
    def is_light(self) -> bool:
        """Whether it can be used without PyTorch and nnU-Net."""
        return is_light(self.card, self.plans)

    @property
    def output_shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of what a graph of its network puts out."""
        labels = self.card.labels
        return output_shapes(self.card.covariance, len(labels) + 1, self.tile, overlap(labels))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `model.json`, which holds that of every other file, or of what a training folder's would say."""
        if not self.files.trained:
            return self.files.digests["model.json"]
        for name in self.weights.values():
            self.files.digest_of(name)
        first = {"first_stage": self.first_stage.digest} if self.first_stage else {}
        content = asdict(self.card) | {"files": self.files.digests} | first
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def state_dict(self, fold: Fold) -> dict[str, Tensor]:
        """Read the weights of one fold, float32, with the keys of `StochasticNetwork`.

        Raises `ModelError` if there is no such fold, or its file is damaged, unsafe or changed since.
        """
        file = self._weights_file(fold)
        if not self.files.trained:
            import torch

            arrays = read_weights(file)
            tensors = {id(array): torch.from_numpy(array) for array in arrays.values()}
            return {name: tensors[id(array)] for name, array in arrays.items()}
        checkpoint = read_checkpoint(file)
        if checkpoint.configuration != self.card.configuration:
            raise ModelError(f"The folds of {self.path} have different configurations; train them with the same one.")
        return checkpoint.weights

    def graph(self, fold: Fold) -> Graph | None:
        """Read the graph of one fold, if the model has graphs; errors as for `state_dict`."""
        name = f"fold_{fold}/{GRAPH}"
        if name not in self.card.files:
            return None
        file, weights = self.files.read(name), read_weights(self._weights_file(fold))
        return Graph(str(file), file.json(), weights, self.output_shapes)

    def _weights_file(self, fold: Fold) -> ModelFile:
        if fold not in self.weights:
            there_are = ", ".join(map(str, self.folds))
            raise ModelError(f"{self.path} has no fold {fold} (there is: {there_are}).")
        return self.files.read(self.weights[fold], WEIGHTS_LIMIT)


def is_light(card: ModelCard, plans: dict[str, Any]) -> bool:
    """Whether a model can be used without PyTorch and nnU-Net: it has graphs, and images are resampled as usual.

    Raises `ModelError` if the plans do not have the card's configuration.
    """
    planned = resolve(plans, card.configuration)
    weights = [name for name in card.files if MODEL_FILE.fullmatch(name)["weights"]]  # type: ignore[index]
    graphs = all(name.replace("weights.safetensors", GRAPH) in card.files for name in weights)
    return bool(weights) and graphs and is_cubic(planned["resampling_fn_data"], planned["resampling_fn_data_kwargs"])


def load_model(path: Path | str, folds: Sequence[Fold] | None = None) -> Model:
    """Open a model folder, a zipped model or nnU-Net's training folder, and check all but the weights' values.

    Args:
        path: Path of the model, or of one of its files.
        folds: Of a training folder. Default: all that are trained.

    Raises:
        ModelError: It is not a model, or damaged, altered or unsafe.

    Example:
        >>> from MoBUncertaintyLib import find_model, load_model
        >>> model = load_model(find_model("PhantomPancreas"))
        >>> model.card.covariance.kind.value, [label.name for label in model.card.labels]
        ('single-basis', ['pancreas'])
    """
    files = ModelFiles.of(path)
    if not files.trained:
        return load_folder(files)
    card, plans, dataset, weights = open_training_folder(files, folds)
    model = Model(card, plans, dataset, weights, files)
    previous = previous_stage(plans, card.configuration)
    if previous is None:
        return model
    first_files = files.first_stage(previous)
    first = Model(*open_training_folder(first_files), first_files)
    if first.card.configuration != previous or previous_stage(first.plans, previous):
        raise ModelError(f"{first.path} is not of the configuration {previous}; train the cascade again.")
    if (first.card.labels, first.channels) != (card.labels, model.channels):
        raise ModelError(
            f"The two stages of the cascade {files.path} have different labels or input channels; train them alike."
        )
    return replace(model, first_stage=first)


def read_card(path: Path | str) -> ModelCard:
    """Read a model's card alone, for which a training folder needs torch; raises `ModelError`."""
    files = ModelFiles.of(path)
    if files.trained:
        return open_training_folder(files)[0]
    return card_from_json(files.read("model.json").json(), str(files.path))


def load_folder(files: ModelFiles) -> Model:
    """Load a model folder; raises `ModelError` if it is damaged, altered or unsafe."""
    where = str(files.path)
    card = card_from_json(files.read("model.json").json(), where)
    of_folds = ("/weights.safetensors", f"/{GRAPH}")
    needed = {*DESCRIPTIONS, *(name for name in files.names if name.endswith(of_folds) or name == TREES_FILE)}
    for name in sorted(needed - set(card.files)):
        raise ModelError(f"{where} uses {name}, which its model.json does not list; export the model again.")
    for name, digest in card.files.items():
        if name not in files.names:
            raise ModelError(f"{where} lacks {name}, which its model.json lists; copy or download the model again.")
        if files.digest_of(name) != digest:
            raise ModelError(
                f"{name} in {where} has been changed or damaged (its SHA-256 is not the one in model.json); "
                "copy or download the model again."
            )
    folds = {name: MODEL_FILE.fullmatch(name)["weights"] for name in card.files}  # type: ignore[index]
    weights: dict[Fold, str] = {fold if fold == "all" else int(fold): name for name, fold in folds.items() if fold}
    if not weights:
        raise ModelError(f"{where} lists no weights in its model.json; export the model again.")
    planned = check_plans(files.plans, card.configuration)
    if previous_stage(files.plans, card.configuration):
        raise ModelError(f"{where} is the second stage of a cascade without the first; use nnU-Net's training folders.")
    spacing = image_spacing(files.plans, planned)
    names, covers = check_dataset(files.dataset, len(planned["normalization_schemes"]))
    labels = {label.value: label.name for label in card.labels}
    covered = {label.value: label.covers for label in card.labels if label.covers}
    if list(labels.items()) != list(names.items()) or covered != covers:
        raise ModelError(
            f"The labels in model.json of {where} ({', '.join(labels.values())}) are not those in dataset.json "
            f"({', '.join(names.values())}); export the model again."
        )
    if any(abs(a - b) > 1e-3 for a, b in zip(card.spacing, spacing, strict=True)):
        raise ModelError(f"The spacing in model.json of {where} is not that of plans.json; export the model again.")
    if TREES_FILE in card.files:
        learned = ClickTrees.read(files.read(TREES_FILE, TREES_LIMIT).content)
        card = replace(card, click_settings=replace(card.click_settings, learned=learned))
    return Model(card, files.plans, files.dataset, weights, files)
