"""Check nnU-Net's `dataset.json`, which comes from others: the images of a case, and what is segmented in them."""

from __future__ import annotations

from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import is_whole


def check_dataset(
    dataset: dict[str, Any], channels: int | None = None
) -> tuple[dict[int, str], dict[int, tuple[int, ...]]]:
    """Refuse data sets that are malformed, or have another number of input channels than the plans, if given.

    Returns:
        Label value -> name of the foreground classes, in the order of the network's output. The values are 1, 2, ...
        or, where labels are regions that overlap, nnU-Net's `regions_class_order`. And label value -> values that it
        covers, empty where labels do not overlap.

    Raises:
        ModelError: It is so; the message says what.
    """
    named = len(channel_names(dataset))
    if channels not in (None, named):
        raise ModelError(
            f"dataset.json names {named} input channels, but plans.json is for {channels}; export the model again."
        )
    labels = dataset.get("labels")
    if not isinstance(labels, dict):
        raise ModelError("dataset.json does not name the labels; export the model again.")
    if has_regions(dataset):
        regions, order = _regions(labels), dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(regions) or len(set(map(str, order))) < len(regions):
            raise ModelError(
                "dataset.json must give each of its overlapping labels a value of its own in 'regions_class_order'; "
                "export the model again."
            )
        if not all(value in covered for value, covered in zip(order, regions.values(), strict=True)):
            raise ModelError(
                "The values in 'regions_class_order' of dataset.json must be among those of their labels; export the "
                "model again."
            )
        return dict(zip(order, regions, strict=True)), dict(zip(order, regions.values(), strict=True))
    if not all(map(is_whole, labels.values())):
        raise ModelError("The label values in dataset.json are not whole numbers; export the model again.")
    values = {name: value for name, value in labels.items() if name != "ignore"}
    foreground = {value: name for name, value in sorted(values.items(), key=lambda item: item[1]) if value != 0}
    consecutive = sorted(labels.values()) == list(range(len(labels))) and labels.get("ignore") in (None, len(values))
    if values.get("background") != 0 or not consecutive or not 1 <= len(foreground) <= 255:
        raise ModelError(
            "The labels in dataset.json must be background = 0 and then 1, 2, ..., with ignore as the last if there is "
            "such a label; export the model again."
        )
    return foreground, {}


def has_regions(dataset: dict[str, Any]) -> bool:
    """Whether labels of a data set stand for several values and so may overlap: nnU-Net's region-based training."""
    labels = dataset.get("labels")
    values = labels.values() if isinstance(labels, dict) else ()
    return any(isinstance(value, list) and len(value) > 1 for value in values)


def label_values(dataset: dict[str, Any]) -> tuple[int, ...]:
    """Return the values of a checked data set's label map that a second stage takes, in its order."""
    labels = {name: value for name, value in dataset["labels"].items() if name not in ("background", "ignore")}
    every = [value if isinstance(value, list) else [value] for value in labels.values()]
    return tuple(sorted({value for values in every for value in values}))


def _regions(labels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the values of each foreground label where labels overlap, in the order of the network's output."""
    if labels.get("background") != 0:
        raise ModelError("The background in dataset.json must have the value 0; export the model again.")
    regions = {}
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or not all(is_whole(number) and 0 <= number <= 255 for number in values):
            raise ModelError(
                "The label values in dataset.json are not whole numbers from 0 to 255; export the model again."
            )
        if name not in ("background", "ignore"):
            if 0 in values:
                raise ModelError(
                    f"The label {name[:80]!r} in dataset.json contains background; export the model again."
                )
            regions[name] = values
    ignored, largest = labels.get("ignore"), max((value for values in regions.values() for value in values), default=0)
    if not regions or ignored not in (None, largest + 1):
        raise ModelError("The label 'ignore' in dataset.json must be the last; export the model again.")
    return regions


def channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the input channels, in order; raises `ModelError` unless they are different texts."""
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
