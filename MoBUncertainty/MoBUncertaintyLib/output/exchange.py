"""A prediction and its regions as a JSON object with arrays beside it.

That is what the worker answers with, what an export is asked for with, and what a scene is made from and keeps.

Entry            Content
---------------  ------------------------------------------------------------------------------------------------
`segmentation`   array, uint8 (z, y, x)
`probability`    array, float32 (z, y, x), by the label's value
`variance`       likewise
`region_map`     array, uint16 (z, y, x): the number of each voxel's region
`labels`         of the segmentation
`regions`        in order of rank
`provenance`     as in `prediction.json`, warnings and settings of clicks included
`seconds`        that each stage took
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import Grid, whole
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.results_record import RecordError, prediction_of, read_labels, record_of
from MoBUncertaintyLib.regions.prediction import Maps, Prediction
from MoBUncertaintyLib.regions.region import Region, Regions

Fields = dict[str, Any]

KEPT = ("labels", "regions", "provenance", "seconds")
"""What a scene keeps as JSON; its nodes hold the rest."""


def write_maps(prediction: Prediction, save: Callable[[str, np.ndarray], Any]) -> Fields:
    """Make the entries that hold the prediction's arrays.

    Args:
        prediction: The prediction.
        save: Keeps an array under a name; what it returns, such as a file's path, stands in the array's place.
    """

    def by_label(kind: str, maps: Maps) -> dict[str, Any]:
        named = zip(prediction.labels, maps, strict=True)
        return {str(label.value): save(f"{kind}_{label.value}", each) for label, each in named}

    return {
        "segmentation": save("segmentation", prediction.segmentation),
        "probability": by_label("probability", prediction.probability),
        "variance": by_label("variance", prediction.variance),
    }


def write_prediction(prediction: Prediction, regions: Regions, save: Callable[[str, np.ndarray], Any]) -> Fields:
    """Make all entries; arguments as for `write_maps`."""
    maps = write_maps(prediction, save) | {"region_map": save("region_map", regions.whole_map())}
    kept = {
        "labels": [asdict(label) for label in prediction.labels],
        "regions": [asdict(region) for region in regions.ranked],
        "provenance": record_of(prediction),
        "seconds": prediction.timings,
    }
    plain: Fields = json.loads(json.dumps(kept))
    return maps | plain  # tuples become lists, as they do on their way


def read_prediction(
    fields: Mapping[str, Any], grid: Grid, load: Callable[[Any], np.ndarray] = np.asarray
) -> Prediction:
    """Read the prediction, strictly.

    Args:
        fields: With all arrays of the prediction; `regions` and `region_map` are not needed.
        grid: Where the voxels lie.
        load: Makes an array of what stands in its place.

    Raises:
        RecordError: Something is missing or not as it should be; a phrase.
        ImageError: The arrays do not fit each other.
    """
    try:
        values = [str(label.value) for label in read_labels(fields["labels"])]
        probability, variance = (
            [load(fields[kind][value]) for value in values] for kind in ("probability", "variance")
        )
        return make_prediction(fields, load(fields["segmentation"]), probability, variance, grid)
    except KeyError as error:
        raise RecordError(f"it lacks {error}") from error


def make_prediction(
    kept: Mapping[str, Any], segmentation: np.ndarray, probability: Maps, variance: Maps, grid: Grid
) -> Prediction:
    """Make the prediction of what a scene keeps of it, and of its arrays; errors as for `read_prediction`."""
    try:
        record, labels = kept["provenance"], read_labels(kept["labels"])
    except KeyError as error:
        raise RecordError(f"it lacks {error}") from error
    prediction = prediction_of(record, labels, (segmentation, probability, variance), grid)
    return prediction.annotated(timings=kept.get("seconds", {}))


def read_regions(kept: Mapping[str, Any], region_map: np.ndarray, settings: RegionSettings) -> Regions:
    """Read the regions with their map, as they were written; they were found with the prediction's settings."""
    ranked = tuple(map(Region.from_dict, kept["regions"]))
    return Regions(ranked, region_map, whole(region_map.shape), region_map.shape, settings)
