"""Coherent draws of a whole volume: their law, no seams, and what a seed fixes."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from mob_training.evaluation.joint_scores import part_of
from MoBUncertaintyLib.gaussian.probability import closed_form_moments
from MoBUncertaintyLib.inference.draws import blended_gaussian, draw_volumes, draws
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.tiles import TileGrid
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope, correlation
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.gaussians import contrast_of
from support.tiny import PATCH, SPACING, make_ct, make_dataset, make_model, make_results_folder

SHAPE = (24, 24, 60)
LENGTH_MM = (6.0, 9.0, 7.5)
SPECS = [
    CovarianceSpec(Covariance.DIAGONAL),
    CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=LENGTH_MM),
    CovarianceSpec.of_kind(Covariance.LOW_RANK, rank=3),
    CovarianceSpec(rank=3, partitions=2, scope=Scope.LOCAL, length_mm=LENGTH_MM),
]
"""Each scope, and each way to correlate the classes."""
SHARED = [spec for spec in SPECS if spec.scope is not Scope.VOXEL]


def name(spec: CovarianceSpec) -> str:
    return f"{spec.kind}-{spec.scope}"


@pytest.fixture
def ct() -> sitk.Image:
    """Four tiles along the last axis; its grid is the network's."""
    return make_ct(SHAPE)


def predictor_of(folder: Path, spec: CovarianceSpec, labels=("organ",), even=False, **options) -> Predictor:
    """A predictor of the tiny model; `even`: with the same loading and variance everywhere, whatever the image."""
    model = make_model(folder / "m", dataset=make_dataset(labels, orientation="RAS"), covariance=spec)
    predictor = Predictor(
        model, PredictionSettings(**{"device": "cpu", "precision": "float32", "body_box": False} | options)
    )
    if even:
        head = predictor.pytorch().network_of(0).head
        for layer in (head.log_variance, *head.loading_layers):
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data = torch.linspace(-0.7, 0.9, len(layer.bias))
    return predictor


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_the_blended_gaussian_is_the_law_of_blended_tiles_that_share_one_field(tmp_path, ct, spec):
    """Tile by tile, with the weights written out: the noise of each tile is its part of the volume's."""
    predictor = predictor_of(tmp_path, spec)
    volume = blended_gaussian(predictor, ct)
    network, data = predictor.pytorch().network_of(0), torch.from_numpy(volume.case.data)
    assert tuple(data.shape[1:]) == SHAPE
    place = np.stack(np.meshgrid(*map(np.arange, PATCH), indexing="ij"))
    centre = np.reshape(PATCH, (3, 1, 1, 1)) // 2
    weight = np.exp(-0.5 * (((place - centre) / (np.reshape(PATCH, (3, 1, 1, 1)) / 8)) ** 2).sum(axis=0))
    rank = 0 if spec.kind is Covariance.DIAGONAL else spec.rank
    noise = torch.randn(rank + 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    blended, total = np.zeros(SHAPE), np.zeros(SHAPE)
    for _, _, start in TileGrid(SHAPE, PATCH).all():
        part = (..., slice(start, start + PATCH[2]))
        gaussian = network(data[None][part])
        mean, factors = contrast_of(gaussian)
        blended[part] += weight * (mean + (factors * noise[part]).sum(dim=0)).detach().numpy()
        total[part] += weight
    mean, factors = contrast_of(volume.logits)
    np.testing.assert_allclose(mean + (factors * noise).sum(dim=0), blended / total, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_draws_have_the_marginals_of_the_blended_gaussian(tmp_path, ct, spec):
    """Of the logit at each voxel mean and variance; of the probability both moments, which have closed forms."""
    count = 200
    predictor = predictor_of(tmp_path, spec)
    volume = blended_gaussian(predictor, ct)
    mean, variance = (part[0] for part in volume.logits.contrast())
    drawn = [volume.case.view(draw.probability[0]) for draw in draws(predictor, ct, count, seed=3)]
    p = torch.from_numpy(np.stack(drawn)).double()
    seen = (mean.abs() < 4) & (variance < 4)  # where p in single precision still says what the logit was
    assert seen.float().mean() > 0.2
    logit = p.logit()[:, seen]
    assert ((logit.mean(dim=0) - mean[seen]) / (variance[seen] / count).sqrt()).abs().max() < 6
    assert ((logit.var(dim=0) / variance[seen] - 1) / (2 / count) ** 0.5).abs().max() < 8  # skewed to the right
    expected = closed_form_moments(mean[None], variance[None])
    error = (expected.variance[0, 0] / count).sqrt()[seen]
    assert ((p.mean(dim=0) - expected.mean[0, 0])[seen] / error).abs().max() < 8
    of_place = p.var(dim=0)[seen] / expected.variance[0, 0][seen]
    assert of_place.mean().item() == pytest.approx(1, abs=0.25 if spec.scope is Scope.TILE else 0.05)


@pytest.mark.parametrize("spec", SHARED, ids=name)
def test_there_are_no_seams(tmp_path, ct, spec):
    """With the same Gaussian in all tiles, variance and correlation do not know where tiles begin and end.

    Blending independent draws of two tiles would halve the variance where they overlap evenly.
    """
    box = (slice(4, 10), slice(4, 10), slice(0, SHAPE[2]))
    part = part_of(blended_gaussian(predictor_of(tmp_path, spec, even=True), ct).logits, box)
    drawn = part.rsample(4_000, torch.Generator().manual_seed(1))[:, 0]
    mean, factors = contrast_of(part)
    noise = drawn[:, 1] - drawn[:, 0] - mean
    expected = factors.square().sum(dim=0)
    along = noise.var(dim=0).mean(dim=(0, 1)) / expected.mean(dim=(0, 1))  # one number for each place along the tiles
    assert (along - 1).abs().max() < 0.1
    shared = factors[:-2] if spec.scope is Scope.TILE else factors
    lengths = np.divide(LENGTH_MM, SPACING[::-1])
    next_one = 1.0 if spec.scope is Scope.TILE else float(correlation(np.array([0.0, 0.0, 1.0]), lengths))
    wanted = next_one * (shared[..., 1:] * shared[..., :-1]).sum(dim=0).mean(dim=(0, 1))
    found = (noise[..., 1:] * noise[..., :-1]).mean(dim=(0, 1, 2))
    assert (found / wanted - 1).abs().max() < 0.1


def test_one_seed_gives_the_same_draws_and_another_others(tmp_path, ct):
    predictor = predictor_of(tmp_path, SPECS[1])
    first, again, other = (draw_volumes(predictor, ct, 2, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0], first[1])
    assert first[0].shape == ct.GetSize()[::-1] and first[0].dtype == np.uint8
    longer = draw_volumes(predictor, ct, 3, 5)
    assert np.array_equal(longer[1], first[1]), "more draws go on where fewer end"


def test_the_labels_of_a_draw_are_its_most_probable_ones_on_the_images_grid(tmp_path):
    image = make_ct((20, 26, 30), spacing=(3.5, 2.5, 4.0), direction=(0, 1, 0, 1, 0, 0, 0, 0, -1))
    predictor = predictor_of(tmp_path, CovarianceSpec(Covariance.DIAGONAL), labels=("liver", "spleen"))
    (draw,) = draws(predictor, image, 1)
    assert draw.probability.shape == (2, *image.GetSize()[::-1])
    whole = np.concatenate((1 - draw.probability.sum(axis=0, keepdims=True), draw.probability))
    assert np.array_equal(draw.segmentation, whole.argmax(axis=0)) and len(np.unique(draw.segmentation)) == 3


def test_a_deterministic_model_draws_its_segmentation(tmp_path, ct):
    predictor = predictor_of(tmp_path, CovarianceSpec(Covariance.DETERMINISTIC), tiling="full")
    first, second = draw_volumes(predictor, ct, 2)
    assert np.array_equal(first, second)
    predicted = predictor.predict(ct).segmentation
    assert (first != predicted).mean() < 0.002, "logits are blended here, probabilities there"


def test_folds_and_mirrored_passes_are_a_mixture(tmp_path, ct):
    """Almost without noise a draw shows which of them it is from: all in turn, each as often as the others."""
    results = make_results_folder(tmp_path / "m", covariance=SPECS[1], folds=2, mirror_axes=(2,))
    for path in results.rglob("*.pth"):
        stored = torch.load(path)
        stored["network_weights"]["head.log_variance.weight"].zero_()
        stored["network_weights"]["head.log_variance.bias"].fill_(-10)
        torch.save(stored, path)
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False, mirror=True)
    predictor = Predictor(load_model(results), settings)
    drawn = [draw.probability[0] for draw in draws(predictor, ct, 8, seed=1)]
    unlike = np.array([[np.abs(one - other).mean() for one in drawn] for other in drawn])
    same = unlike < 0.1 * unlike.max()
    assert (same.sum(axis=0) == 2).all()
    for fold in (0, 1):
        volume = blended_gaussian(predictor, ct, fold=fold)
        p = contrast_of(volume.logits)[0].sigmoid().numpy()
        distances = [np.abs(volume.case.view(one) - p).mean() for one in drawn]
        assert sum(distance < 0.1 * unlike.max() for distance in distances) == 2, "the pass that is not mirrored"
