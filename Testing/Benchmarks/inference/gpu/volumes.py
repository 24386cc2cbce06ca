"""Whole predictions beside those of float32 on the CPU, and the ladder of steps that are taken when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from inference.gpu.paths import BOUNDS, ROUNDED, changes, forget_peak, hold_to, peak_of
from inference.gpu.rows import ResultError, Rows
from MoBUncertaintyLib.inference import sliding_window
from MoBUncertaintyLib.inference.devices import autocast_dtype, openvino_version
from MoBUncertaintyLib.inference.engines import TorchEngine
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import load_network
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import Precision, Prediction, PredictionSettings, Tiling

SUMS_VOXELS = (256, 512, 512)
"""Of the network's input in the ladder on a GPU: its sums take 0.5 GB, more than a tile of the network."""
ROOM = 16e6
"""Bytes beside the weights: too few for the feature maps of a tile, whatever algorithms the GPU chooses."""
SAME = 1e-4
"""Largest difference of results that the same device computes."""


@dataclass(frozen=True)
class _Way:
    """How a whole CT is predicted.

    Attributes:
        device, engine, precision: As for `predict`.
    """

    device: str
    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.device}, {self.engine}, {self.precision}"

    @property
    def bounds(self) -> tuple[float, float]:
        """See `BOUNDS`; OpenVINO's float32 is rounded, too."""
        return (
            ROUNDED if (self.engine, self.precision) == ("openvino", "float32") else BOUNDS[Precision(self.precision)]
        )

    def predict(self, model: Model, ct: sitk.Image, warm: bool) -> tuple[Prediction, float]:
        """The prediction of all tiles, and its seconds; `warm`: after a first one."""
        settings = PredictionSettings(
            device=self.device, engine=self.engine, precision=self.precision, tiling=Tiling.FULL
        )
        predictor = Predictor(model, settings)
        if warm:
            predictor.predict(ct)
        start = time.perf_counter()
        return predictor.predict(ct, exact=True), time.perf_counter() - start


def _ways(device: torch.device) -> list[_Way]:
    where = str(device)
    if device.type == "cuda":
        return [_Way(where, "torch", precision) for precision in ("float32", "bfloat16", "float16")]
    engines = ["openvino"] if openvino_version() is not None else []
    # OpenVINO computes in bfloat16 only where the processor does.
    precisions = ["float32", "bfloat16"] if autocast_dtype(device) is torch.bfloat16 else ["float32"]
    return [_Way(where, "torch", "bfloat16"), *(_Way(where, engine, each) for engine in engines for each in precisions)]


def check_predictions(rows: Rows, model: Model, ct: sitk.Image, device: torch.device, judge: bool) -> None:
    """One row for each number format and engine: a CT's prediction beside that of float32 on the CPU."""
    kept: list[Prediction] = []

    def refer(way: _Way) -> dict[str, Any]:
        prediction, seconds = way.predict(model, ct, warm=False)
        kept.append(prediction)
        return {"warm_s": seconds, "organ_voxels": int((prediction.segmentation == 1).sum())}

    def compare(way: _Way) -> dict[str, Any]:
        forget_peak(device)
        found, seconds = way.predict(model, ct, warm=True)
        (reference,) = kept
        values = {"warm_s": seconds} | peak_of(device)
        values |= changes(found.probability, found.variance, reference.probability, reference.variance)
        values["dice"] = dice(found.segmentation, reference.segmentation)
        warnings = [text for text in found.warnings if text not in reference.warnings]
        if warnings:
            raise ResultError(" ".join(warnings), values)
        if judge:
            hold_to(way.bounds, values)
        return values

    truth = _Way("cpu", "torch", "float32")
    rows.add(str(truth), lambda: refer(truth))
    for way in _ways(device) if kept else ():
        rows.add(str(way), lambda way=way: compare(way))


def check_ladder(rows: Rows, model: Model, device: torch.device, tile: tuple[int, ...]) -> None:
    """Let memory run out: the sums go to the CPU, then the tile loop; sentences and results are what they should be.

    A GPU gets less memory than is needed. On a CPU, which is the last step itself, it is pretended that memory ran out
    on another device.
    """
    ladder = _Ladder(model, device, tile)
    rows.add("enough memory", ladder.enough)
    if "network_gb" in ladder.needs:
        rows.add("too little for the sums", lambda: ladder.step(1))
        rows.add("too little for the network", lambda: ladder.step(2))


@dataclass
class _Result:
    probability: Tensor
    variance: Tensor
    warnings: list[str]
    placement: Placement


class _Ladder:
    def __init__(self, model: Model, device: torch.device, tile: tuple[int, ...]) -> None:
        self.device, self.tile = device, tile
        self.network, self.fold = load_network(model, model.folds[0]), model.folds[0]
        self.classes = len(model.card.labels) + 1
        shape = SUMS_VOXELS if device.type == "cuda" else tuple(2 * n for n in tile)
        noise = torch.Generator().manual_seed(0)
        self.large = torch.randn((1, *shape), generator=noise).numpy()
        self.small = np.ascontiguousarray(self.large[:, : 2 * tile[0], : tile[1], : tile[2]])
        self.needs: dict[str, float] = {}
        self.expected: dict[int, _Result] = {}

    def enough(self) -> dict[str, Any]:
        """Results and needs with all the memory there is."""
        forget_peak(self.device)
        self.expected[2] = self._run(self.small, sums=CPU)
        cuda = self.device.type == "cuda"
        network = torch.cuda.max_memory_reserved(self.device) if cuda else 0
        self.expected[1] = self._run(self.large)
        sums = 2 * 4 * (self.classes - 1) * self.large[0].size
        weights = sum(each.numel() * each.element_size() for each in self.network.parameters())
        self.needs = {"network_gb": network / 1e9, "weights_gb": weights / 1e9, "sums_gb": sums / 1e9}
        return self.needs | peak_of(self.device)

    def step(self, number: int) -> dict[str, Any]:
        """Results when this many steps have to be taken."""
        network, weights, sums = (1e9 * self.needs[name] for name in ("network_gb", "weights_gb", "sums_gb"))
        budget = network + sums / 2 if number == 1 else weights + ROOM
        with self._limited(budget, number):
            found = self._run(self.large if number == 1 else self.small)
            wanted, said = Placement(self.device, self.device, Precision.FLOAT32), []
            for _ in range(number):
                wanted, text = wanted.lighter()
                said.append(text)
        expected = self.expected[number]
        values = {"budget_gb": budget / 1e9} if self.device.type == "cuda" else {}
        values |= changes(found.probability, found.variance, expected.probability, expected.variance)
        values["said"] = " ".join(found.warnings)
        if found.warnings != said:
            raise ResultError(f"It should have said: {' '.join(said)}", values)
        if found.placement != wanted:
            raise ResultError(f"It ended on {found.placement}, not on {wanted}.", values)
        # The last step chooses the number format anew, as the CPU has it.
        chosen = autocast_dtype(self.device if number == 1 else CPU, wanted.precision)
        half = chosen is not torch.float32
        largest = BOUNDS[Precision.BFLOAT16][0] if half else SAME if number == 1 else BOUNDS[Precision.FLOAT32][0]
        hold_to((largest, 0.99), values)  # labels of noise, many at the edge
        return values

    def _run(self, data: np.ndarray, sums: torch.device | None = None) -> _Result:
        placement = Placement(self.device, sums or self.device, Precision.FLOAT32)
        window = SlidingWindow(TorchEngine(lambda _: self.network, self.classes), placement, overlap=0.0)
        probability, variance = window.run(data, self.tile, (self.fold,))
        return _Result(probability, variance, window.warnings, window.placement)

    @contextmanager
    def _limited(self, budget: float, failures: int) -> Iterator[None]:
        if self.device.type != "cuda":
            with _pretended(failures):
                yield
            return
        self.network.cpu()  # it may have to fit anew
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(budget / total, 1.0), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)


@contextmanager
def _pretended(failures: int) -> Iterator[None]:
    """Take the CPU for another device, which has too little memory for the first passes."""
    engine, cpu, left = TorchEngine.run, sliding_window.CPU, [failures]

    def run(self: TorchEngine, x: Tensor) -> tuple[Tensor, ...]:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("out of memory, as is pretended")
        return engine(self, x)

    sliding_window.CPU, TorchEngine.run = torch.device("cpu", 0), run  # the same device by another name
    try:
        yield
    finally:
        sliding_window.CPU, TorchEngine.run = cpu, engine
