"""Check nnU-Net's `dataset.json`, which comes from others: the images of a case, and what is segmented in them."""

from __future__ import annotations

from typing import Any

from MoBUncertaintyLib.errors import ModelError
from MoBUncertaintyLib.files.json_input import is_whole


def check_dataset(dataset: dict[str, Any], channels: int | None = None) -> dict[int, str]:
    """Refuse data sets that are malformed, or have overlapping classes.

    Args:
        dataset: Content of `dataset.json`.
        channels: Number of input channels in the plans; None: not compared.

    Returns:
        Label value -> name of the foreground classes, in order; the values are 1, 2, ...

    Raises:
        ModelError: It is so; the message says what.
    """
    stated = len(channel_names(dataset))
    if channels not in (None, stated):
        raise ModelError(
            f"dataset.json names {stated} input channels, but plans.json is for {channels}; export the model again."
        )
    labels = dataset.get("labels")
    if not isinstance(labels, dict):
        raise ModelError("dataset.json does not name the labels; export the model again.")
    if any(isinstance(value, list) for value in labels.values()):
        raise ModelError("The model predicts overlapping regions; MoB Uncertainty works with exclusive labels.")
    values = {name: value for name, value in labels.items() if name != "ignore"}
    if not all(map(is_whole, labels.values())):
        raise ModelError("The label values in dataset.json are not whole numbers; export the model again.")
    foreground = {value: name for name, value in sorted(values.items(), key=lambda item: item[1]) if value != 0}
    consecutive = sorted(labels.values()) == list(range(len(labels))) and labels.get("ignore") in (None, len(values))
    if values.get("background") != 0 or not consecutive or not 1 <= len(foreground) <= 255:
        raise ModelError(
            "The labels in dataset.json must be background = 0 and then 1, 2, ..., with ignore as the last if there is "
            "such a label; export the model again."
        )
    return foreground


def channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the input channels, in order.

    Raises:
        ModelError: They are missing, not text, or not different.
    """
    channels = dataset.get("channel_names")
    if not isinstance(channels, dict) or not channels:
        raise ModelError("dataset.json does not name the input channels; export the model again.")
    if set(channels) != {str(number) for number in range(len(channels))}:
        raise ModelError("The input channels in dataset.json are not numbered 0, 1, ...; export the model again.")
    names = tuple(channels[str(number)] for number in range(len(channels)))
    if not all(isinstance(name, str) for name in names):
        raise ModelError("The name of an input channel in dataset.json is not text; export the model again.")
    if len({name.casefold() for name in names}) < len(names):
        raise ModelError("Two input channels in dataset.json have the same name; name them differently.")
    return names
