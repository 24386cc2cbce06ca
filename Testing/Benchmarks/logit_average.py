"""Predict as we do, but average logits over tiles and folds, as nnU-Net does, where we average probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from MoBUncertaintyLib.inference.engines import TorchEngine
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.sliding_window import Placement, SlidingWindow
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.network.moments import Moments
from MoBUncertaintyLib.regions.prediction import Precision


class Logits(TorchEngine):
    """Gives the mean logits of a tile where others give the moments of the probabilities."""

    def moments(self, output: tuple[Tensor, ...], generator: torch.Generator) -> Moments:
        mean = self.gaussian(output).mean
        return Moments(mean, torch.zeros_like(mean))


def predict_logits(predictor: Predictor, image: sitk.Image, channels: Mapping[str, sitk.Image]) -> np.ndarray:
    """Return the label map (z, y, x) of logits that were averaged and resampled; on the CPU, all tiles.

    Of a cascade both stages.
    """
    first = predict_logits(predictor.first_stage, image, channels) if predictor.first_stage else None
    labels = predictor.model.card.labels
    overlapping = overlap(labels)
    classes = len(labels) + (not overlapping)
    engine = Logits(predictor.network_of, classes + 1, overlapping=overlapping)  # none of them is left out
    cpu = torch.device("cpu")
    window = SlidingWindow(engine, Placement(cpu, cpu, Precision.FLOAT32))
    case = predictor.prepare(image, channels, labels=first)
    mean, _ = window.run(case.data, predictor.tile, predictor.folds)
    found = np.zeros(image.GetSize()[::-1], np.uint8)
    for plane, logits in zip(case.view(found), case.planes(mean), strict=True):
        if overlapping:
            for label, each in zip(labels, logits, strict=True):
                plane[each > 0] = label.value
        else:
            plane[:] = logits.argmax(axis=0)
    return found
