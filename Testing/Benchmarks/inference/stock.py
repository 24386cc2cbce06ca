"""System a: nnU-Net's own predictor, from a file to files, its steps timed from outside.

The way is `nnUNetPredictor.predict_from_files_sequential`, nnU-Net's without further processes: for one CT the other
way would add seconds of starting them. nnU-Net computes as it does for everybody: fp32 on a CPU, its own preprocessing
and export, half-precision sums, tiles that overlap by half; without mirroring, since the networks were trained without.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import nnunetv2.inference.predict_from_raw_data as stock
from nnunetv2.inference import export_prediction
from torch import Tensor

from inference.measure import StageClock, settle
from MoBUncertaintyLib.inference.devices import select_device


class StockSystem:
    """Stock nnU-Net.

    Args:
        network: The stock results folder.
        device: As for `predict`.
    """

    def __init__(self, network: Path, device: str) -> None:
        self.device = select_device(device)
        self.clock = StageClock(settle(self.device))
        with _quiet(), self.clock.stage("load"):
            self.predictor = stock.nnUNetPredictor(use_mirroring=False, device=self.device, allow_tqdm=False)
            self.predictor.initialize_from_trained_model_folder(str(network), (0,))
        self.load_seconds = self.clock.take()["load"]
        self._time_steps()

    def run(self, ct: Path, output: Path) -> dict[str, Any]:
        """Predict a file; the seconds of its stages, and in total."""
        output.mkdir(parents=True, exist_ok=True)
        with _quiet(), self.clock.stage("other"):
            self.predictor.predict_from_files_sequential([[str(ct)]], [str(output / "case")], save_probabilities=True)
        stages = self.clock.take()
        return {"total": sum(stages.values()), "stages": stages}

    def describe(self) -> dict[str, Any]:
        """What the measurement states beside its seconds."""
        shape = self.predictor.input_shape
        slicers = self.predictor._internal_get_sliding_window_slicers(shape)
        return {
            "device": str(self.device),
            "engine": "torch",
            "precision": "autocast" if self.device.type == "cuda" else "float32",
            "tiles": len(slicers),
            "input_voxels": list(shape),
        }

    def _time_steps(self) -> None:
        """Every step of nnU-Net under its stage; what lies around the network's calls is blending."""
        predictor, clock = self.predictor, self.clock
        reader = predictor.plans_manager.image_reader_writer_class
        preprocessor = predictor.configuration_manager.preprocessor_class
        clock.wrap(reader, "read_images", "read")
        clock.wrap(preprocessor, "run_case", "preprocess")
        clock.wrap(predictor, "_internal_maybe_mirror_and_predict", "backbone")
        clock.wrap(predictor, "predict_logits_from_preprocessed_data", "blend")
        clock.wrap(export_prediction, "convert_predicted_logits_to_segmentation_with_correct_shape", "resample")
        clock.wrap(stock, "export_prediction_from_logits", "write")
        sliding = predictor.predict_sliding_window_return_logits

        def noted(data: Tensor) -> Tensor:
            predictor.input_shape = tuple(
                max(n, p) for n, p in zip(data.shape[1:], predictor.configuration_manager.patch_size, strict=True)
            )
            return sliding(data)

        predictor.predict_sliding_window_return_logits = noted


@contextlib.contextmanager
def _quiet():
    """nnU-Net prints what it does; nobody reads it here."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
