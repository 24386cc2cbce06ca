"""Adaptive tiling: fewer tiles, the same organ."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.inference.engines import EngineError
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.inference.tiles import TileGrid
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.regions.prediction import Precision, Tiling
from support.bright_network import BareEngine, Bright

TILE = (8, 8, 8)
SHAPE = (24, 28, 40)


def volume(organs: int = 1) -> np.ndarray:
    """A ball in a corner, and on request a second one in another corner; (1, *SHAPE)."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    data = np.zeros(SHAPE, np.float32)
    for centre in [(6, 7, 8), (17, 20, 32)][:organs]:
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True)))
        data = np.maximum(data, np.clip(4 - distance, 0, 1))
    return data[None]


def engine(network: nn.Module, samples: int | None = None) -> BareEngine:
    """The fold of a `Bright` network is its gain; 0 leaves it as it is."""

    def network_of(gain: int) -> nn.Module:
        if gain:
            network.gain.fill_(gain)
        return network

    return BareEngine(network_of, 2, samples)


class Recording(SlidingWindow):
    """Keeps the tiles of each round, and the seed of each pass."""

    def _rounds(self, *given):
        self.rounds, self.seeds = [], {}
        for tiles, expected in super()._rounds(*given):
            self.rounds.append(tiles)
            yield tiles, expected

    def _pass(self, look, sums):
        key = (self._fold, look.start, look.mirror)
        assert key not in self.seeds, "the same pass twice"
        self.seeds[key] = look.number
        super()._pass(look, sums)


def window(network: nn.Module, tiling: Tiling, samples: int | None = None, **options: object) -> Recording:
    return Recording(engine(network, samples), Placement(CPU, CPU, Precision.FLOAT32), tiling=tiling, **options)


@pytest.mark.parametrize("organs", [1, 2])
def test_the_organ_is_the_same_with_half_of_the_tiles(organs: int) -> None:
    network, data = Bright(), volume(organs)
    full, adaptive = window(network, Tiling.FULL), window(network, Tiling.ADAPTIVE)
    (p, v), (q, w) = (each.run(data, TILE, [0]) for each in (full, adaptive))
    assert 2 * adaptive.tiles < full.tiles
    assert (p > 0.9).any()
    np.testing.assert_allclose(q, p, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(w, v, rtol=1e-5, atol=1e-6)


def test_where_nothing_is_seen_no_tile_is_added() -> None:
    adaptive = window(Bright(), Tiling.ADAPTIVE)
    probability, variance = adaptive.run(np.zeros((1, *SHAPE), np.float32) - 1, TILE, [0])
    assert adaptive.tiles == 3 * 4 * 5
    assert probability.max() < 1e-4 and variance.max() < 1e-4


def test_an_organ_everywhere_lies_in_cores_everywhere() -> None:
    adaptive, full = window(Bright(), Tiling.ADAPTIVE), window(Bright(), Tiling.FULL)
    data = 1 + np.random.default_rng(0).random((1, *SHAPE), np.float32)
    for one, other in zip(*(each.run(data, TILE, [0]) for each in (adaptive, full)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    grid, seen = TileGrid(SHAPE, TILE), np.zeros(SHAPE, bool)
    for start in itertools.chain(*adaptive.rounds):
        seen[grid.core(start)] = True
    assert seen.all()
    assert full.tiles < adaptive.tiles <= full.tiles + 3 * 4 * 5


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 8, 3)])
@pytest.mark.parametrize("mirror_axes", [(), (0, 1)])
def test_a_volume_no_larger_than_a_tile_is_one_tile(shape: tuple[int, ...], mirror_axes: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).random((1, *shape), np.float32)
    full, adaptive = (window(Bright(), tiling, mirror_axes=mirror_axes) for tiling in Tiling)
    (p, v), (q, w) = (each.run(data, TILE, [0]) for each in (full, adaptive))
    assert np.array_equal(p, q) and np.array_equal(v, w) and p.shape == (1, *shape)
    assert full.tiles == adaptive.tiles == 1


class Glimpsing(Bright):
    """Sees only what is bright in the middle half of a tile, and finds the whole of the tile suspicious then."""

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quarter = x.shape[-1] // 4
        mean = torch.full((1, 2, *x.shape[2:]), 0.0)
        mean[:, 1] = 0.0 if x[..., quarter:-quarter].amax() > 0.5 else -10.0
        return x, mean


def test_what_an_added_tile_shows_is_followed() -> None:
    """Each added tile shows foreground where none was known; that asks for the next one."""
    data = np.zeros((1, 8, 8, 40), np.float32)
    data[0, :, :, 3] = data[0, :, :, 6:22] = 1.0
    data[0, :, :, 10:14] = 0.0  # all that the first pass looks at here
    adaptive = window(Glimpsing(), Tiling.ADAPTIVE)
    found = adaptive.run(data, TILE, [0])[0][0, 4, 4]
    assert len(adaptive.rounds) == 3
    assert adaptive.tiles == sum(map(len, adaptive.rounds)) == len(adaptive.seeds)
    assert (found[:13] > 0.05).all() and (found[28:] < 0.01).all()


def test_where_one_of_several_folds_sees_an_organ_tiles_are_added_for_all() -> None:
    network, data = Bright(), volume()
    folds = [-10, 40]  # the first sees nothing
    network.features = lambda x: (x, torch.cat([torch.zeros_like(x), (x - 0.5) * network.gain - 10], dim=1))
    full, adaptive = window(network, Tiling.FULL), window(network, Tiling.ADAPTIVE)
    p, q = (each.run(data, TILE, folds)[0] for each in (full, adaptive))
    assert (p > 0.4).any() and 3 * 4 * 5 < adaptive.tiles < 5 * 6 * 9
    np.testing.assert_allclose(q, p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [None, 3])
def test_folds_and_mirrored_passes_look_at_the_same_tiles_with_the_same_noise(samples: int | None) -> None:
    network, data = Bright(Covariance.SINGLE_BASIS), volume()[:, :16, :16, :32]
    steps: list[tuple[int, int]] = []

    def run(tiling: Tiling) -> tuple[Recording, np.ndarray]:
        steps.clear()
        each = window(network, tiling, samples=samples, mirror_axes=(0,))
        probability, _ = each.run(data, TILE, [20, 16], lambda done, total: steps.append((done, total)))
        return each, probability

    full, p = run(Tiling.FULL)
    assert steps == [(i, full.tiles * 4) for i in range(full.tiles * 4 + 1)]
    adaptive, q = run(Tiling.ADAPTIVE)
    assert 2 * adaptive.tiles < full.tiles
    if samples is None:
        np.testing.assert_allclose(q, p, rtol=1e-5, atol=1e-6)
    else:
        assert np.array_equal(q, run(Tiling.ADAPTIVE)[1])
    for seeds in (full.seeds, adaptive.seeds):
        assert len(set(seeds.values())) == len(seeds)
    shared = full.seeds.keys() & adaptive.seeds.keys()
    assert shared and all(full.seeds[each] == adaptive.seeds[each] for each in shared)
    # How many there will be is said once the first of them have told it.
    passes, first = 4 * adaptive.tiles, 4 * len(adaptive.rounds[0])
    assert [done for done, _ in steps] == list(range(passes + 1))
    assert [total for _, total in steps] == [0] * first + [passes] * (passes + 1 - first)


def test_it_can_be_stopped_between_tiles() -> None:
    def step(done: int, total: int) -> None:
        if done == 62:
            raise Cancelled("stop")

    adaptive = window(Bright(), Tiling.ADAPTIVE)
    with pytest.raises(Cancelled):
        adaptive.run(volume(), TILE, [0], step)
    assert len(adaptive.rounds) == 2 and len(adaptive.seeds) == 62


class Breaking(BareEngine):
    """Gives up at its third tile."""

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        self.left = getattr(self, "left", 2) - 1
        if self.left < 0:
            raise EngineError("It broke.", lambda: engine(Bright()))
        return super().run(x)


def test_another_engine_goes_on_with_the_same_tiles() -> None:
    adaptive, whole = (window(Bright(), Tiling.ADAPTIVE) for _ in range(2))
    adaptive.engine = Breaking(lambda _: Bright(), 2)
    for one, other in zip(*(each.run(volume(), TILE, [0]) for each in (adaptive, whole)), strict=True):
        assert np.array_equal(one, other)
    assert adaptive.rounds == whole.rounds and adaptive.warnings == ["It broke."]
