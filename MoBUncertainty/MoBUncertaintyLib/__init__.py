"""Covariance models on nnU-Net: prediction, and review of doubtful regions.

The names below are imported when they are first used, so that what needs no torch works without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.version import __version__ as __version__

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.dose import read_dose
    from MoBUncertaintyLib.images.reader import read_image
    from MoBUncertaintyLib.inference.predictor import predict
    from MoBUncertaintyLib.model.folder import load_model
    from MoBUncertaintyLib.model.listing import find_model
    from MoBUncertaintyLib.pipeline.cases import check
    from MoBUncertaintyLib.regions.finder import find_regions
    from MoBUncertaintyLib.regions.measurements import measure
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

__all__ = [
    "PredictionSettings", "check", "find_model", "find_regions", "load_model", "measure", "predict", "read_dose",
    "read_image",
]  # fmt: skip

_MODULES = {
    "PredictionSettings": "regions.prediction",
    "check": "pipeline.cases",
    "find_model": "model.listing",
    "find_regions": "regions.finder",
    "load_model": "model.folder",
    "measure": "regions.measurements",
    "predict": "inference.predictor",
    "read_dose": "images.dose",
    "read_image": "images.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
