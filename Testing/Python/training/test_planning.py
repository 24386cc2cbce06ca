"""The small network's plan, with nnU-Net's kernels and strides where slices are far apart; the workspace it lies in."""

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.training.planning import FastPlanner, SmallResEncPlanner
from mob_training.training.workspace import FOLDERS
from MoBUncertaintyLib.base.errors import SettingsError

FAR = (10.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("spacing", "extent", "patch", "strides", "first_kernel"),
    [
        ((1.0, 1.0, 1.0), (36, 50, 35), [40, 56, 40], ([1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]), [3, 3, 3]),
        ((3.0, 2.5, 2.5), (90, 140, 140), [48, 64, 64], ([1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]), [3, 3, 3]),
        (FAR, (9, 256, 216), [10, 112, 112], ([1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]), [1, 3, 3]),
    ],
)
def test_patch_strides_and_kernels_follow_the_spacing(monkeypatch, spacing, extent, patch, strides, first_kernel):
    def planned(self, *_):
        return {"architecture": {"arch_kwargs": {}}}

    monkeypatch.setattr(ResEncUNetPlanner, "get_plans_for_configuration", planned)
    planner = SmallResEncPlanner.__new__(SmallResEncPlanner)
    planner.UNet_featuremap_min_edge_length = 4
    plan = planner.get_plans_for_configuration(spacing, extent, "", 0, {})
    shape = plan["architecture"]["arch_kwargs"]
    assert plan["patch_size"] == patch
    assert [list(stride) for stride in shape["strides"]] == list(strides)
    assert list(shape["kernel_sizes"][0]) == first_kernel and list(shape["kernel_sizes"][-1]) == [3, 3, 3]
    assert shape["n_stages"] == len(shape["features_per_stage"]) == len(shape["kernel_sizes"]) == 4


def test_fast_plan_has_more_stages_and_clips_ct_below_fat(monkeypatch):
    def opened(self, *_, **__):
        self.dataset_json = {"channel_names": {"0": "CT", "1": "MRI"}}
        self.dataset_fingerprint = {
            "foreground_intensity_properties_per_channel": {
                "0": {"percentile_00_5": -990.0},
                "1": {"percentile_00_5": -990.0},
            },
            "median_relative_size_after_cropping": 1.0,
        }

    def planned(self, *_):
        return {"architecture": {"arch_kwargs": {}}}

    monkeypatch.setattr(ExperimentPlanner, "__init__", opened)
    monkeypatch.setattr(ExperimentPlanner, "get_plans_for_configuration", planned)
    planner = FastPlanner(1)
    lowest = [
        intensities["percentile_00_5"]
        for intensities in planner.dataset_fingerprint["foreground_intensity_properties_per_channel"].values()
    ]
    assert lowest == [-300, -990]
    plan = planner.get_plans_for_configuration((3.9, 2.5, 3.9), (79, 98, 122), "", 0, {})
    shape = plan["architecture"]["arch_kwargs"]
    assert plan["patch_size"] == [48, 64, 64] and plan["batch_size"] == 2
    assert shape["n_stages"] == len(shape["features_per_stage"]) == len(shape["n_conv_per_stage"]) == 5


@pytest.mark.parametrize("command", ["plan", "train", "finetune"])
def test_a_workspace_that_is_not_there_is_named_and_not_made(tmp_path, command, monkeypatch):
    for variable in FOLDERS:
        monkeypatch.setenv(variable, "")  # as it was before, afterwards
    options = {
        "plan": ["--dataset-id", "1"],
        "train": ["--dataset-id", "1", "--epochs", "1"],
        "finetune": [str(tmp_path)],
    }
    done = CliRunner().invoke(app, [command, *options[command], "--workspace", str(tmp_path / "typo")])
    assert isinstance(done.exception, SettingsError)
    assert "typo is not a workspace: it has none of the folders raw, preprocessed and results" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "typo" / "raw").mkdir(parents=True)
    done = CliRunner().invoke(app, ["plan", "--dataset-id", "1", "--workspace", str(tmp_path / "typo")])
    assert "There is no data set 1 in" in str(done.exception)
