"""nnU-Net's own results folders as models, and checkpoints that try to run code."""

import copy
import json
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.covariance import LENGTH_RANGE, Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import load_model, read_card
from MoBUncertaintyLib.model.terminology import TISSUE
from MoBUncertaintyLib.network.backbone import load_network
from MoBUncertaintyLib.network.export import export, write_model
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import tiny
from support.json_edits import edit
from support.tiny import DATASET, PLANS, SPEC, card, network


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
        case = root / "preprocessed" / "Dataset001_Tiny" / "tiny_3d_fullres" / "case.b2nd"
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


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    return shutil.copytree(results, tmp_path / "copied")


def test_a_stock_results_folder_is_the_deterministic_model(results: Path) -> None:
    model = load_model(results)
    assert model.card.covariance.kind is Covariance.DETERMINISTIC
    assert model.card.name == "Tiny" and model.card.spacing == (1.0, 1.5, 3.0)
    assert model.card.mirror_axes == (0, 1, 2) and model.card.orientation is None
    assert model.folds == (0,) and len(model.digest) == 64


def test_no_code_comes_from_the_name_of_a_data_set_and_the_lack_of_one_is_said(results: Path, tmp_path: Path) -> None:
    """`Dataset801_Hip` with the label Anterior is no hip; a code that the exported model states is taken."""
    folder = tmp_path / "Dataset801_Hip"
    shutil.copytree(results, folder)
    (folder / "plans.json").write_text(json.dumps(PLANS | {"dataset_name": "Dataset801_Hip"}))
    (folder / "dataset.json").write_text(json.dumps(DATASET | {"labels": {"background": 0, "Anterior": 1}}))
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 300, (8, 12, 16)).astype(np.float32))

    def predicted(path: Path) -> tuple[Any, list[str]]:
        found = predict(image, load_model(path), PredictionSettings(device="cpu", engine="torch"))
        return found.labels[0].terminology["type"], [each for each in found.warnings if "SNOMED" in each]

    code, (warning,) = predicted(folder)
    assert code == TISSUE
    assert "No SNOMED-CT code is known for Anterior, so Tissue is used; to set one, write it as" in warning
    export(folder, tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    card["labels"][0]["terminology"]["type"] = ["SCT", "5366008", "Hippocampus"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    assert predicted(tmp_path / "model") == (("SCT", "5366008", "Hippocampus"), [])


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_stock_model_computes_what_nnunet_computes(results: Path, tmp_path: Path, half: bool) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    manager = PlansManager(PLANS)
    reference = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    trained = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
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


def test_a_fine_tuned_results_folder_brings_its_covariance(copied: Path, tmp_path: Path) -> None:
    spec = {"kind": "mixture-of-bases", "rank": 4, "bases": 2, "partitions": 2, "scope": "voxel"}
    edit(copied / "plans.json", lambda content: content.update(covariance=spec, finetuning={"samples": 5}))
    edit(copied / "dataset.json", lambda content: content.update(orientation="RAS"))
    content = torch.load(copied / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save(content | {"network_weights": network(3).state_dict()}, copied / "fold_0" / "checkpoint_best.pth")
    model = export(copied, tmp_path / "Tuned")
    assert model.card.covariance == SPEC and model.card.orientation == "RAS"
    assert model.card.training["finetuning"] == {"samples": 5}
    assert not {"covariance", "finetuning"} & set(model.plans)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(load_network(model, 0)(x).marginal_covariance(), network(3)(x).marginal_covariance())


@pytest.mark.parametrize("learned", [False, True])
def test_the_card_of_a_local_model_states_its_length_the_learned_one_where_it_was_learned(
    tmp_path: Path, learned: bool
) -> None:
    spec = CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(6.0, 3.0, 3.0), learn_length=learned)
    results = tiny.make_results_folder(tmp_path / "results", covariance=spec)
    checkpoint = results / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint)
    if learned:
        content["network_weights"]["head.log_length"] = torch.tensor([4.0, 5.0, 1e9]).log()
        torch.save(content, checkpoint)
    model = export(results, tmp_path / "Local")
    expected = (4.0, 5.0, LENGTH_RANGE[1]) if learned else spec.length_mm
    assert model.card.covariance.length_mm == pytest.approx(expected)
    assert model.card.covariance == replace(spec, length_mm=model.card.covariance.length_mm)
    assert export(tmp_path / "Local", tmp_path / "Again").card.covariance == model.card.covariance
    lengths = torch.as_tensor(load_network(model, 0)(torch.zeros(1, 1, *tiny.PATCH)).lengths)
    torch.testing.assert_close(lengths, torch.tensor(expected) / torch.tensor(tiny.SPACING[::-1]), rtol=1e-5, atol=0)


def test_a_stock_folder_gives_its_last_epoch_and_a_fine_tuned_one_its_best(copied: Path, tmp_path: Path) -> None:
    best, final = (copied / "fold_0" / f"checkpoint_{name}.pth" for name in ("best", "final"))
    assert load_model(copied).weights[0] == f"fold_0/{final.name}"
    control = asdict(CovarianceSpec(Covariance.DETERMINISTIC))
    edit(copied / "plans.json", lambda content: content.update(covariance=control))
    assert load_model(copied).weights[0] == f"fold_0/{best.name}"
    best.unlink()
    assert load_model(copied).weights[0] == f"fold_0/{final.name}"
    with pytest.raises(ModelError):
        export(copied, tmp_path / "out", folds=(3,))
    assert not (tmp_path / "out").exists()


def test_a_fold_that_is_still_trained_is_left_out_unless_it_is_asked_for(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied / "fold_0", copied / "fold_1")
    assert load_model(copied).folds == (0, 1)
    (copied / "fold_1" / "checkpoint_final.pth").unlink()
    assert load_model(copied).folds == (0,)
    both = export(copied, tmp_path / "both", folds=(0, 1))
    assert both.folds == (0, 1) and both.card.training["checkpoint"] == "checkpoint_best.pth"
    (copied / "fold_0" / "checkpoint_best.pth").unlink()
    with pytest.raises(ModelError):
        export(copied, tmp_path / "none", folds=(0, 1))


def test_a_model_trained_on_all_cases_keeps_its_fold_name(copied: Path, tmp_path: Path) -> None:
    (copied / "fold_0").rename(copied / "fold_all")
    model = export(copied, tmp_path / "All")
    assert model.folds == ("all",) and "fold_all/weights.safetensors" in model.card.files


def test_weights_saved_by_a_parallel_or_compiled_network_load(results: Path, copied: Path) -> None:
    path = copied / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"] = {f"module._orig_mod.{k}": v for k, v in content["network_weights"].items()}
    torch.save(content, path)
    assert load_model(copied).state_dict(0).keys() == load_model(results).state_dict(0).keys()


def test_export_of_something_else_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        export(copied / "fold_0", tmp_path / "out")
    (copied / "plans.json").unlink()
    with pytest.raises(ModelError):
        load_model(copied)


@pytest.mark.parametrize("name", ["Whole", "Whole.zip"])
def test_a_model_is_exported_again_as_float16_with_the_rest_of_its_card(tmp_path: Path, name: str) -> None:
    stated = replace(card(), scores={"dice": 0.5}, training={"temperature": 1.5}, regions={"depth_mm": 1.0})
    both = [(fold, network(fold).state_dict()) for fold in (0, 1)]
    whole = write_model(tmp_path / name, stated, PLANS, DATASET, both)
    half = export(tmp_path / name, tmp_path / "Half", folds=(1,), half=True)
    assert replace(half.card, files={}) == replace(whole.card, files={}) and half.folds == (1,)
    assert (half.plans, half.dataset) == (whole.plans, whole.dataset)
    for key, tensor in half.state_dict(1).items():
        assert torch.equal(tensor, network(1).state_dict()[key].half().float())
    with pytest.raises(ModelError):
        export(tmp_path / name, tmp_path / "out", folds=(2,))


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
def test_code_in_a_checkpoint_never_runs(copied: Path, tmp_path: Path, save: Any, key: str) -> None:
    path, proof = copied / "fold_0" / "checkpoint_final.pth", tmp_path / "proof"
    content = torch.load(path, weights_only=False)
    content[key] = Payload(proof)
    if save is _save_pickle:
        content["trainer_name"] = Payload(proof)
    save(content, path)
    for read in (load_model, read_card, lambda folder: export(folder, tmp_path / "out")):
        with pytest.raises(ModelError):
            read(copied)
    assert not proof.exists() and not (tmp_path / "out").exists()
    # The payload is a real one: read carelessly, it does run.
    if save is _save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 GB")])
def test_what_memory_does_not_suffice_for_is_not_called_damaged(
    results: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    network_of_plans = "nnunetv2.utilities.get_network_from_plans.get_network_from_plans"
    for place in ("torch.load", network_of_plans):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(ModelError):
                load_network(load_model(results), 0)


def test_a_torch_that_cannot_read_safely_is_not_used(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(ModelError):
        load_model(results)
