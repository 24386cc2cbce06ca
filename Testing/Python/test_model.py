"""Model folders: what is written is read back, and nothing wrong or hostile gets through."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file, save_file

from MoBUncertaintyLib import archive, model_export, weights
from MoBUncertaintyLib.card import Label, ModelCard, card_from_json
from MoBUncertaintyLib.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.errors import ModelError, OutputError
from MoBUncertaintyLib.model import find_model, list_models, load_model, read_card, verify
from MoBUncertaintyLib.model_export import export, write_model, zip_model
from MoBUncertaintyLib.network import StochasticNetwork, build_network, load_network
from MoBUncertaintyLib.plans import check_dataset, check_plans, image_spacing
from MoBUncertaintyLib.terminology import describe_labels, terminology

RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset007_Abdomen",
    "plans_name": "tinyPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 80.0, "std": 40.0, "percentile_00_5": -100.0, "percentile_99_5": 250.0}
    },
    "configurations": {
        "3d_fullres": {
            "data_identifier": "tinyPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [8, 8, 8],
            "spacing": [3.0, 1.5, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": RESAMPLING,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": RESAMPLING,
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": RESAMPLING,
            "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    "n_blocks_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}
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
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "pancreas": 1},
    "numTraining": 12,
    "file_ending": ".nii.gz",
}
SPEC = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)


def card(**changes: Any) -> ModelCard:
    return replace(
        ModelCard(
            name="Tiny",
            task="Pancreas in CT.",
            labels=describe_labels({1: "pancreas"}),
            covariance=SPEC,
            configuration="3d_fullres",
            orientation="RAS",
            spacing=(1.0, 1.5, 3.0),
            training={"cases": 12},
            scores={"dice": 0.9},
            licence="CC-BY-4.0",
        ),
        **changes,
    )


def network(seed: int = 0) -> StochasticNetwork:
    torch.manual_seed(seed)
    return build_network(PLANS, DATASET, "3d_fullres", SPEC).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two folds. Tests that change it copy it."""
    folder = tmp_path_factory.mktemp("models") / "Tiny"
    write_model(folder, card(), PLANS, DATASET, {0: network(0).state_dict(), 1: network(1).state_dict()})
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "Tiny")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that nnU-Net's own trainer wrote after an epoch of one iteration."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    root = tmp_path_factory.mktemp("nnunet")
    plans = copy.deepcopy(PLANS) | {"continue_training": False}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        case = root / "preprocessed" / "Dataset007_Abdomen" / "tinyPlans_3d_fullres" / "case.b2nd"
        case.parent.mkdir(parents=True)
        case.touch()
        patch.setattr("nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda *_: None)
        trainer = nnUNetTrainer(plans, "3d_fullres", 0, copy.deepcopy(DATASET), torch.device("cpu"))
        trainer.initialize()
        trainer.inference_allowed_mirroring_axes = (0, 1, 2)
        batch = {
            "data": torch.randn(2, 1, 8, 8, 8),
            "target": [torch.randint(0, 2, (2, 1, size, size, size)).float() for size in (8, 4)],
        }
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(batch)])
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(batch)])
        trainer.on_epoch_end()
        results = Path(trainer.output_folder_base)
        trainer.save_checkpoint(str(results / "fold_0" / "checkpoint_final.pth"))
    # As nnU-Net's run_training.py does.
    (results / "plans.json").write_text(json.dumps(PLANS))
    (results / "dataset.json").write_text(json.dumps(DATASET | {"training": [{"image": "/home/jane/DOE^JOHN.nii.gz"}]}))
    return results


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place; `change` gets its content."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def rehash(folder: Path) -> None:
    """Make the hashes in `model.json` those of the files, as a careful forger would."""
    edit(
        folder / "model.json",
        lambda content: content.update(
            files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
        ),
    )


# ---------------------------------------------------------------------------------------------- writing and reading


def test_a_written_model_reads_back_as_it_was(written: Path) -> None:
    model = verify(written)
    assert replace(model.card, files={}) == card()
    assert model.folds == (0, 1)
    for fold in model.folds:
        expected, found = network(fold).state_dict(), model.state_dict(fold)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_read_weights_make_the_network_that_was_written(written: Path) -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    expected, found = network(1)(x), load_network(load_model(written), 1)(x)
    assert torch.equal(expected.mean, found.mean)
    assert torch.equal(expected.marginal_covariance(), found.marginal_covariance())


def test_each_tensor_is_stored_once_whatever_its_names(written: Path) -> None:
    state = network(0).state_dict()
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
    stored = load_file(written / "fold_0" / "weights.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(distinct.values())
    assert sum(tensor.numel() for tensor in state.values()) > 2 * sum(distinct.values())


def test_half_precision_halves_the_file_and_reads_as_float32(written: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "Half", card(), PLANS, DATASET, {0: network(0).state_dict()}, half=True)
    stored = load_file(tmp_path / "Half" / "fold_0" / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    expected, found = network(0).state_dict(), load_model(tmp_path / "Half").state_dict(0)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=5e-4, atol=1e-7)


def test_a_weight_outside_float16_is_refused_in_half_precision(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["head.basis"] = state["head.basis"] * 1e6
    with pytest.raises(ModelError, match="float16"):
        write_model(tmp_path / "Half", card(), PLANS, DATASET, {0: state}, half=True)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_that_of_the_card_file(written: Path) -> None:
    assert load_model(written).digest == hashlib.sha256((written / "model.json").read_bytes()).hexdigest()


def test_writing_never_replaces_what_is_there(folder: Path) -> None:
    before = (folder / "model.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_model(folder, card(name="Other"), PLANS, DATASET, {0: network(0).state_dict()})
    assert (folder / "model.json").read_bytes() == before


@pytest.mark.parametrize("name", ["Tiny", "Tiny.zip"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half of the wei")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_export, "write_weights", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_model(tmp_path / name, card(), PLANS, DATASET, {0: {}})
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_model(tmp_path / "file" / "Tiny", card(), PLANS, DATASET, {0: network(0).state_dict()})


def test_an_invalid_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"labels .*not those in dataset\.json"):
        write_model(tmp_path / "Tiny", card(labels=describe_labels({1: "liver"})), PLANS, DATASET, {0: {}})
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        write_model(tmp_path / "Tiny", card(scores={"dice": float("nan")}), PLANS, DATASET, {0: {}})


def test_lists_of_patients_are_left_out(tmp_path: Path) -> None:
    dataset = DATASET | {"training": [{"image": "DOE^JOHN.nii.gz"}], "test": ["x"], "dataset": {"a": {}}}
    write_model(tmp_path / "Tiny", card(), PLANS, dataset, {0: network(0).state_dict()})
    assert json.loads((tmp_path / "Tiny" / "dataset.json").read_text()) == DATASET


# -------------------------------------------------------------------------------------------------- broken folders


def _set(*path: str | int, to: Any) -> Any:
    """A change to model.json."""

    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return lambda folder: edit(folder / "model.json", change)


def _drop(*path: str | int) -> Any:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return lambda folder: edit(folder / "model.json", change)


def _weights(change: Any) -> Any:
    """A change to the first fold's weights file, with its hash put right."""

    def apply(folder: Path) -> None:
        change(folder / "fold_0" / "weights.safetensors")
        rehash(folder)

    return apply


def _forged(name: str, change: Any) -> Any:
    """A change to plans.json or dataset.json, with its hash put right."""

    def apply(folder: Path) -> None:
        edit(folder / name, change)
        rehash(folder)

    return apply


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _with_nan(path: Path) -> None:
    state = load_file(path)
    state["head.basis"][0, 0, 0] = float("nan")
    save_file(state, path)


def _with_bad_alias(path: Path) -> None:
    save_file(load_file(path), path, metadata={"head.other": "head.missing"})


BROKEN_FOLDERS = {
    "no model.json": (lambda f: (f / "model.json").unlink(), r"has no model\.json"),
    "invalid JSON": (lambda f: (f / "model.json").write_text("{"), r"model\.json .* is not valid JSON"),
    "not text": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe{}"), "is not valid JSON"),
    "NaN in JSON": (lambda f: (f / "model.json").write_text('{"a": NaN}'), "NaN is not a number in JSON"),
    "JSON nested too deep": (lambda f: (f / "model.json").write_text("[" * 100_000), "is not valid JSON"),
    "not an object": (lambda f: (f / "model.json").write_text("[1]"), "is not a JSON object"),
    "huge JSON": (lambda f: (f / "model.json").write_text('"' + "a" * (16 << 20) + '"'), "larger than 16 MB"),
    "newer version": (_set("schema_version", to=2), "update MoB Uncertainty"),
    "unknown version": (_set("schema_version", to=0), "unknown schema version 0"),
    "no version": (_drop("schema_version"), "does not say its schema version"),
    "missing key": (_drop("licence"), "it lacks 'licence'"),
    "unknown key": (_set("hook", to="x"), "unknown entry 'hook'"),
    "wrong type": (_set("task", to=3), "'task' must be text"),
    "a boolean as a number": (_set("covariance", "rank", to=True), "'rank' must be a whole number"),
    "empty name": (_set("name", to=" "), "'name' must be one line"),
    "name of two lines": (_set("name", to="a\nb"), "'name' must be one line"),
    "no labels": (_set("labels", to=[]), "'labels' must have the values 1, 2"),
    "label without colour": (_drop("labels", 0, "colour"), "a label lacks 'colour'"),
    "impossible colour": (_set("labels", 0, "colour", to=[0, 0, 256]), "whole numbers from 0 to 255"),
    "no terminology": (_drop("labels", 0, "terminology", "type"), "terminology .* lacks 'type'"),
    "half a code": (_set("labels", 0, "terminology", "type", to=["SCT"]), r"must be \[scheme, code, meaning\]"),
    "unknown covariance": (_set("covariance", "kind", to="wishart"), "'wishart' is not a valid Covariance"),
    "rank of zero": (_set("covariance", "rank", to=0), "rank must be a whole number from 1"),
    "orientation": (_set("orientation", to="RAR"), "'orientation' must be three letters"),
    "spacing": (_set("spacing", to=[1, 1, -1]), "'spacing' must be three positive numbers"),
    "spacing unlike the plans": (_set("spacing", to=[1, 1, 1]), r"is not that of plans\.json"),
    "mirror axes": (_set("mirror_axes", to=[3]), "'mirror_axes'"),
    "wrong labels": (_set("labels", 0, "name", to="liver"), r"\(liver\) are not those in dataset\.json \(pancreas\)"),
    "no such configuration": (_set("configuration", to="2d"), "no configuration '2d'"),
    "file outside the folder": (_set("files", "../x.json", to="0" * 64), "is no file of a model"),
    "hash is none": (_set("files", "plans.json", to="abc"), "no SHA-256"),
    "plans not listed": (_drop("files", "plans.json"), r"plans\.json, which its model\.json does not list"),
    "weights not listed": (
        _drop("files", "fold_1/weights.safetensors"),
        r"fold_1/weights\.safetensors, which its model\.json does not list",
    ),
    "missing plans": (lambda f: (f / "plans.json").unlink(), r"lacks plans\.json"),
    "missing weights": (lambda f: shutil.rmtree(f / "fold_1"), r"lacks fold_1/weights\.safetensors"),
    "changed plans": (lambda f: edit(f / "plans.json", lambda c: c.update(x=1)), r"plans\.json .* changed or damaged"),
    "changed weights": (lambda f: _truncate(f / "fold_0/weights.safetensors"), r"weights\.safetensors .* changed"),
    "truncated weights": (_weights(_truncate), "damaged or cut short"),
    "weights that are text": (_weights(lambda p: p.write_text("hello")), "damaged or cut short"),
    "weights not finite": (_weights(_with_nan), r"'head\.basis' .* not all finite"),
    "weights with a wrong alias": (_weights(_with_bad_alias), "refers to the tensor 'head.missing' wrongly"),
    "plans that import": (
        _forged("plans.json", lambda c: c["configurations"]["3d_fullres"].update(resampling_fn_data="os")),
        "not one of nnU-Net's own",
    ),
    "regions": (
        _forged("dataset.json", lambda c: c.update(labels={"background": 0, "pancreas": [1, 2]})),
        "overlapping regions",
    ),
}


@pytest.mark.parametrize("what", BROKEN_FOLDERS)
def test_a_broken_model_folder_is_refused_in_one_sentence(folder: Path, what: str) -> None:
    change, message = BROKEN_FOLDERS[what]
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        verify(folder)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 600


def test_no_fold_at_all_is_refused(folder: Path) -> None:
    for fold in (0, 1):
        shutil.rmtree(folder / f"fold_{fold}")
        _drop("files", f"fold_{fold}/weights.safetensors")(folder)
    with pytest.raises(ModelError, match="lists no weights"):
        load_model(folder)


def test_a_fold_it_does_not_have_is_named(written: Path) -> None:
    with pytest.raises(ModelError, match=r"no fold 7 \(there is: 0, 1\)"):
        load_model(written).state_dict(7)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for read in (load_model, read_card):
        with pytest.raises(ModelError, match="There is no model at"):
            read(tmp_path / "nowhere")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for read in (load_model, read_card):
        with pytest.raises(ModelError, match="not a readable zip"):
            read(tmp_path / "notes.txt")


def test_weights_larger_than_allowed_are_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WEIGHTS_LIMIT", 1000)
    with pytest.raises(ModelError, match="is larger than"):
        load_model(written).state_dict(0)


def test_weights_that_do_not_fit_the_plans_are_refused(folder: Path) -> None:
    _forged(
        "plans.json",
        lambda c: c["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            features_per_stage=[4, 8, 16]
        ),
    )(folder)
    with pytest.raises(ModelError, match="do not fit the network"):
        load_network(load_model(folder), 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _paths(value: Any) -> list[tuple[Any, ...]]:
    """Where every entry of nested JSON is."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in entries for path in [(key,), *((key, *rest) for rest in _paths(inner))]]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


CARD_JSON = json.loads(card(files={"plans.json": "0" * 64}).to_json())


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(_paths(CARD_JSON)), value=json_values)
def test_no_content_of_a_card_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        read = card_from_json(_replaced(CARD_JSON, path, value), "x")
    except ModelError:
        return
    assert card_from_json(json.loads(read.to_json()), "x") == read


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(_paths(PLANS)), value=json_values)
def test_no_content_of_plans_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    # What passes the checks must not trip nnU-Net either. On torch's meta device a network takes no memory.
    with suppress(ModelError), torch.device("meta"):
        build_network(_replaced(PLANS, path, value), DATASET, "3d_fullres", SPEC)


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(_paths(OLD_PLANS)), value=json_values)
def test_no_content_of_old_plans_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    plans = _replaced(OLD_PLANS, path, value)
    with suppress(ModelError):
        check_plans(plans, "3d_fullres")
        PlansManager(plans).get_configuration("3d_fullres")


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(_paths(DATASET)), value=json_values)
def test_no_content_of_a_dataset_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        names = check_dataset(_replaced(DATASET, path, value))
    except ModelError:
        return
    assert list(names) == list(range(1, len(names) + 1))


# -------------------------------------------------------------------------------------------- plans as hostile input


def _planned(*path: str, to: Any) -> dict[str, Any]:
    return _replaced(PLANS, ("configurations", "3d_fullres", *path), to)


ARCHITECTURE = ("architecture", "arch_kwargs")
HOSTILE_PLANS = {
    "network of another package": (_planned("architecture", "network_class_name", to="os.system"), "'os.system'"),
    "path through a module's imports": (
        _planned("architecture", "network_class_name", to="dynamic_network_architectures.architectures.unet.torch.hub"),
        "not safe",
    ),
    "network that unpickles": (
        _planned(
            "architecture",
            "network_class_name",
            to="dynamic_network_architectures.architectures.dinov2_eva.DinoVisionTransformer",
        ),
        "not safe",
    ),
    "operator of another package": (_planned(*ARCHITECTURE, "conv_op", to="subprocess.Popen"), "not safe"),
    "operator through torch's imports": (_planned(*ARCHITECTURE, "nonlin", to="torch.nn.functional.torch.load"), "not"),
    "operator with a trailing newline": (_planned(*ARCHITECTURE, "nonlin", to="torch.nn.ReLU\n"), "not safe"),
    "operator that is no name": (_planned(*ARCHITECTURE, "nonlin", to=3), "not safe"),
    "argument that is not there": (_planned("architecture", "_kw_requires_import", to=["x"]), "_kw_requires_import"),
    "resampling": (_planned("resampling_fn_probabilities", to="subprocess"), "resampling function 'subprocess'"),
    "resampling arguments": (_planned("resampling_fn_data_kwargs", to={"hook": 1}), "resampling does not"),
    "threads without end": (_planned("resampling_fn_data_kwargs", to={"num_threads": 10**9}), "out of range"),
    "normalisation": (_planned("normalization_schemes", to=["Popen"]), "normalisation 'Popen'"),
    "preprocessor": (_planned("preprocessor_name", to="MyPreprocessor"), "preprocessor"),
    "reader": (PLANS | {"image_reader_writer": "Popen"}, "image reader 'Popen'"),
    "label manager": (PLANS | {"label_manager": "Popen"}, "label manager 'Popen'"),
    "transposition": (PLANS | {"transpose_forward": [0, 1, 1]}, "orders of the axes"),
    "transpositions that disagree": (
        PLANS | {"transpose_forward": [1, 2, 0], "transpose_backward": [1, 2, 0]},
        "does not undo",
    ),
    "infinite spacing": (_planned("spacing", to=[1.0, float("inf"), 1.0]), "'spacing'"),
    "zero spacing": (_planned("spacing", to=[0, 1, 1]), "'spacing'"),
    "huge patch": (_planned("patch_size", to=[1024, 1024, 1024]), "'patch_size'"),
    "fractional patch": (_planned("patch_size", to=[8.5, 8, 8]), "'patch_size'"),
    "patch unlike the strides": (_planned("patch_size", to=[8, 8, 7]), "not divisible"),
    "features without end": (_planned(*ARCHITECTURE, "features_per_stage", to=[4, 8, 10**6]), "'features_per_stage'"),
    "kernels without end": (_planned(*ARCHITECTURE, "kernel_sizes", to=[[3, 3, 3], [999, 3, 3]]), "'kernel_sizes'"),
    "no strides": (_planned(*ARCHITECTURE, to={"n_stages": 2}), "lists|lacks|list"),
    "intensities": (PLANS | {"foreground_intensity_properties_per_channel": {}}, "intensities"),
    "no deviation": (
        _replaced(PLANS, ("foreground_intensity_properties_per_channel", "0", "std"), 0),
        "contradictory",
    ),
    "two images": (_planned("normalization_schemes", to=["CTNormalization"] * 2), "one entry"),
    "two-dimensional": (_planned("patch_size", to=[64, 64]), "two-dimensional"),
    "cascade": (_planned("previous_stage", to="3d_lowres"), "second stage of a cascade"),
    "inherits from itself": (_planned("inherits_from", to="3d_fullres"), "inherits from itself"),
    "inherits from nothing": (_planned("inherits_from", to="3d_none"), "no configuration '3d_none'"),
    "no configurations": (PLANS | {"configurations": None}, "no configurations"),
}


@pytest.mark.parametrize("what", HOSTILE_PLANS)
def test_plans_that_are_unsafe_or_absurd_are_refused(what: str) -> None:
    plans, message = HOSTILE_PLANS[what]
    with pytest.raises(ModelError, match=message):
        check_plans(plans, "3d_fullres")


def test_a_configuration_gets_what_it_inherits() -> None:
    plans = _replaced(PLANS, ("configurations", "3d_more"), {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]})
    planned = check_plans(plans, "3d_more")
    assert planned["spacing"] == [2.0, 2.0, 2.0] and planned["patch_size"] == [8, 8, 8]


def test_plans_from_before_nnunet_2_4_are_still_read() -> None:
    with pytest.warns(UserWarning, match="old nnU-Net plans"):
        assert build_network(OLD_PLANS, DATASET, "3d_fullres", SPEC).backbone.encoder.output_channels == [4, 8]
    with pytest.raises(ModelError, match="UNet_base_num_features"):
        check_plans(
            _replaced(OLD_PLANS, ("configurations", "3d_fullres", "UNet_base_num_features"), 10**6), "3d_fullres"
        )


def test_spacing_is_given_along_the_axes_of_the_image() -> None:
    # nnU-Net's arrays are z, y, x; transposed to x, z, y here, and so is the planned spacing.
    plans = {"transpose_backward": [1, 2, 0]}
    assert image_spacing(plans, {"spacing": [1.0, 3.0, 1.5]}) == (1.0, 1.5, 3.0)


# ------------------------------------------------------------------------------------------------------------- zips


@pytest.fixture(scope="module")
def zipped(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zip_model(written, tmp_path_factory.mktemp("zip") / "Tiny.zip")


def test_a_zip_is_the_same_model_and_leaves_no_trace(
    zipped: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with load_model(zipped) as model:
        assert model.digest == load_model(written).digest
        assert torch.equal(model.state_dict(1)["head.basis"], network(1).state_dict()["head.basis"])
        (unpacked,) = tmp_path.iterdir()
        assert unpacked.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_an_unpacked_model_goes_when_nobody_holds_it(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = load_model(zipped)
    assert len(list(tmp_path.iterdir())) == 1
    del model
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_same_folder_gives_the_same_zip(written: Path, zipped: Path, tmp_path: Path) -> None:
    assert zip_model(written, tmp_path / "Again.zip").read_bytes() == zipped.read_bytes()


def test_a_model_can_be_written_as_a_zip_at_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "Tiny.zip", card(), PLANS, DATASET, {0: network(0).state_dict()})
    assert model.folds == (0,) and [path.name for path in tmp_path.iterdir()] == ["Tiny.zip"]


def test_a_zip_of_the_folder_itself_is_read_too(written: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "Tiny"), "zip", written.parent, "Tiny")
    assert read_card(tmp_path / "Tiny.zip").name == load_model(tmp_path / "Tiny.zip").card.name == "Tiny"


def test_the_card_of_a_zip_is_read_without_unpacking(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "unpack", lambda path: pytest.fail("unpacked"))
    assert read_card(zipped).name == "Tiny"


def _entry(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


HOSTILE_ENTRIES = {
    "parent": (_entry("../evil.json"), "unsafe file name"),
    "parent inside": (_entry("fold_0/../../evil.json"), "unsafe file name"),
    "absolute": (_entry("/tmp/evil.json"), "unsafe file name"),
    "drive": (_entry("C:evil.json"), "unsafe file name"),
    "backslash": (_entry("..\\evil.json"), "unsafe file name"),
    "link": (_entry("fold_5/weights.safetensors", 0o120777), "link"),
    "twice": (_entry("plans.json"), "twice"),
    "two models": (_entry("other/model.json"), r"more than one model\.json"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE_ENTRIES)
def test_a_hostile_zip_is_refused_and_nothing_is_left(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    entry, message = HOSTILE_ENTRIES[what]
    hostile = Path(shutil.copy(zipped, tmp_path / "hostile.zip"))
    with zipfile.ZipFile(hostile, "a") as packed:
        packed.writestr(entry, "/etc/passwd")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for read in (load_model, read_card):
        with pytest.raises(ModelError, match=message):
            read(hostile)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["hostile.zip", "temporary"]


def test_a_zip_bomb_is_refused_before_it_unpacks(zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(archive, "SIZE_LIMIT", 10_000)
    with pytest.raises(ModelError, match="would unpack to more than"):
        load_model(zipped)
    monkeypatch.setattr(archive, "ENTRY_LIMIT", 2)
    with pytest.raises(ModelError, match="more than 2 files"):
        load_model(zipped)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_a_truncated_zip_is_refused(zipped: Path, tmp_path: Path, keep: float) -> None:
    content = zipped.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="not a readable zip"):
        load_model(tmp_path / "cut.zip")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        packed.writestr("holiday.txt", "sun")
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        load_model(tmp_path / "photos.zip")


# ------------------------------------------------------------------------------------- nnU-Net's own results folders


def test_a_stock_results_folder_is_the_deterministic_model(results: Path) -> None:
    model = load_model(results)
    assert model.card.covariance.kind is Covariance.DETERMINISTIC
    assert model.card.name == "Abdomen" and model.card.spacing == (1.0, 1.5, 3.0)
    assert model.card.mirror_axes == (0, 1, 2) and model.card.orientation is None
    assert model.folds == (0,) and len(model.digest) == 64


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_stock_model_computes_what_nnunet_computes(results: Path, tmp_path: Path, half: bool) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    manager = PlansManager(PLANS)
    reference = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    trained = torch.load(results / "fold_0" / "checkpoint_best.pth", weights_only=False)["network_weights"]
    reference.load_state_dict(trained)
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = reference.eval()(x)
        found = load_network(export(results, tmp_path / "Stock", half=half), 0)(x).mean
    torch.testing.assert_close(found, expected, **({"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 0, "atol": 0}))


def test_export_states_what_it_is_told_and_keeps_patients_out(results: Path, tmp_path: Path) -> None:
    model = export(
        results,
        tmp_path / "Stock",
        name="Pancreas CT",
        task="Pancreas in portal venous CT.",
        licence="CC0-1.0",
        training={"cases": 99, "note": "x"},
        scores={"dice": 0.5},
        orientation="LPS",
    )
    assert (model.card.name, model.card.licence, model.card.orientation) == ("Pancreas CT", "CC0-1.0", "LPS")
    assert model.card.training["cases"] == 99 and model.card.training["trainer"] == "nnUNetTrainer"
    assert model.card.scores == {"dice": 0.5} and model.card.task == "Pancreas in portal venous CT."
    written = "".join(path.read_text() for path in (tmp_path / "Stock").glob("*.json"))
    assert "JOHN" not in written and str(results.parents[2]) not in written


def test_a_fine_tuned_results_folder_brings_its_covariance(results: Path, tmp_path: Path) -> None:
    tuned = shutil.copytree(results, tmp_path / "tuned")
    spec = {"kind": "mixture-of-bases", "rank": 4, "bases": 2, "partitions": 2, "scope": "voxel"}
    edit(tuned / "plans.json", lambda content: content.update(covariance=spec, finetuning={"samples": 5}))
    edit(tuned / "dataset.json", lambda content: content.update(orientation="RAS"))
    content = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save(content | {"network_weights": network(3).state_dict()}, tuned / "fold_0" / "checkpoint_best.pth")
    model = export(tuned, tmp_path / "Tuned")
    assert model.card.covariance == SPEC and model.card.orientation == "RAS"
    assert model.card.training["finetuning"] == {"samples": 5}
    assert not {"covariance", "finetuning"} & set(model.plans)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(load_network(model, 0)(x).marginal_covariance(), network(3)(x).marginal_covariance())


def test_the_best_checkpoint_is_preferred_and_the_final_one_taken_without(results: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(results, tmp_path / "copied")
    assert load_model(copied).sources[0].name == "checkpoint_best.pth"
    assert load_model(copied, ["checkpoint_final.pth"]).sources[0].name == "checkpoint_final.pth"
    (copied / "fold_0" / "checkpoint_best.pth").unlink()
    assert load_model(copied).sources[0].name == "checkpoint_final.pth"
    with pytest.raises(ModelError, match=r"no fold with checkpoint_best\.pth"):
        export(copied, tmp_path / "out", checkpoint="checkpoint_best.pth")
    with pytest.raises(ModelError, match="no trained fold 3"):
        export(copied, tmp_path / "out", folds=(3,))
    assert not (tmp_path / "out").exists()


def test_a_model_trained_on_all_cases_keeps_its_fold_name(results: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(results, tmp_path / "copied")
    (copied / "fold_0").rename(copied / "fold_all")
    model = export(copied, tmp_path / "All")
    assert model.folds == ("all",) and "fold_all/weights.safetensors" in model.card.files


def test_weights_saved_by_a_parallel_or_compiled_network_load(results: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(results, tmp_path / "copied")
    path = copied / "fold_0" / "checkpoint_best.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"] = {f"module._orig_mod.{k}": v for k, v in content["network_weights"].items()}
    torch.save(content, path)
    assert load_model(copied).state_dict(0).keys() == load_model(results).state_dict(0).keys()


def test_export_of_something_else_says_what_is_needed(written: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a results folder of nnU-Net"):
        export(written / "fold_0", tmp_path / "out")


# ------------------------------------------------------------------------------------------------- hostile checkpoints


class Payload:
    """Pickles to a call that leaves a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def _save_with_torch(content: dict[str, Any], path: Path) -> None:
    torch.save(content, path)


def _save_old_format(content: dict[str, Any], path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _save_pickle(content: dict[str, Any], path: Path) -> None:
    path.write_bytes(pickle.dumps(content["trainer_name"]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("save", [_save_with_torch, _save_old_format, _save_pickle])
@pytest.mark.parametrize("key", ["trainer_name", "optimizer_state"])
def test_code_in_a_checkpoint_never_runs(results: Path, tmp_path: Path, save: Any, key: str) -> None:
    hostile = shutil.copytree(results, tmp_path / "hostile")
    path, proof = hostile / "fold_0" / "checkpoint_best.pth", tmp_path / "proof"
    content = torch.load(path, weights_only=False)
    content[key] = Payload(proof)
    if save is _save_pickle:
        content["trainer_name"] = Payload(proof)
    save(content, path)
    for read in (load_model, read_card, lambda folder: export(folder, tmp_path / "out")):
        with pytest.raises(ModelError, match=r"asks to run code|holds more than weights|damaged or not a checkpoint"):
            read(hostile)
    assert not proof.exists() and not (tmp_path / "out").exists()
    # The payload is a real one: read carelessly, it does run.
    if save is _save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("key", ["network_weights", "init_args", "trainer_name"])
def test_a_checkpoint_of_something_else_is_named_so(results: Path, tmp_path: Path, key: str) -> None:
    copied = shutil.copytree(results, tmp_path / "copied")
    path = copied / "fold_0" / "checkpoint_best.pth"
    content = torch.load(path, weights_only=False)
    del content[key]
    torch.save(content, path)
    with pytest.raises(ModelError, match=f"not a checkpoint of nnU-Net: it lacks '{key}'"):
        load_model(copied)


def test_a_truncated_checkpoint_is_refused(results: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(results, tmp_path / "copied")
    _truncate(copied / "fold_0" / "checkpoint_best.pth")
    with pytest.raises(ModelError, match="damaged or not a checkpoint"):
        load_model(copied)


def test_a_torch_that_cannot_read_safely_is_not_used(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(ModelError, match=r"torch 2\.5\.1\+cu121 cannot read .* safely"):
        load_model(results)


# ------------------------------------------------------------------------------------------------ lists, names, labels


def test_models_are_listed_and_found_by_name_with_broken_ones_shown(folder: Path, zipped: Path) -> None:
    models = folder.parent
    shutil.copy(zipped, models / "Zipped.zip")
    (models / "broken").mkdir()
    (models / "broken" / "model.json").write_text("{}")
    (models / "unrelated").mkdir()
    listed = list_models(models)
    assert [(model.path.name, model.card is not None) for model in listed] == [
        ("Tiny", True),
        ("Zipped.zip", True),
        ("broken", False),
    ]
    assert "schema version" in (listed[2].problem or "")
    assert find_model("tiny", models) == folder
    assert find_model("Zipped", models) == models / "Zipped.zip"
    assert find_model(folder, models) == folder
    with pytest.raises(ModelError, match=r"no model 'Liver'.*installed: Tiny, Zipped, broken"):
        find_model("Liver", models)
    assert list_models(models / "nowhere") == []


def test_listing_and_checking_a_model_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['nnunetv2'] = None\n"
        "from MoBUncertaintyLib import model, model_export\n"
        f"print(model.list_models({str(folder.parent)!r})[0].card.name, len(model.load_model({str(folder)!r}).folds))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Tiny", "2"], done.stderr


@pytest.mark.parametrize(
    ("name", "context", "code", "modifier"),
    [
        ("pancreas", "", "15776009", None),
        ("adrenal_gland_left", "", "23451007", "7771000"),
        ("Right Kidney", "", "64033007", "24028007"),
        ("anterior", "Dataset004_Hippocampus", "5366008", "255549009"),
        ("hippocampus", "", "5366008", None),
        ("something new", "", "85756007", None),
        ("left", "Dataset001_Unknown", "85756007", None),
    ],
)
def test_labels_get_their_terminology(name: str, context: str, code: str, modifier: str | None) -> None:
    codes, _ = terminology(name, context)
    assert codes["type"][1] == code
    assert (codes["modifier"] or (None, None))[1] == modifier


def test_every_code_is_one_of_slicers_own() -> None:
    trame_slicer = pytest.importorskip("trame_slicer")
    tables = (Path(trame_slicer.__file__).parent / "resources" / "terminologies").glob("*CategoryType*.term.json")
    known = {
        (category["CodeValue"], entry["CodeValue"], entry["CodeMeaning"])
        for table in tables
        for category in json.loads(table.read_text())["SegmentationCodes"]["Category"]
        for entry in category["Type"]
    }
    from MoBUncertaintyLib.terminology import ANATOMY, STRUCTURES, TISSUE, TISSUE_CATEGORY

    ours = {(ANATOMY[1], code, meaning) for code, meaning, _ in STRUCTURES.values()}
    assert ours | {(TISSUE_CATEGORY[1], *TISSUE[1:])} <= known


@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=40))
def test_no_two_labels_share_a_colour(names: list[str]) -> None:
    labels = describe_labels({value: f"x{name!r}" for value, name in enumerate([*names, "kidney_left"], start=1)})
    kidneys = describe_labels({1: "kidney_left", 2: "kidney_right"})
    assert len({label.colour for label in labels}) == len(labels)
    assert kidneys[0].colour != kidneys[1].colour


def test_a_label_that_a_segmentation_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 255"):
        Label(256, "x", (0, 0, 0), describe_labels({1: "x"})[0].terminology)
