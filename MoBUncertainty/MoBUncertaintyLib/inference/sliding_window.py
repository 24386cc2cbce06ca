"""Run the network over the tiles of a volume, with less of the device's memory if that runs out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from MoBUncertaintyLib.base.errors import NOT_ENOUGH_MEMORY, ModelError, SettingsError, is_out_of_memory
from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.gaussian.arrays import Array, namespace
from MoBUncertaintyLib.gaussian.probability import Moments
from MoBUncertaintyLib.inference.engines import Engine, EngineError
from MoBUncertaintyLib.inference.tiles import Accumulator, Start, TileGrid
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.regions.prediction import EngineName, Precision, Tiling

T = TypeVar("T")
CPU = "cpu"

OVERFLOWED = "The network's output overflowed in half precision, so these tiles were computed in float32."


@dataclass(frozen=True)
class Placement:
    """The devices that compute and hold results.

    Attributes:
        network: Device of the network and the moments, by its name.
        sums: Device of the accumulators.
        precision: Number format of the backbone.
    """

    network: str
    sums: str
    precision: Precision = Precision.AUTO

    def lighter(self) -> tuple[Placement, str]:
        """Return a placement that needs less of the device's memory, and a message for the user.

        Raises:
            SettingsError: There is none.
        """
        if self.sums != CPU:
            return replace(self, sums=CPU), "The device ran short of memory, so the results were summed on the CPU."
        if self.network != CPU:
            placement = replace(self, network=CPU, precision=Precision.AUTO)
            return placement, "The device ran out of memory, so the CPU was used, which takes longer."
        raise SettingsError(NOT_ENOUGH_MEMORY)


class _Inputs:
    """Tiles of the network's input on its device: each is copied once for all its passes, and the next one ahead."""

    def __init__(self, data: np.ndarray, grid: TileGrid) -> None:
        self._data, self._grid = data, grid
        self._there: dict[Start, Array] = {}

    def at(self, start: Start, engine: Engine) -> Array:
        """Return a tile, (1, C_in, *tile)."""
        if start not in self._there:
            self._there[start] = engine.uploaded(self._data[(slice(None), *self._grid.box(start))][None])
        return self._there[start]

    def forget(self, *starts: Start) -> None:
        """Free the memory of tiles; of all, if none are named."""
        for start in starts or list(self._there):
            self._there.pop(start, None)


@dataclass(frozen=True)
class _Look:
    """One mirrored pass of one fold over a tile.

    Attributes:
        start: The tile.
        ahead: The tile whose input is copied while the device computes, if any.
        mirror: Axes along which the tile is mirrored.
        number: Seeds the noise.
    """

    start: Start
    ahead: Start | None
    mirror: tuple[int, ...]
    number: int


class SlidingWindow:
    """Run a network over the tiles of a volume and blend the moments.

    Args:
        engine: Runs the network; `self.engine` is the one that did in the end.
        placement: Devices to start on; `self.placement` is where the run ended.
        overlap: Fraction of a tile that its neighbour also covers.
        seed: Seed of Monte Carlo; it gives the same result on the same kind of device.
        mirror_axes: Axes of the network's input along which every tile is also predicted mirrored.
        tiling: Which tiles are predicted.

    Attributes:
        tiles: Number of tiles predicted.
        seconds: Time spent in `network` (backbone), `moments` (head and moments) and `blend`.
        warnings: Sentences for the user.
    """

    def __init__(
        self,
        engine: Engine,
        placement: Placement,
        overlap: float = 0.5,
        seed: int = 0,
        mirror_axes: Sequence[int] = (),
        tiling: Tiling = Tiling.FULL,
    ) -> None:
        self.engine = engine
        self.placement = placement
        self.overlap = overlap
        self.seed = seed
        axes = range(len(mirror_axes) + 1)
        self.mirrors = [m for n in axes for m in itertools.combinations(mirror_axes, n)]
        self.tiling = tiling
        self.warnings: list[str] = []
        self.seconds = {"network": 0.0, "moments": 0.0, "blend": 0.0}
        self.tiles = 0
        self._inputs: _Inputs | None = None
        self._sums: Accumulator | None = None
        self._fold: Fold | None = None
        self._settled: tuple[Engine, Fold | None, Placement] | None = None
        self._passes = self._overflows = 0
        self._times: list[tuple[str, Any, Any]] = []

    def run(
        self,
        data: np.ndarray,
        tile: Sequence[int],
        folds: Sequence[Fold],
        step: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute probability and variance of the foreground classes that are kept, each (L, *S) fp32.

        If not all are, the probability has one channel more, see `Accumulator.result`.

        Args:
            data: The network's input, (C_in, *S) float32; if smaller than a tile, it is padded with 0, as nnU-Net
                does.
            tile: Voxels of a tile along each axis.
            folds: Folds to average.
            step: Called with the number of passes done and in total (0: not known yet), before each pass and after the
                last; may raise to stop.

        Raises:
            ModelError: The network's output is not finite.
            SettingsError: There is not enough memory, even on the CPU.
        """
        padded, inside = padded_to(data, tile)
        grid = TileGrid(padded.shape[1:], tile, self.overlap)
        self._inputs, sums = _Inputs(padded, grid), self._retrying(lambda: self._accumulator(grid))
        self._sums = sums
        done, per_tile = itertools.count(), len(folds) * len(self.mirrors)
        for tiles, expected in self._rounds(grid, sums):
            for place, fold in enumerate(folds):
                self._fold = fold
                for start, after in itertools.zip_longest(tiles, tiles[1:]):
                    # A tile's place gives its passes their seeds, so that each draws the same noise whenever it is run.
                    number = int(np.ravel_multi_index((place, *start), (len(folds), *grid.shape)))
                    for turn, mirror in enumerate(self.mirrors):
                        step(next(done), expected * per_tile)
                        ahead = after if turn == len(self.mirrors) - 1 else None
                        self._pass(_Look(start, ahead, mirror, number * len(self.mirrors) + turn), sums)
                    self._inputs.forget(start)
            self.tiles += len(tiles)
        step(self.tiles * per_tile, self.tiles * per_tile)
        results = self._retrying(lambda: self._result(sums))
        probability, variance = (result[(slice(None), *inside)] for result in results)
        return probability, variance

    def _rounds(self, grid: TileGrid, sums: Accumulator) -> Iterator[tuple[list[Start], int]]:
        """Choose the tiles to predict next from the results so far; yield them, and the expected total.

        At first that is 0, not known, unless they are all; then that of all tiles known to be needed, to which a later
        round may add a few.
        """
        everything = grid.all()
        if self.tiling is Tiling.FULL:
            yield everything, len(everything)
            return
        added, total = grid.fewest(), 0
        seen = np.zeros(grid.shape, dtype=bool)  # lies in the core of a tile
        while added:
            is_last = total or len(added) == len(everything)
            yield added, total + len(added) if is_last else 0
            total += len(added)
            for start in added:
                seen[grid.core(start)] = True
            added = self._retrying(lambda: self._unseen(grid, sums, seen))

    def _unseen(self, grid: TileGrid, sums: Accumulator, seen: np.ndarray) -> list[Start]:
        """Place tiles on the foreground that was not seen."""
        with self._timed("blend"):
            return grid.centred(sums.foreground() & ~seen)

    def _accumulator(self, grid: TileGrid) -> Accumulator:
        classes = self.engine.wanted
        if classes is None:
            return Accumulator(grid, self.engine.classes - 1, self.placement.sums)
        others = 0 if self.engine.overlapping else self.engine.classes - len(classes)
        return Accumulator(grid, len(classes), self.placement.sums, others)

    def _result(self, sums: Accumulator) -> tuple[np.ndarray, np.ndarray]:
        with self._timed("blend"):
            results = sums.result()
        for stage, start, end in self._times:
            self.seconds[stage] += end - start
        return results

    def _pass(self, look: _Look, sums: Accumulator) -> None:
        """Predict one tile in one mirrored pass and add the result; each of the two happens once, or is an error."""
        seen = self._seen(look)
        axes = [axis + 2 for axis in look.mirror]

        def add() -> None:
            with self._timed("blend"):
                sums.add(sums.grid.box(look.start), seen.flip(axes) if axes else seen)

        self._retrying(add)

    def _seen(self, look: _Look) -> Moments:
        """Look at a tile; where the output overflows in half precision, look again in float32.

        The next tile has half precision again, unless more than half of the passes so far overflowed, or the engine
        would have to make its graph anew.
        """
        self._passes += 1
        seen = self._retrying(lambda: self._look(look))
        if seen is not None:
            return seen
        if not self._overflows:
            self.warnings.append(OVERFLOWED)
        self._overflows += 1
        half = self.placement
        while seen is None:
            self.placement = replace(self.placement, precision=Precision.FLOAT32)
            seen = self._retrying(lambda: self._look(look))
        often = 2 * self._overflows > self._passes or self.engine.name is not EngineName.TORCH
        if not often and self.placement.network == half.network:
            self.placement = replace(self.placement, precision=half.precision)
        return seen

    def _look(self, look: _Look) -> Moments | None:
        """Compute the moments of a tile in one pass, or None where they overflow in half precision.

        The host waits for the device once, at the end.

        Raises:
            ModelError: The output is not finite in float32.
        """
        assert self._inputs is not None
        axes = [axis + 2 for axis in look.mirror]
        with self._timed("network"):
            x = self._inputs.at(look.start, self.engine)
            output = self.engine.run(namespace(x).flip(x, axes) if axes else x)
        with self._timed("moments"):
            seed = int(np.random.SeedSequence([self.seed, look.number]).generate_state(1, np.uint64)[0] >> 1)
            result = self.engine.moments(output, seed)
            if look.ahead is not None:
                self._inputs.at(look.ahead, self.engine)
            with np.errstate(invalid="ignore"):
                finite = bool(namespace(result.mean).isfinite(result.mean.sum() + result.variance.sum()))
        if finite:
            return result
        if self.engine.precision is Precision.FLOAT32:
            raise ModelError("The network's output is not a finite number; its weights are damaged, so train it again.")
        return None

    def _retrying(self, action: Callable[[], T]) -> T:
        """Do what takes memory of the device; where that is not enough, with less and less, or with another engine.

        Everything that a device is asked for happens in here, so that no step of the ladder is missed.
        """
        while True:
            try:
                self._settle()
                return action()
            except EngineError as error:
                self.engine, message = error.fallback(), str(error)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = ""
            # Outside the handler, since the error keeps the tensors of the failed attempt alive.
            if not message:
                self.placement, message = self.placement.lighter()
            self.warnings.append(message)
            self.engine.free()

    def _settle(self) -> None:
        """Bring the sums and the network of the present fold to where the placement has them, and tiles when needed."""
        state = self.engine, self._fold, self.placement
        if state == self._settled:
            return
        self._settled = None
        if self._inputs is not None:
            self._inputs.forget()
        if self._sums is not None:
            self._sums.to(self.placement.sums)
        if self._fold is not None:
            with self._timed("network"):
                if self.placement.sums != self.placement.network:
                    self.engine.unload()  # memory is short, so one fold's weights are there at a time
                self.engine.load(self._fold, self.placement.network, self.placement.precision)
        self._settled = state

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Measure the time of a stage, by the device's own clock if it has one."""
        now = self.engine.clock()
        start = now()
        yield
        self._times.append((stage, start, now()))


def padded_to(data: np.ndarray, tile: Sequence[int]) -> tuple[np.ndarray, Box]:
    """Pad a volume (C, *S) with 0 to the size of a tile, as nnU-Net does; return where it lies in the result."""
    sizes = list(zip(data.shape[1:], tile, strict=True))
    before = [max(n - size, 0) // 2 for size, n in sizes]
    after = [max(n - size, 0) - low for (size, n), low in zip(sizes, before, strict=True)]
    inside = tuple(slice(low, low + size) for low, (size, _) in zip(before, sizes, strict=True))
    if not any(after):
        return data, inside
    return np.pad(data, [(0, 0), *zip(before, after, strict=True)]), inside
