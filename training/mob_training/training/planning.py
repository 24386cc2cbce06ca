"""nnU-Net's planning, with nnU-Net's large residual encoder or a small one that trains on two CPU cores."""

from __future__ import annotations

import os

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
    nnUNetPlannerResEncL,
)
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset

from mob_training.data.datasets import copy_case_files
from mob_training.training.augmentation import CT
from mob_training.training.settings import Preset
from mob_training.training.workspace import dataset_folder

CONFIGURATION = "3d_fullres"


class SmallPlanner(ExperimentPlanner):
    """nnU-Net's plan (spacing, normalisation, resampling, anisotropy) with a network that a CPU can train."""

    NAME: str
    FEATURES: tuple[int, ...]
    LAYERS: tuple[str, tuple[int, ...]]
    """nnU-Net's keyword for the blocks or convolutions of each stage, and how many."""
    PATCH = (48, 64, 64)
    PATCH_OF_SLICES = (16, 112, 112)
    """Where slices are so far apart that nnU-Net treats the axis apart."""
    BATCH_SIZE = 2

    def __init__(self, dataset_id: int) -> None:
        super().__init__(dataset_id, plans_name=self.NAME)
        self.UNet_min_batch_size = self.BATCH_SIZE

    def get_plans_for_configuration(self, spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache):
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        if len(spacing) == 3:
            limits = self.PATCH_OF_SLICES if max(spacing) > ANISO_THRESHOLD * min(spacing) else self.PATCH
            patch = [min(size, round(extent)) for size, extent in zip(limits, median_shape, strict=True)]
            _, strides, kernels, patch, _ = get_pool_and_conv_props(
                spacing, patch, self.UNet_featuremap_min_edge_length, len(self.FEATURES) - 1
            )
            stages = len(strides)
            keyword, layers = self.LAYERS
            plan["patch_size"] = [int(size) for size in patch]
            plan["batch_size"] = self.BATCH_SIZE
            plan["architecture"]["arch_kwargs"].update(
                {
                    "n_stages": stages,
                    "features_per_stage": self.FEATURES[:stages],
                    "kernel_sizes": kernels,
                    "strides": strides,
                    keyword: layers[:stages],
                    "n_conv_per_stage_decoder": (1,) * (stages - 1),
                }
            )
        return plan


class SmallResEncPlanner(SmallPlanner, ResEncUNetPlanner):
    """A residual encoder of 1.7 million weights."""

    NAME = "mobSmallPlans"
    FEATURES = (16, 32, 64, 96)
    LAYERS = ("n_blocks_per_stage", (1, 1, 2, 2))


class FastPlanner(SmallPlanner):
    """A plain U-Net with half as many weights again, and two thirds of the work, most of it saved at full resolution.

    In CT, what is less dense than fat looks alike: the contrast of soft tissue is then more of what a network sees.
    """

    NAME = "mobFastPlans"
    FEATURES = (16, 32, 64, 112, 128)
    LAYERS = ("n_conv_per_stage", (1, 2, 2, 2, 2))
    LOWEST_HU = -300.0

    def __init__(self, dataset_id: int) -> None:
        super().__init__(dataset_id)
        self.UNet_featuremap_min_edge_length = 2
        schemes, _ = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        channels = self.dataset_fingerprint["foreground_intensity_properties_per_channel"]
        for scheme, intensities in zip(schemes, channels.values(), strict=True):
            if scheme == CT:
                intensities["percentile_00_5"] = max(intensities["percentile_00_5"], self.LOWEST_HU)


PLANNERS = {Preset.SMALL: SmallResEncPlanner, Preset.FAST: FastPlanner, Preset.LARGE: nnUNetPlannerResEncL}


def plan_and_preprocess(dataset_id: int, preset: Preset, processes: int = 2) -> str:
    """Fingerprint, plan and preprocess a raw data set, whose split becomes nnU-Net's; return the name of the plans.

    Raises:
        SettingsError: There is no data set of that number.
    """
    raw = dataset_folder("raw", dataset_id)
    # nnU-Net's planner takes this, meant for training, as its number of threads, and 0 is none.
    os.environ["nnUNet_n_proc_DA"] = str(processes)
    extract_fingerprint_dataset(dataset_id, num_processes=processes)
    planner = PLANNERS[preset](dataset_id)
    planner.plan_experiment()
    preprocess_dataset(
        dataset_id,
        plans_identifier=planner.plans_identifier,
        configurations=(CONFIGURATION,),
        num_processes=(processes,),
    )
    copy_case_files(raw, dataset_folder("preprocessed", dataset_id))
    return planner.plans_identifier
