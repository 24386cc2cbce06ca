"""Measure how well samples keep the probability that a head with `--keep-probability` states.

    python Testing/Benchmarks/kept_probability.py MODEL PREPROCESSED [--cases 3] [--samples 1500]

MODEL is the training folder of a fine-tuning, PREPROCESSED its data set in nnU-Net's preprocessed folder. Of the first
validation cases random voxels in doubt are taken from each tile: their most probable class has less than 0.999.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from mob_training.training.planning import CONFIGURATION
from mob_training.training.temperature import cover_with_tiles
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network.backbone import load_network

OF_A_TILE = 3000
DOUBT = 0.999


def errors_of_tile(gaussian, samples: int, generator: torch.Generator) -> torch.Tensor:
    """Compute by how much the mean of samples misses the stated probability, the largest of the classes, (N,)."""
    stated = gaussian.logits[0].flatten(1).softmax(dim=0)
    doubtful = (stated.amax(dim=0) < DOUBT).nonzero()[:, 0]
    at = doubtful[torch.randperm(len(doubtful), generator=generator)[:OF_A_TILE]]
    mean, covariance = gaussian.mean[0].flatten(1)[:, at], gaussian.marginal_covariance()[0].flatten(2)[..., at]
    factor = torch.linalg.cholesky(covariance.movedim(-1, 0).double() + 1e-6 * torch.eye(len(mean))).float()
    drawn = torch.zeros_like(mean)
    for _ in range(samples):
        noise = torch.randn((len(at), len(mean), 1), generator=generator)
        drawn += (mean + (factor @ noise)[..., 0].T).softmax(dim=0) / samples
    return (drawn - stated[:, at]).abs().amax(dim=0)


def main(
    model: Path,
    preprocessed: Path,
    cases: Annotated[int, typer.Option(min=1, max=1000)] = 3,
    samples: Annotated[int, typer.Option(min=2, max=10**6)] = 1500,
) -> None:
    """Print the errors over all tiles."""
    found = load_model(model)
    network = load_network(found, found.folds[0]).eval()
    (split,) = json.loads((preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    planned = found.plans["configurations"][CONFIGURATION]
    data = nnUNetDatasetBlosc2(str(preprocessed / planned["data_identifier"]), split["val"][:cases])
    generator, errors = torch.Generator().manual_seed(0), []
    for name in data.identifiers:
        image, labels, _, _ = data.load_case(name)
        for tile, _ in cover_with_tiles(image[:], labels[0], planned["patch_size"]):
            with torch.no_grad():
                errors.append(errors_of_tile(network(tile), samples, generator))
    every = torch.cat(errors)
    typer.echo(
        f"{len(every)} voxels, {samples} samples: mean {every.mean():.4f}, 99 % below {every.quantile(0.99):.4f}, "
        f"largest {every.max():.4f}"
    )


if __name__ == "__main__":
    typer.run(main)
