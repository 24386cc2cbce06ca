"""Write models, and export nnU-Net's training folders and other models; complete or not at all.

A model has the graph of its network, with which it runs without PyTorch, unless OpenVINO does not know an operator.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ModelError, OutputError, UserError, is_out_of_memory
from MoBUncertaintyLib.base.integrity import file_digest
from MoBUncertaintyLib.base.names import is_unicode, printable
from MoBUncertaintyLib.base.packages import check_pytorch
from MoBUncertaintyLib.base.publishing import absolute, reserve
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.card import GRAPH, Fold, ModelCard
from MoBUncertaintyLib.model.click_trees import TREES_FILE
from MoBUncertaintyLib.model.files import ModelFiles
from MoBUncertaintyLib.model.folder import Model, load_folder, load_model
from MoBUncertaintyLib.model.graph import is_wanted, openvino_reason
from MoBUncertaintyLib.model.weights import write_weights

if TYPE_CHECKING:
    from torch import Tensor

# Lists of training files name patients and machines; inference does not need them.
PRIVATE_DATASET_KEYS = ("dataset", "training", "validation", "test")


def export(
    source: Path | str,
    output: Path | str,
    *,
    folds: Sequence[Fold] | None = None,
    temperature: float = 1.0,
    half: bool | None = False,
    **entries: Any,
) -> Model:
    """Export nnU-Net's training folder, stock or fine-tuned, or another model, to a model folder (or `.zip`).

    Args:
        source: Holds `plans.json`, `dataset.json` and `fold_K/checkpoint_*.pth`; or a model folder or zip.
        output: Must not exist.
        folds: Folds to export; default: all numbered folds that are trained, or all of a model.
        temperature: The logits are divided by it, besides what the source may have done.
        half: Store the weights as float16; None is as the source does.
        entries: Attributes of the card in place of the source's, unless they are None; `training` is added to it.

    Raises:
        ModelError: The source cannot be used.
        OutputError: The output exists already or cannot be written.
    """
    check_pytorch("An export")
    model = load_model(source, folds)
    check_exportable(model)
    training = model.card.training
    divided = {} if temperature == 1 else {"temperature": training.get("temperature", 1.0) * temperature}
    entries["training"] = training | divided | (entries.get("training") or {})
    try:
        card = replace(model.card, **{name: value for name, value in entries.items() if value is not None})
    except ValueError as error:
        raise ModelError(f"The model cannot be exported: {error}.") from error
    from MoBUncertaintyLib.network.backbone import divide_logits, fitting_weights, load_network, planned_network

    network, chosen = planned_network(model), folds or model.folds
    if half is None:
        half = is_half(fitting_weights(network, model, chosen[0]))

    def weights_of(fold: Fold) -> Mapping[str, Tensor]:
        if temperature == 1:
            return fitting_weights(network, model, fold)
        loaded = load_network(model, fold)
        divide_logits(loaded, temperature)
        return loaded.state_dict()

    return write_model(output, card, model.plans, model.dataset, ((fold, weights_of(fold)) for fold in chosen), half)


def write_model(
    target: Path | str,
    card: ModelCard,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    weights: Iterable[tuple[Fold, Mapping[str, Tensor]]],
    half: bool = False,
) -> Model:
    """Write a model folder, or a zip if the name ends in `.zip`; complete or not at all.

    Args:
        target: Must not exist.
        card: The card; its `files` are filled in.
        plans, dataset: Content of nnU-Net's files; lists of training files are left out.
        weights: Pairs of a fold and its state dict, with the keys of `StochasticNetwork`.
        half: Store the weights as float16.

    Raises:
        ModelError: The parts do not make a valid model.
        OutputError: The target exists already or cannot be written.
    """
    target = Path(target)
    # What model.json states must be stated there alone.
    plans = {key: value for key, value in plans.items() if key not in ("covariance", "finetuning")}
    dataset = {key: value for key, value in dataset.items() if key not in PRIVATE_DATASET_KEYS}
    with _published(target) as partial:
        folder = partial / "model" if target.suffix == ".zip" else partial
        try:
            folder.mkdir(exist_ok=True)
            (folder / "plans.json").write_text(json.dumps(plans, indent=1), encoding="utf-8")
            text = json.dumps(dataset, indent=1, ensure_ascii=False)
            (folder / "dataset.json").write_text(text, encoding="utf-8")
            files = ["plans.json", "dataset.json"]
            if trees := card.click_settings.learned:
                files.append(TREES_FILE)
                (folder / TREES_FILE).write_bytes(trees.content)
            for fold, state in weights:
                files.append(f"fold_{fold}/weights.safetensors")
                (folder / f"fold_{fold}").mkdir()
                write_weights(folder / files[-1], dict(state), half)
            model = _described(target, folder, card, files)
            graphs, problem = _write_graphs(folder, model)
            if graphs:
                files += graphs
                _described(target, folder, card, files)
            if folder != partial:
                archive.pack(folder, ["model.json", *files], partial / target.name)
        except (ValueError, TypeError) as error:
            raise ModelError(f"The model cannot be written: {error}.") from error
    warning = f"The model has no graph of its network, and so needs PyTorch: {problem}."
    return replace(load_model(target), warnings=(warning,) if problem else ())


def _described(target: Path, folder: Path, card: ModelCard, files: Sequence[str]) -> Model:
    """Write the card of the files in a folder that will be `target`, and check all of them."""
    card = replace(card, files={name: file_digest(folder / name) for name in files})
    (folder / "model.json").write_text(card.to_json(), encoding="utf-8")
    return load_folder(ModelFiles(target, folder, trained=False))


def _write_graphs(folder: Path, model: Model) -> tuple[list[str], str]:
    """Write the graph of each fold of a model in a folder; return their names, or none and the reason."""
    if not is_wanted():
        return [], "OpenVINO is not installed, or MOB_UNCERTAINTY_ENGINE leaves it out"
    from MoBUncertaintyLib.network.tracing import traced

    texts = {}
    for fold in model.folds:
        try:
            texts[f"fold_{fold}/{GRAPH}"] = json.dumps(
                traced(model, fold).content, separators=(",", ":"), allow_nan=False
            )
        except Exception as error:  # OpenVINO's own, on what it does not know
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            return [], f"OpenVINO cannot convert it ({openvino_reason(error)})"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return list(texts), ""


def is_half(weights: Mapping[str, Tensor]) -> bool:
    """Whether float16 holds all weights as they are."""
    return all(bool((weight == weight.half()).all()) for weight in weights.values() if weight.is_floating_point())


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside `target` to write to; at the end it, or the zip in it, becomes `target`."""
    if not is_unicode(str(target.absolute())):
        raise OutputError(f"{printable(str(target))} is not a name in UTF-8; choose another name.")
    check_new(target)
    try:
        with reserve(absolute(target)) as reservation:
            check_new(target)
            reservation.partial.mkdir()
            yield reservation.partial
            reservation.publish_new(target.name if target.suffix == ".zip" else "")
    except OSError as error:
        check_new(target)
        raise OutputError(f"The model cannot be written to {target}: {error.strerror or error}.") from error


def check_exportable(model: Model) -> None:
    """Refuse a model of which no model folder can be made.

    Raises:
        ModelError: It is a cascade.
    """
    if model.first_stage:
        raise ModelError(
            f"{model.path} is the second stage of a cascade, and a model folder holds one network; use nnU-Net's "
            "training folders as they are."
        )


def check_new(target: Path) -> None:
    """Refuse to write a model where something is.

    Raises:
        OutputError: Something is there.
    """
    if os.path.lexists(target):
        raise OutputError(f"{target} exists already; choose another name or delete it.")
