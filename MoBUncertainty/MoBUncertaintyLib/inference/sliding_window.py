"""Run the network over the tiles of a volume, with less of the device's memory if that runs out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from MoBUncertaintyLib.errors import NOT_ENOUGH_MEMORY, ModelError, SettingsError, is_out_of_memory
from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.inference.devices import one_thread
from MoBUncertaintyLib.inference.engines import Engine, EngineError
from MoBUncertaintyLib.inference.tiles import Accumulator, Start, TileGrid
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.network.moments import Moments
from MoBUncertaintyLib.prediction import EngineName, Precision, Tiling

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """The devices that compute and hold results.

    Attributes:
        network: Device of the network and the moments.
        sums: Device of the accumulators.
        precision: Number format of the backbone.
    """

    network: torch.device
    sums: torch.device
    precision: Precision = Precision.AUTO

    def lighter(self) -> tuple[Placement, str]:
        """Return a placement that needs less of the device's memory, and a message for the user.

        Raises:
            SettingsError: There is none.
        """
        if self.sums != CPU:
            return replace(self, sums=CPU), "The device ran short of memory, so the results are summed on the CPU."
        if self.network != CPU:
            placement = replace(self, network=CPU, precision=Precision.AUTO)
            return placement, "The device ran out of memory, so the CPU computes; this takes longer."
        raise SettingsError(NOT_ENOUGH_MEMORY)


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
        organ_sums: Of all passes (`network.organ_sums`).
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
        self.organ_sums = np.zeros(0)

    @torch.inference_mode()
    def run(
        self,
        data: np.ndarray,
        tile: Sequence[int],
        folds: Sequence[Fold],
        step: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[Tensor, Tensor]:
        """Compute probability and variance of the foreground classes that are kept, each (L, *S) fp32 on the CPU.

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
        padded, inside = pad_nd_image(torch.from_numpy(data), tile, "constant", {"value": 0}, True, None)
        grid = TileGrid(padded.shape[1:], tile, self.overlap)
        sums = self._retrying(lambda: self._accumulator(grid), None)
        done, per_tile = itertools.count(), len(folds) * len(self.mirrors)
        for tiles, expected in self._rounds(grid, sums):
            for place, fold in enumerate(folds):
                self._load(fold, sums)
                for start, (turn, mirror) in itertools.product(tiles, enumerate(self.mirrors)):
                    step(next(done), expected * per_tile)
                    # A tile's place gives its passes their seeds, so that each draws the same noise whenever it is run.
                    number = int(np.ravel_multi_index((place, *start), (len(folds), *grid.shape)))
                    self._pass(padded, grid.box(start), mirror, number * len(self.mirrors) + turn, sums)
            self.tiles += len(tiles)
        step(self.tiles * per_tile, self.tiles * per_tile)
        with self._timed("blend"):
            results = sums.result()
        probability, variance = (result[(slice(None), *inside[1:])] for result in results)
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
            is_known = total or len(added) == len(everything)
            yield added, total + len(added) if is_known else 0
            total += len(added)
            with self._timed("blend"):
                for start in added:
                    seen[grid.core(start)] = True
                with self._alone():
                    added = grid.centred(sums.foreground().numpy() & ~seen)

    def _accumulator(self, grid: TileGrid) -> Accumulator:
        kept = self.engine.kept
        if kept is None:
            return Accumulator(grid, self.engine.classes - 1, self.placement.sums)
        others = 0 if self.engine.overlapping else self.engine.classes - len(kept)
        return Accumulator(grid, len(kept), self.placement.sums, others)

    def _load(self, fold: Fold, sums: Accumulator) -> None:
        self._fold = fold
        with self._timed("network"):
            self._retrying(self._place, sums)

    def _place(self) -> None:
        """Let the engine run the present fold at the present place."""
        self.engine.load(self._fold, self.placement.network, self.placement.precision)

    def _pass(self, data: Tensor, place: Box, mirror: Sequence[int], seed: int, sums: Accumulator) -> None:
        """Predict one tile in one mirrored pass and add the result."""
        found = self._retrying(lambda: self._look(data[(slice(None), *place)], mirror, seed), sums)
        with self._timed("blend"), self._alone():
            self._retrying(lambda: sums.add(place, found), sums)

    def _look(self, tile: Tensor, mirror: Sequence[int], number: int) -> Moments:
        """Compute the moments of a tile (C_in, *tile) in one mirrored pass, mirrored back; `number` seeds its noise."""
        device = self.placement.network
        axes = [axis + 2 for axis in mirror]
        with self._timed("network"):
            x = tile[None].to(device)
            output = self.engine.run(x.flip(axes) if axes else x)
        with self._timed("moments"):
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0] >> 1)
            found = self.engine.moments(output, torch.Generator(device).manual_seed(seed))
            with self._alone():
                finite = bool(torch.isfinite(found.mean.sum() + found.variance.sum()))
        if finite:
            sums = output[-1][0].cpu().double().numpy()  # Apple's GPUs know no float64
            self.organ_sums = self.organ_sums + sums if self.organ_sums.size else sums
            return found.flip(axes) if axes else found
        if self.engine.precision is torch.float32:
            raise ModelError("The network's output is not a finite number; its weights are damaged, so train it again.")
        self.placement = replace(self.placement, precision=Precision.FLOAT32)
        self._place()
        self.warnings.append("The network's output overflowed in half precision, so it computes in float32.")
        return self._look(tile, mirror, number)

    def _retrying(self, action: Callable[[], T], sums: Accumulator | None) -> T:
        """Retry an action until it succeeds: with less and less of the device's memory, or with another engine."""
        while True:
            try:
                return action()
            except EngineError as error:
                self.engine, message = error.fallback, str(error)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = ""
            # Outside the handler, since the error keeps the tensors of the failed attempt alive.
            if not message:
                self.placement, message = self.placement.lighter()
            self.warnings.append(message)
            if sums is not None:
                sums.to(self.placement.sums)
            self._place()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _alone(self) -> AbstractContextManager[None]:
        """Keep PyTorch's threads away from the cores of an engine that has its own."""
        return nullcontext() if self.engine.name is EngineName.TORCH else one_thread()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.placement.network.type == "cuda":
            torch.cuda.synchronize(self.placement.network)
        self.seconds[stage] += time.perf_counter() - start
