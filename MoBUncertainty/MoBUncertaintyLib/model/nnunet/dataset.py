"""Check nnU-Net's `dataset.json`, which comes from others: the images of a case, and what is segmented in them."""

from __future__ import annotations

from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import is_whole


def check_dataset(
    dataset: dict[str, Any], channels: int | None = None
) -> tuple[dict[int, str], dict[int, tuple[int, ...]]]:
    """Raise `ModelError` for a data set that is malformed, or has another number of input channels than is given.

    Returns:
        Label value -> name of the foreground classes, in the order of the network's output. The values are 1, 2, ...
        or, where labels are regions that overlap, nnU-Net's `regions_class_order`. And label value -> values that it
        covers, empty where labels do not overlap.
    """
    named = len(channel_names(dataset))
    _require(channels in (None, named), f"dataset.json names {named} input channels, but plans.json is for {channels}")
    labels: Any = dataset.get("labels")
    _require(isinstance(labels, dict), "dataset.json does not name the labels")
    if has_regions(dataset):
        regions, order = _regions(labels), dataset.get("regions_class_order")
        _require(
            isinstance(order, list) and len(order) == len(regions) == len(set(map(str, order))),
            "dataset.json must give each of its overlapping labels a value of its own in 'regions_class_order'",
        )
        assert isinstance(order, list)
        _require(
            all(value in covered for value, covered in zip(order, regions.values(), strict=True)),
            "The values in 'regions_class_order' of dataset.json must be among those of their labels",
        )
        return dict(zip(order, regions, strict=True)), dict(zip(order, regions.values(), strict=True))
    _require(all(map(is_whole, labels.values())), "The label values in dataset.json are not whole numbers")
    values = {name: value for name, value in labels.items() if name != "ignore"}
    foreground = {value: name for name, value in sorted(values.items(), key=lambda item: item[1]) if value != 0}
    consecutive = sorted(labels.values()) == list(range(len(labels))) and labels.get("ignore") in (None, len(values))
    _require(
        values.get("background") == 0 and consecutive and 1 <= len(foreground) <= 255,
        "The labels in dataset.json must be background = 0 and then 1, 2, ..., with ignore as the last if there is "
        "such a label",
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
    _require(labels.get("background") == 0, "The background in dataset.json must have the value 0")
    covered = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in labels.items()}
    _require(
        all(values and all(is_whole(n) and 0 <= n <= 255 for n in values) for values in covered.values()),
        "The label values in dataset.json are not whole numbers from 0 to 255",
    )
    regions = {name: values for name, values in covered.items() if name not in ("background", "ignore")}
    for name, values in regions.items():
        _require(0 not in values, f"The label {name[:80]!r} in dataset.json contains background")
    ignored, largest = labels.get("ignore"), max((value for values in regions.values() for value in values), default=0)
    _require(bool(regions) and ignored in (None, largest + 1), "The label 'ignore' in dataset.json must be the last")
    return regions


def channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the input channels, in order; raises `ModelError` unless they are different texts."""
    channels: Any = dataset.get("channel_names")
    _require(isinstance(channels, dict) and bool(channels), "dataset.json does not name the input channels")
    numbers = [str(number) for number in range(len(channels))]
    _require(set(channels) == set(numbers), "The input channels in dataset.json are not numbered 0, 1, ...")
    names = tuple(channels[number] for number in numbers)
    _require(all(isinstance(name, str) for name in names), "The name of an input channel in dataset.json is not text")
    if len({name.casefold() for name in names}) < len(names):
        raise ModelError("Two input channels in dataset.json have the same name; name them differently.")
    return names


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ModelError(f"{problem}; export the model again.")
