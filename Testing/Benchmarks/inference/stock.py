"""Systems a and b: nnU-Net's own predictor, from a file to files, its steps timed from outside.

The way is `nnUNetPredictor.predict_from_files_sequential`, nnU-Net's without further processes: for one CT the other
way would add seconds of starting them. nnU-Net computes as it does for everybody: fp32 on a CPU, its own preprocessing
and export, half-precision sums, tiles that overlap by half; without mirroring, since the networks were trained without.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import nnunetv2.inference.predict_from_raw_data as stock
import numpy as np
import SimpleITK as sitk
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.inference import export_prediction
from torch import Tensor

from inference.measure import StageClock, settle
from MoBUncertaintyLib.inference.devices import select_device

FEWEST_PASSES = 3


class StockSystem:
    """Stock nnU-Net, deterministic or with K passes over all tiles.

    Args:
        network: The stock results folder.
        device: As for `predict`.
        passes: K; 1 is plain nnU-Net.
        limit: Seconds for all passes; where they would take longer, `FEWEST_PASSES` are made and the rest is computed
            from them.
    """

    def __init__(self, network: Path, device: str, passes: int = 1, limit: float = np.inf) -> None:
        self.device = select_device(device)
        self.clock = StageClock(settle(self.device))
        self.passes, self.made = passes, 0
        options = {"use_mirroring": False, "device": self.device, "allow_tqdm": False}
        with _quiet(), self.clock.stage("load"):
            if passes == 1:
                self.predictor = stock.nnUNetPredictor(**options)
            else:
                self.predictor = SeveralPasses(passes, limit, self.clock, **options)
            self.predictor.initialize_from_trained_model_folder(str(network), (0,))
        self.load_seconds = self.clock.take()["load"]
        self._time_steps()

    def run(self, ct: Path, output: Path) -> dict[str, Any]:
        """Predict a file; the seconds of its stages, and in total."""
        output.mkdir(parents=True, exist_ok=True)
        with _quiet(), self.clock.stage("other"):
            self.predictor.predict_from_files_sequential([[str(ct)]], [str(output / "case")], save_probabilities=True)
        stages = self.clock.take()
        self.made = getattr(self.predictor, "made", 1)
        if self.made < self.passes:
            for name in SeveralPasses.REPEATED:
                stages[name] *= self.passes / self.made
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
            "passes": self.made,
            "extrapolated": self.made < self.passes,
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


class SeveralPasses(stock.nnUNetPredictor):
    """K passes over all tiles, as dropout needs: mean and variance of the softmax, in fp32 on the network's grid.

    Here every pass gives the same, since the networks have no dropout; what it costs does not depend on that. The mean
    goes nnU-Net's own way to its files; the variance of the foreground is resampled by nnU-Net's function for
    probabilities and written beside them.
    """

    REPEATED = ("backbone", "blend", "moments")
    """The stages that K passes repeat."""

    def __init__(self, passes: int, limit: float, clock: StageClock, **options: Any) -> None:
        super().__init__(**options)
        self.passes, self.limit, self.clock, self.made = passes, limit, clock, 0

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Logarithm of the mean probability, (C, *S): its softmax is the mean."""
        first = second = None
        self.made = 0
        before = self.clock.seconds["backbone"]
        while self.made < self.passes:
            logits = super().predict_logits_from_preprocessed_data(data)
            with self.clock.stage("moments"):
                p = torch.softmax(logits.float(), dim=0)
                first = p if first is None else first.add_(p)
                second = p[1:].square() if second is None else second.addcmul_(p[1:], p[1:])
            self.made += 1
            spent = self.clock.seconds["backbone"] - before
            if self.made >= FEWEST_PASSES and spent / self.made * self.passes > self.limit:
                break
        with self.clock.stage("moments"):
            first /= self.made
            self.variance = (second / self.made - first[1:].square()).clamp_(min=0)
            return first.clamp_(min=1e-30).log_()

    @functools.wraps(stock.nnUNetPredictor.predict_from_files_sequential)  # nnU-Net writes down its own parameters
    def predict_from_files_sequential(self, sources: Any, targets: Any, **options: Any) -> None:
        """nnU-Net's, and then the variance."""
        properties: list[dict[str, Any]] = []
        export = stock.export_prediction_from_logits

        def noting(logits: Tensor, case: dict[str, Any], *rest: Any) -> None:
            properties.append(case)
            export(logits, case, *rest)

        stock.export_prediction_from_logits = noting
        try:
            super().predict_from_files_sequential(sources, targets, **options)
        finally:
            stock.export_prediction_from_logits = export
        for case, target in zip(properties, targets, strict=True):
            self._write_variance(case, f"{target}_variance.nii.gz")

    def _write_variance(self, case: dict[str, Any], path: str) -> None:
        with self.clock.stage("resample"):
            spacing = [case["spacing"][axis] for axis in self.plans_manager.transpose_forward]
            resampled = self.configuration_manager.resampling_fn_probabilities(
                self.variance,
                case["shape_after_cropping_and_before_resampling"],
                self.configuration_manager.spacing,
                spacing,
            )
            volume = np.zeros(case["shape_before_cropping"], np.float32)
            volume = insert_crop_into_image(volume, np.asarray(resampled[0]), case["bbox_used_for_cropping"])
            volume = volume.transpose(self.plans_manager.transpose_backward)
        with self.clock.stage("write"):
            image = sitk.GetImageFromArray(volume)
            image.SetSpacing(case["sitk_stuff"]["spacing"])
            image.SetOrigin(case["sitk_stuff"]["origin"])
            image.SetDirection(case["sitk_stuff"]["direction"])
            sitk.WriteImage(image, path, useCompression=True)


@contextlib.contextmanager
def _quiet():
    """nnU-Net prints what it does; nobody reads it here."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
