"""nnU-Net's plans and data set descriptions as hostile input."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.resampling.planners_no_resampling import (
    nnUNetPlannerResEncL_noResampling,
)
from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import (
    nnUNetPlanner_torchres,
    nnUNetPlannerResEncL_torchres,
    nnUNetPlannerResEncL_torchres_sepz,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.nnunet.dataset import check_dataset
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing
from MoBUncertaintyLib.network.backbone import build_network
from support.json_edits import json_values, paths, replaced
from support.tiny import DATASET, PLANS, SPEC


def _planned(*path: str, to: Any) -> dict[str, Any]:
    return replaced(PLANS, ("configurations", "3d_fullres", *path), to)


def _resampled(function: str, **arguments: Any) -> dict[str, Any]:
    planned = _planned("resampling_fn_data", to=function)
    return replaced(planned, ("configurations", "3d_fullres", "resampling_fn_data_kwargs"), arguments)


OLD_PLANS: dict[str, Any] = PLANS | {
    "configurations": {
        "3d_fullres": {k: v for k, v in PLANS["configurations"]["3d_fullres"].items() if k != "architecture"}
        | {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "num_pool_per_axis": [1, 1, 1],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
            "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        }
    }
}

ARCHITECTURE = ("architecture", "arch_kwargs")
ARGUMENTS = PLANS["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
HOSTILE_PLANS = {
    "network of another package": _planned("architecture", "network_class_name", to="os.system"),
    "path through a module's imports": _planned(
        "architecture", "network_class_name", to="dynamic_network_architectures.architectures.unet.torch.hub"
    ),
    "network that unpickles": _planned(
        "architecture",
        "network_class_name",
        to="dynamic_network_architectures.architectures.dinov2_eva.DinoVisionTransformer",
    ),
    "operator of another package": _planned(*ARCHITECTURE, "conv_op", to="subprocess.Popen"),
    "operator through torch's imports": _planned(*ARCHITECTURE, "nonlin", to="torch.nn.functional.torch.load"),
    "operator with a trailing newline": _planned(*ARCHITECTURE, "nonlin", to="torch.nn.ReLU\n"),
    "operator that is no name": _planned(*ARCHITECTURE, "nonlin", to=3),
    "operator of any size": _planned(
        *ARCHITECTURE, to=ARGUMENTS | {"norm_op": "torch.nn.Linear", "norm_op_kwargs": {"out_features": 10**8}}
    ),
    "operator in another's place": _planned(*ARCHITECTURE, "nonlin", to="torch.nn.Conv3d"),
    "argument of another operator": _planned(*ARCHITECTURE, "norm_op_kwargs", to={"out_features": 10**8}),
    "argument of another kind": _planned(*ARCHITECTURE, "nonlin_kwargs", "inplace", to="yes"),
    "arguments that are none": _planned(*ARCHITECTURE, "nonlin_kwargs", to=[1]),
    "imported sizes": _planned("architecture", "_kw_requires_import", to=["n_stages"]),
    "argument that is not there": _planned("architecture", "_kw_requires_import", to=["x"]),
    "resampling": _planned("resampling_fn_probabilities", to="subprocess"),
    "resampling arguments": _planned("resampling_fn_data_kwargs", to={"hook": 1}),
    "no resampling arguments": _planned("resampling_fn_seg_kwargs", to=None),
    "spline of no order": _planned("resampling_fn_data_kwargs", to={"order": 1.5}),
    "spline of too high an order": _planned("resampling_fn_data_kwargs", to={"order": 6}),
    "threads without end": _resampled("resample_torch_fornnunet", num_threads=10**9),
    "splines for torch": _resampled("resample_torch_fornnunet", order=3),
    "torch's mode for splines": _resampled("resample_data_or_seg_to_shape", mode="linear"),
    "mode that torch lacks": _resampled("resample_torch_fornnunet", mode="best"),
    "no resampling of segmentations": _resampled("no_resampling_hack", is_seg=True),
    "resampling that plans cannot name": _resampled("resample_torch_simple"),
    "normalisation of photographs": _planned("normalization_schemes", to=["RGBTo01Normalization"]),
    "a name of a megabyte": _planned("resampling_fn_data", to="x" * 2**20),
    "patch of a whole scan": _planned("patch_size", to=[1024, 1024, 64]),
    "normalisation": _planned("normalization_schemes", to=["Popen"]),
    "preprocessor": _planned("preprocessor_name", to="MyPreprocessor"),
    "reader": PLANS | {"image_reader_writer": "Popen"},
    "label manager": PLANS | {"label_manager": "Popen"},
    "transposition": PLANS | {"transpose_forward": [0, 1, 1]},
    "transpositions that disagree": PLANS | {"transpose_forward": [1, 2, 0], "transpose_backward": [1, 2, 0]},
    "infinite spacing": _planned("spacing", to=[1.0, float("inf"), 1.0]),
    "zero spacing": _planned("spacing", to=[0, 1, 1]),
    "huge patch": _planned("patch_size", to=[1024, 1024, 1024]),
    "fractional patch": _planned("patch_size", to=[8.5, 8, 8]),
    "patch unlike the strides": _planned("patch_size", to=[8, 8, 7]),
    "a network larger than any computer": _planned(
        *ARCHITECTURE, to=ARGUMENTS | {"features_per_stage": [1024] * 3, "kernel_sizes": [[11] * 3] * 3}
    ),
    "strides as large kernels": replaced(
        _planned(*ARCHITECTURE, to=ARGUMENTS | {"features_per_stage": [1024] * 3, "strides": [1, 16, 16]}),
        ("configurations", "3d_fullres", "patch_size"),
        [256] * 3,
    ),
    "a wide bottleneck": _planned(
        *ARCHITECTURE, to=ARGUMENTS | {"bottleneck_channels": 1024, "kernel_sizes": [[11] * 3] * 3}
    ),
    "features without end": _planned(*ARCHITECTURE, "features_per_stage", to=[4, 8, 10**6]),
    "kernels without end": _planned(*ARCHITECTURE, "kernel_sizes", to=[[3, 3, 3], [999, 3, 3]]),
    "no strides": _planned(*ARCHITECTURE, to={"n_stages": 2}),
    "intensities": PLANS | {"foreground_intensity_properties_per_channel": {}},
    "no deviation": replaced(PLANS, ("foreground_intensity_properties_per_channel", "0", "std"), 0),
    "a mask for one of two images": _planned("normalization_schemes", to=["NoNormalization"] * 2),
    "two-dimensional, in a way": _planned("patch_size", to=[64, 64]),
    "a spacing for two axes": _planned("spacing", to=[1.0, 1.0]),
    "cascade without its first stage": _planned("previous_stage", to="3d_lowres"),
    "cascade of itself": _planned("previous_stage", to="3d_fullres"),
    "cascade of a number": _planned("previous_stage", to=3),
    "inherits from itself": _planned("inherits_from", to="3d_fullres"),
    "inherits from nothing": _planned("inherits_from", to="3d_none"),
    "no configurations": PLANS | {"configurations": None},
}


@pytest.mark.parametrize("what", HOSTILE_PLANS)
def test_plans_that_are_unsafe_or_absurd_are_refused(what: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_plans(HOSTILE_PLANS[what], "3d_fullres")
    assert len(str(caught.value)) < 400


UNSUITABLE_DATASETS = {
    "a channel's name that is none": {"channel_names": {"0": 5}},
    "a list of channels": {"channel_names": {"0": ["CT"]}},
    "an ignore label among others": {"labels": {"background": 0, "ignore": 1, "organ": 2}},
    "an ignore label of an organ": {"labels": {"background": 0, "organ": 1, "ignore": 1}},
    "an ignore label far off": {"labels": {"background": 0, "organ": 1, "ignore": 255}},
    "a negative ignore label": {"labels": {"background": 0, "organ": 1, "ignore": -1}},
}


@pytest.mark.parametrize("change", UNSUITABLE_DATASETS.values(), ids=UNSUITABLE_DATASETS.keys())
def test_datasets_that_nnunet_would_fail_on_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        check_dataset(DATASET | change)


def test_an_ignore_label_is_no_class() -> None:
    assert check_dataset(DATASET | {"labels": {"background": 0, "organ": 1, "ignore": 2}}) == ({1: "organ"}, {})


PLANNERS = [
    ExperimentPlanner,
    ResEncUNetPlanner,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncXL,
    nnUNetPlanner_torchres,
    nnUNetPlannerResEncL_torchres,
    nnUNetPlannerResEncL_torchres_sepz,
    nnUNetPlannerResEncL_noResampling,
]


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_nnunet_plans_itself_is_accepted(planner: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_experiment_planner, "maybe_convert_to_dataset_name", lambda name: name)
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setattr(default_experiment_planner, folder, str(tmp_path / folder))
        (tmp_path / folder / "Dataset001_Tiny").mkdir(parents=True)
    raw, preprocessed = (tmp_path / folder / "Dataset001_Tiny" for folder in ("nnUNet_raw", "nnUNet_preprocessed"))
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), raw / "case.nii.gz")
    case = {"images": [str(raw / "case.nii.gz")], "label": str(raw / "case.nii.gz")}
    (raw / "dataset.json").write_text(json.dumps(DATASET | {"dataset": {"case": case}}))
    fingerprint = {"spacings": [[3.0, 0.8, 0.8]], "shapes_after_crop": [[60, 200, 200]]}
    intensities = "foreground_intensity_properties_per_channel"
    fingerprint |= {"median_relative_size_after_cropping": 1.0, intensities: PLANS[intensities]}
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with torch.device("meta"):  # planning builds many networks
        planning = planner(raw.name)
        planning.plan_experiment()
    plans = json.loads((preprocessed / f"{planning.plans_identifier}.json").read_text())
    assert check_plans(plans, "3d_fullres")["architecture"]["arch_kwargs"]["conv_op"] == "torch.nn.modules.conv.Conv3d"


def test_a_configuration_gets_what_it_inherits() -> None:
    plans = replaced(PLANS, ("configurations", "3d_more"), {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]})
    planned = check_plans(plans, "3d_more")
    assert planned["spacing"] == [2.0, 2.0, 2.0] and planned["patch_size"] == [8, 8, 8]


def test_plans_from_before_nnunet_2_4_are_still_read() -> None:
    with pytest.warns(UserWarning, match="old nnU-Net plans"):
        assert build_network(OLD_PLANS, DATASET, "3d_fullres", SPEC).backbone.encoder.output_channels == [4, 8]
    old = ("configurations", "3d_fullres")
    with pytest.raises(ModelError):
        check_plans(replaced(OLD_PLANS, (*old, "UNet_base_num_features"), 10**6), "3d_fullres")
    large = replaced(OLD_PLANS, (*old, "unet_max_num_features"), 1024)
    with pytest.raises(ModelError):
        check_plans(replaced(large, (*old, "conv_kernel_sizes"), [[11] * 3] * 2), "3d_fullres")


def test_spacing_is_given_along_the_axes_of_the_image() -> None:
    # nnU-Net's arrays are z, y, x; transposed to x, z, y here, and so is the planned spacing.
    plans = {"transpose_backward": [1, 2, 0]}
    assert image_spacing(plans, {"spacing": [1.0, 3.0, 1.5]}) == (1.0, 1.5, 3.0)


@given(path=st.sampled_from(paths(PLANS)), value=json_values)
def test_no_content_of_plans_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    # What passes the checks must not trip nnU-Net either. On torch's meta device a network takes no memory.
    with suppress(ModelError), torch.device("meta"):
        build_network(replaced(PLANS, path, value), DATASET, "3d_fullres", SPEC)


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@given(path=st.sampled_from(paths(OLD_PLANS)), value=json_values)
def test_no_content_of_old_plans_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    plans = replaced(OLD_PLANS, path, value)
    with suppress(ModelError):
        check_plans(plans, "3d_fullres")
        PlansManager(plans).get_configuration("3d_fullres")


@given(path=st.sampled_from(paths(DATASET)), value=json_values)
def test_no_content_of_a_dataset_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        names, _ = check_dataset(replaced(DATASET, path, value))
    except ModelError:
        return
    assert list(names) == list(range(1, len(names) + 1))
