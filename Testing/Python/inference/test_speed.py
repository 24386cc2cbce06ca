"""What head and moments cost beside the backbone: networks of real size, so slow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MoBUncertaintyLib.inference.engines import TorchEngine
from MoBUncertaintyLib.inference.sliding_window import Placement, SlidingWindow
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.network.backbone import build_network
from MoBUncertaintyLib.regions.prediction import Precision
from support.tiny import CONFIGURATION, make_dataset, make_plans


def head_share(
    features: tuple[int, ...], blocks: tuple[int, ...], patch: tuple[int, ...], samples: int | None
) -> float:
    """Seconds of head and moments over those of the backbone, one tile, both in fp32."""
    plans, stages = make_plans(patch=patch), len(features)
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"].update(
        n_stages=stages,
        features_per_stage=list(features),
        kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        n_blocks_per_stage=list(blocks),
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )
    network = build_network(plans, make_dataset(), CONFIGURATION, CovarianceSpec()).eval()
    cpu = torch.device("cpu")
    data = np.random.default_rng(0).standard_normal((1, *patch)).astype(np.float32)
    seconds = []
    for _ in range(4):
        window = SlidingWindow(TorchEngine(lambda _: network, 2, samples), Placement(cpu, cpu, Precision.FLOAT32))
        window.run(data, patch, [0])
        seconds.append(window.seconds)
    # The least of several, since whatever else the computer does only adds.
    return min(s["moments"] for s in seconds) / min(s["network"] for s in seconds)


@pytest.mark.slow
def test_head_and_closed_form_cost_a_tenth_of_a_small_backbone_and_a_fiftieth_of_a_large_one() -> None:
    small = head_share((16, 32, 64, 96), (1, 1, 2, 2), (48, 64, 64), None)
    large = head_share((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6), (96, 96, 96), None)
    print(f"small {small:.3f}, large {large:.3f}")
    assert small <= 0.10
    assert large <= 0.02
