"""Adaptive tiling: fewer tiles, the same organ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from MoBUncertaintyLib.errors import Cancelled
from MoBUncertaintyLib.inference.engines import TorchEngine
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.heads import build_head
from MoBUncertaintyLib.prediction import Precision, Tiling

TILE = (8, 8, 8)
SHAPE = (24, 28, 40)


class Bright(nn.Module):
    """Takes what is bright for foreground, and is the less sure the brighter the rest of the tile is."""

    def __init__(self, covariance: Covariance = Covariance.DETERMINISTIC, gain: float = 20.0) -> None:
        super().__init__()
        self.classes = 2
        self.gain = nn.Parameter(torch.tensor(gain))
        self.head = build_head(CovarianceSpec.of_kind(covariance, rank=2, partitions=2), 1, 2)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.gain * (x - 0.5 - x.mean())
        return x, torch.cat([torch.zeros_like(logit), logit], dim=1)


def volume(organs: int = 1) -> np.ndarray:
    """A ball in a corner, and on request a second one in another corner; (1, *SHAPE)."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    data = np.zeros(SHAPE, np.float32)
    for centre in [(6, 7, 8), (17, 20, 32)][:organs]:
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True)))
        data = np.maximum(data, np.clip(4 - distance, 0, 1))
    return data[None]


def engine(network: nn.Module, samples: int | None = None) -> TorchEngine:
    """The fold of a `Bright` network is its gain; 0 leaves it as it is."""

    def network_of(gain: int) -> nn.Module:
        if gain:
            network.gain.fill_(gain)
        return network

    return TorchEngine(network_of, 2, samples)


def window(network: nn.Module, tiling: Tiling, samples: int | None = None, **options: object) -> SlidingWindow:
    return SlidingWindow(engine(network, samples), Placement(CPU, CPU, Precision.FLOAT32), tiling=tiling, **options)


@pytest.mark.parametrize("organs", [1, 2])
def test_the_organ_is_the_same_with_half_of_the_tiles(organs: int) -> None:
    network, data = Bright(), volume(organs)
    full, adaptive = window(network, Tiling.FULL), window(network, Tiling.ADAPTIVE)
    (p, v), (q, w) = (each.run(data, TILE, [0]) for each in (full, adaptive))
    assert 2 * adaptive.tiles < full.tiles
    shown, sure = p >= 0.02, (p - 0.5).abs() > 0.02
    assert shown.any() and not shown.all()
    # A tile that is left out has less than 2 % of the weight of another one there: so little can it change.
    assert torch.equal(p[sure] > 0.5, q[sure] > 0.5)
    torch.testing.assert_close(q[shown], p[shown], atol=0.02, rtol=0)
    torch.testing.assert_close(w[shown], v[shown], atol=0.02, rtol=0)
    assert (q[~shown] < 0.05).all()


def test_where_nothing_is_seen_no_tile_is_added() -> None:
    adaptive = window(Bright(), Tiling.ADAPTIVE)
    probability, variance = adaptive.run(np.zeros((1, *SHAPE), np.float32) - 1, TILE, [0])
    assert adaptive.tiles == 3 * 4 * 5
    assert probability.max() < 1e-4 and variance.max() < 1e-4


def test_an_organ_everywhere_needs_all_tiles() -> None:
    adaptive, full = window(Bright(), Tiling.ADAPTIVE), window(Bright(), Tiling.FULL)
    data = np.random.default_rng(0).random((1, *SHAPE), np.float32)
    for one, other in zip(*(each.run(data, TILE, [0]) for each in (adaptive, full)), strict=True):
        torch.testing.assert_close(one, other)
    assert adaptive.tiles == full.tiles


class Recording(SlidingWindow):
    """Keeps which tiles each round looked at."""

    def _rounds(self, *given):
        self.rounds = []
        for tiles, expected in super()._rounds(*given):
            self.rounds.append(tiles)
            yield tiles, expected


class Middle(Bright):
    """Sees what is bright in the middle half of a tile only, and calls the whole half foreground then."""

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(1, 2, *x.shape[2:])
        quarter = x.shape[-1] // 4
        middle = slice(quarter, -quarter)
        mean[:, 1] = -10.0
        mean[:, 1, ..., middle] = torch.where(x[..., middle].amax() > 0.5, 4.0, -10.0)
        return x, mean


def test_what_an_added_tile_shows_is_followed() -> None:
    """Tiles that were added because of the first pass show foreground where none was known; that asks for more."""
    data = np.zeros((1, 8, 8, 40), np.float32)
    data[0, :, :, 3] = data[0, :, :, 6:22] = 1.0
    data[0, :, :, [10, 11, 12, 13]] = 0.0
    adaptive = Recording(engine(Middle()), Placement(CPU, CPU, Precision.FLOAT32), overlap=0.75, tiling=Tiling.ADAPTIVE)
    found = adaptive.run(data, TILE, [0])[0]
    expected = window(Middle(), Tiling.FULL, overlap=0.75).run(data, TILE, [0])[0]
    assert len(adaptive.rounds) > 2
    assert torch.equal(found > 0.5, expected > 0.5)
    assert adaptive.tiles == sum(map(len, adaptive.rounds)) < 17


def test_where_one_of_several_folds_sees_an_organ_tiles_are_added_for_all() -> None:
    network, data = Bright(), volume()
    folds = [-10, 40]  # the first sees nothing
    network.features = lambda x: (x, torch.cat([torch.zeros_like(x), (x - 0.5) * network.gain - 10], dim=1))
    adaptive = window(network, Tiling.ADAPTIVE)
    p = window(network, Tiling.FULL).run(data, TILE, folds)[0]
    q = adaptive.run(data, TILE, folds)[0]
    assert (p > 0.4).any() and 3 * 4 * 5 < adaptive.tiles < 5 * 6 * 9
    torch.testing.assert_close(q[p > 0.02], p[p > 0.02], atol=0.02, rtol=0)


@pytest.mark.parametrize("samples", [None, 3])
def test_folds_and_mirrored_passes_look_at_the_same_tiles_with_the_same_noise(samples: int | None) -> None:
    network, data = Bright(Covariance.SINGLE_BASIS), volume()
    steps: list[tuple[int, int]] = []

    def run(tiling: Tiling) -> tuple[SlidingWindow, Tensor]:
        steps.clear()
        each = window(network, tiling, samples=samples, mirror_axes=(0, 2))
        probability, _ = each.run(data, TILE, [20, 16], lambda done, total: steps.append((done, total)))
        return each, probability

    full, p = run(Tiling.FULL)
    assert steps == [(i, full.tiles * 8) for i in range(full.tiles * 8 + 1)]
    adaptive, q = run(Tiling.ADAPTIVE)
    assert 2 * adaptive.tiles < full.tiles
    torch.testing.assert_close(q[p > 0.1], p[p > 0.1], atol=0.03, rtol=0)
    # It may become the whole grid, until it is known that it does not.
    assert [done for done, _ in steps] == list(range(adaptive.tiles * 8 + 1))
    assert steps[0] == (0, full.tiles * 8) and steps[-1] == (adaptive.tiles * 8, adaptive.tiles * 8)
    assert all(later[1] <= earlier[1] for earlier, later in itertools.pairwise(steps))


def test_it_can_be_stopped_between_tiles() -> None:
    def step(done: int, total: int) -> None:
        if done == 70:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        window(Bright(), Tiling.ADAPTIVE).run(volume(), TILE, [0], step)
