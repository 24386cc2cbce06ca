"""Draw coherent segmentations of a whole image from the Gaussian over its logits.

There is one field of noise for the whole volume. Each tile's logits are mu + sqrt(d) z1 + L z2 with its own mu, d and L
and its part of that field, and tiles are blended as logits with the usual weights. Since blending is linear, the
blended logits are again such a Gaussian, with the weighted means of mu, sqrt(d) and L; so each tile is computed once,
however many draws are made, and no draw has a seam.

This is another law than that of `Predictor.predict`, which blends moments: where tiles disagree, that mixture is wider.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from MoBUncertaintyLib.base.errors import ModelError, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.base.geometry import intersection, shape_of, within
from MoBUncertaintyLib.gaussian.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.images.reader import check_image
from MoBUncertaintyLib.inference.engines import Engine
from MoBUncertaintyLib.inference.maps.pieces import take_back_strays
from MoBUncertaintyLib.inference.preprocessing import Case
from MoBUncertaintyLib.inference.sliding_window import padded_to
from MoBUncertaintyLib.inference.tiles import TileGrid
from MoBUncertaintyLib.model.card import Fold, ModelCard, overlap
from MoBUncertaintyLib.regions.prediction import Precision

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.inference.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Draw:
    """A sample of the logits of a whole image, after the softmax.

    Attributes:
        segmentation: The most probable label of each voxel, (z, y, x).
        probability: Of each foreground class, (C - 1, z, y, x); 0 outside the processed part of the image.
    """

    segmentation: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class VolumeGaussian:
    """The blended Gaussian over the logits of a volume, by one fold in one mirrored pass.

    Attributes:
        logits: On the network's grid, in a batch of one, with a dense loading; float32 on the CPU.
        case: The way between the network's grid and the image's.
    """

    logits: LogitGaussian
    case: Case


def draw_volumes(predictor: Predictor, image: sitk.Image, count: int, seed: int = 0) -> list[np.ndarray]:
    """Draw segmentations of an image, (z, y, x) each; see `draws`."""
    return [draw.segmentation for draw in draws(predictor, image, count, seed)]


def draws(predictor: Predictor, image: sitk.Image, count: int, seed: int = 0) -> Iterator[Draw]:
    """Draw from the blended Gaussian of an image, again and again.

    Of a label that is of one piece, each draw is: what lies apart in it is taken back.

    Several folds, and mirrored passes, are a mixture: draws go round them in a random order.

    Args:
        predictor: The model, and how to predict; its engine and number of samples do not matter.
        image: As for `Predictor.predict`.
        count: Number of draws.
        seed: Equal seeds give equal draws, on every device.

    Raises:
        ImageError, SettingsError, ModelError: As `Predictor.predict`.
    """
    mirrors = predictor.model.card.mirror_axes if predictor.settings.mirror else ()
    passes = [m for n in range(len(mirrors) + 1) for m in itertools.combinations(mirrors, n)]
    components = list(itertools.product(predictor.folds, passes))
    order = np.random.default_rng(seed).permutation(len(components))
    numbers_of = defaultdict(list)
    for number in range(count):
        numbers_of[int(order[number % len(order)])].append(number)
    with reporting_out_of_memory():
        case = predictor.prepare(check_image(image)[0])
        for component, numbers in numbers_of.items():
            volume = _blended(predictor, case, *components[component])
            for number in numbers:
                draw_seed = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
                yield _draw(volume, draw_seed, predictor.model.card)


@reporting_out_of_memory()
def blended_gaussian(predictor: Predictor, image: sitk.Image, fold: Fold | None = None) -> VolumeGaussian:
    """Compute the Gaussian that `draws` draws from, by one fold without mirroring.

    Args:
        predictor: The model, and how to predict.
        image: As for `Predictor.predict`.
        fold: Default: the first.

    Raises:
        ImageError, SettingsError, ModelError: As `Predictor.predict`.
    """
    case = predictor.prepare(check_image(image)[0])
    return _blended(predictor, case, predictor.folds[0] if fold is None else fold, ())


def _draw(volume: VolumeGaussian, seed: int, card: ModelCard) -> Draw:
    case, generator = volume.case, torch.Generator().manual_seed(seed)
    drawn = volume.logits.rsample(1, generator)[0, 0].softmax(dim=0)[1:].numpy()
    if card.one_piece:
        take_back_strays((drawn, np.zeros_like(drawn)), card.labels, card.one_piece)
    shape = case.frame.image.GetSize()[::-1]
    segmentation = np.zeros(shape, dtype=np.uint8)
    probability = np.zeros((len(drawn), *shape), dtype=np.float32)
    labels, views = case.view(segmentation), [case.view(each) for each in probability]
    for i, plane in enumerate(case.planes(drawn)):
        for view, p in zip(views, plane, strict=True):
            view[i] = p
        labels[i] = np.concatenate((1 - plane.sum(axis=0, keepdims=True), plane)).argmax(axis=0)
    return Draw(segmentation, probability)


@torch.no_grad()
def _blended(
    predictor: Predictor, case: Case, fold: Fold, mirror: Sequence[int], precision: Precision | None = None
) -> VolumeGaussian:
    """Blend the Gaussians of all tiles: the weighted means of mu, sqrt(d) and L."""
    if overlap(predictor.model.card.labels):
        raise SettingsError("The labels of this model overlap, so there is no single segmentation to sample.")
    tile = predictor.model.tile
    padded, place = padded_to(case.data, tile)
    grid = TileGrid(padded.shape[1:], tile, predictor.settings.overlap)
    engine = predictor.pytorch()
    engine.load(fold, predictor.placement.network, precision or Precision(predictor.settings.precision))
    weight, total = torch.from_numpy(grid.weight()), torch.zeros(shape_of(place))
    sums: list[Tensor] = []
    for voxels in map(grid.box, grid.all()):
        covered = intersection(voxels, place)
        if covered is None:
            continue
        form = _of_tile(engine, padded[(slice(None), *voxels)], mirror)
        source, target = within(covered, voxels), within(covered, place)
        inner: tuple[Any, ...] = (..., *source)
        outer: tuple[Any, ...] = (..., *target)
        parts = [form.mean]
        parts += [] if form.log_variance is None else [(0.5 * form.log_variance).exp()]
        parts += [] if form.loading is None else [form.loading.dense()]
        sums = sums or [torch.zeros((*part.shape[1:-3], *total.shape)) for part in parts]
        for one, part in zip(sums, parts, strict=True):
            one[outer] += weight[source] * part[0][inner].cpu()
        total[target] += weight[source]
    mean, *rest = (each.div_(total)[None] for each in sums)
    if not all(torch.isfinite(each.sum()) for each in (mean, *rest)):
        if engine.precision is Precision.FLOAT32:
            raise ModelError("The network's output is not a finite number; its weights are damaged, so train it again.")
        return _blended(predictor, case, fold, mirror, Precision.FLOAT32)
    lengths = None if form.lengths is None else [float(length) for length in form.lengths]
    log_variance = 2 * rest[0].log() if rest else None
    loading = DenseLoading(rest[1]) if len(rest) > 1 else None
    blended = LogitGaussian(mean, log_variance, loading, form.scope, lengths, form.shared_fraction)
    return VolumeGaussian(blended, case)


def _of_tile(engine: Engine, tile: np.ndarray, mirror: Sequence[int]) -> LogitGaussian:
    """Compute the Gaussian of a tile (C_in, *tile) in one mirrored pass, mirrored back."""
    axes = [axis - 3 for axis in mirror]
    gaussian = engine.gaussian(engine.run(engine.uploaded(tile[None]).flip(axes)))
    if not axes:
        return gaussian
    log_variance = None if gaussian.log_variance is None else gaussian.log_variance.flip(axes)
    loading = None if gaussian.loading is None else DenseLoading(gaussian.loading.dense().flip(axes))
    return replace(gaussian, logits=gaussian.logits.flip(axes), log_variance=log_variance, loading=loading)
