"""Stock nnU-Net runs our trainers and checkpoints: its commands, its predictor and its way to several GPUs.

Without the slow tests, its predictor and one step of two processes are tested; with them, its commands too.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mob_training.training.deterministic import DeterministicTrainer, start_from, unwrapped
from mob_training.training.settings import FineTuning, Schedule, deterministic_plans
from mob_training.training.stages import prepare_finetuning
from mob_training.training.trainer import FineTuningTrainer
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.nnunet.training_folder import BEST
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import ROOT
from support.forks import may_fork
from support.model_kinds import stock
from support.tiny import CONFIGURATION, make_ct, make_dataset, make_plans, make_results_folder
from support.tiny_training import DATASET_ID, NAME, PATCH, PLANS, SHORT, make_workspace, tune
from support.training_commands import run

SHIM = ROOT / "training" / "nnunet_trainers"
MOB = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=3, bases=3, partitions=2)
SPECS = [CovarianceSpec.of_kind(kind, rank=3, partitions=2) for kind in Covariance]
SPECS.append(CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=3, partitions=2, scope=Scope.TILE))


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def shim(patch) -> None:
    patch.setenv("nnUNet_extTrainer", str(SHIM))
    patch.setenv("nnUNet_def_n_proc", "1")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, patch) -> Path:
    return make_workspace(tmp_path_factory.mktemp("workspace"), patch)


@pytest.fixture(scope="module")
def deterministic(workspace) -> Path:
    """A trained network as stock nnU-Net leaves it, to start fine-tunings from."""
    folder = workspace / "results" / NAME / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"
    return make_results_folder(folder, make_plans(PATCH))


# --- prediction


def fine_tuned(folder: Path, spec: CovarianceSpec, classes: int = 2) -> Path:
    """A training folder as the trainer of the fine-tuning leaves it."""
    plans, names = make_plans(PATCH) | {"finetuning": {}}, [f"organ {i}" for i in range(1, classes)]
    return make_results_folder(folder / "results", plans, make_dataset(names), spec, trainer="FineTuningTrainer")


def by_nnunet(results: Path, image: sitk.Image) -> np.ndarray:
    """Probabilities (C, z, y, x) by nnU-Net's predictor, which finds the trainer's class by its name in the shim."""
    return stock(results, [image], mirror=True)[1]


def by_us(results: Path, image: sitk.Image, samples: int | None = None) -> np.ndarray:
    """The same by `MoBUncertaintyLib`, the background as what is left."""
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False, samples=samples)
    foreground = predict(image, load_model(results), settings).probability
    return np.concatenate([1 - foreground.sum(axis=0, keepdims=True), foreground])


def softmax_of(p: np.ndarray) -> np.ndarray:
    return np.exp(p) / np.exp(p).sum(axis=0)


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Away from the edges, where nnU-Net's half-precision weights of a tile vanish and with them its digits."""
    inner = (slice(None), *[slice(2, -2)] * 3)
    return float(np.abs(first - second)[inner].max())


def check_same(theirs: np.ndarray, ours: np.ndarray) -> None:
    """nnU-Net's accumulators are of half precision: two to three digits."""
    assert theirs.shape == ours.shape
    assert ours[1].min() < 0.05 and ours[1].max() > 0.7, "the case shows both classes, or there is nothing to see"
    assert largest_difference(theirs, ours) < 1e-2


@pytest.fixture(scope="module")
def image() -> sitk.Image:
    """As large as one tile: over several, nnU-Net blends logarithms and we blend probabilities."""
    return make_ct(PATCH, centre=(14, -8, 5))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.scope}")
def test_nnunets_predictor_gives_our_predictive_mean(tmp_path, image, spec):
    results = fine_tuned(tmp_path, spec)
    ours = by_us(results, image)
    check_same(by_nnunet(results, image), ours)
    assert largest_difference(softmax_of(ours), ours) > 0.2, "a second softmax could not be told"


def test_three_classes_agree_up_to_the_noise_of_thirty_samples(tmp_path, image):
    """E[p] of nnU-Net's network is a Monte Carlo mean, of a deviation of up to 0.09 at a voxel."""
    results = fine_tuned(tmp_path, MOB, classes=3)
    theirs, ours = by_nnunet(results, image), by_us(results, image, samples=300)
    difference = theirs - ours
    assert np.abs(difference).mean() < 0.04
    assert np.abs(difference.mean(axis=(1, 2, 3))).max() < 0.01
    assert np.abs(softmax_of(ours) - ours).mean() > 0.1


# --- nnU-Net's commands, in processes of their own


def nnunet(command: str, *arguments: object) -> str:
    """Runs `nnUNetv2_COMMAND`; returns what it printed.

    Raises:
        AssertionError: It failed; with the end of its log.
    """
    program = Path(sys.executable).with_name(f"nnUNetv2_{command}")
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "nnUNet_def_n_proc": "1"}
    done = subprocess.run(
        [program, *map(str, arguments), "-device", "cpu"],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def predict_by_command(workspace: Path, results: Path, plans: str, trainer: str) -> np.ndarray:
    """Probabilities of the case in `workspace/images` by `nnUNetv2_predict`."""
    output = workspace / "predicted" / results.name
    model = ["-d", DATASET_ID, "-p", plans, "-tr", trainer, "-c", CONFIGURATION, "-f", 0, "-chk", BEST]
    folders = ["-i", workspace / "images", "-o", output]
    nnunet("predict", *folders, *model, "--save_probabilities", "-npp", 1, "-nps", 1)
    assert (output / "case.nii.gz").exists()
    return np.load(output / "case.npz")["probabilities"]


def save_image(workspace: Path, image: sitk.Image) -> None:
    (workspace / "images").mkdir(exist_ok=True)
    sitk.WriteImage(image, str(workspace / "images" / "case_0000.nii.gz"))


@pytest.mark.slow
def test_commands_fine_tune_and_predict(workspace, deterministic, image):
    """`mob-training finetune --prepare`, `nnUNetv2_train`, `nnUNetv2_predict`: the same model as ours alone gives."""
    options = ["--covariance", "mixture-of-bases", "--rank", 3, "--partitions", 2, "--name", "command"]
    lengths = ["--epochs", 2, "--iterations", 3, "--samples", 2]
    path = run("mob_training.cli", "finetune", deterministic, "--workspace", workspace, *options, *lengths, "--prepare")
    plans = Path(path).stem
    assert plans == f"{PLANS}-command"
    log = nnunet("train", DATASET_ID, CONFIGURATION, 0, "-tr", "FineTuningTrainer", "-p", plans)
    assert "Using trainer 'FineTuningTrainer' from" in log
    assert "Mean Validation Dice" in log, "nnU-Net's validation of whole cases ran too"
    results = workspace / "results" / NAME / f"FineTuningTrainer__{plans}__{CONFIGURATION}"
    assert load_model(results).card.covariance.kind is Covariance.MIXTURE_OF_BASES

    alone = tune(deterministic, MOB, "alone", Schedule.of(2, 3, 0))
    rows = [progress(folder) for folder in (results, alone)]
    assert len(rows[0]) == len(rows[1]) == 2
    for theirs, ours in zip(*rows, strict=True):
        del theirs["seconds"], ours["seconds"]
        assert theirs == pytest.approx(ours, rel=0.02, abs=1e-3)

    save_image(workspace, image)
    theirs = predict_by_command(workspace, results, plans, "FineTuningTrainer")
    check_same(theirs, by_us(results, image))


@pytest.mark.slow
def test_commands_run_the_deterministic_stage(workspace, image):
    folder = workspace / "preprocessed" / NAME
    plans = deterministic_plans(json.loads((folder / f"{PLANS}.json").read_text()), Schedule(3, 10, 2))
    (folder / "shortPlans.json").write_text(json.dumps(plans | {"plans_name": "shortPlans"}))
    nnunet("train", DATASET_ID, CONFIGURATION, 0, "-tr", "DeterministicTrainer", "-p", "shortPlans")
    results = workspace / "results" / NAME / f"DeterministicTrainer__shortPlans__{CONFIGURATION}"
    save_image(workspace, image)
    theirs = predict_by_command(workspace, results, "shortPlans", "DeterministicTrainer")
    assert largest_difference(theirs, by_us(results, image)) < 1e-2
    tuned = tune(results, MOB, "on-stock")
    assert load_model(tuned).card.covariance.kind is Covariance.MIXTURE_OF_BASES


def progress(results: Path) -> list[dict[str, float]]:
    with (results / "fold_0" / "progress.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


# --- nnU-Net's way to several GPUs: two processes with DistributedDataParallel, here on the CPU


def in_two_processes(task: Callable[..., dict], folder: Path, *arguments: object) -> list[dict]:
    """Runs `task(*arguments)` in two processes of one group; returns what each of them returned."""
    folder.mkdir()
    method = "fork" if may_fork() else "spawn"
    torch.multiprocessing.start_processes(_member, (folder, task, arguments), nprocs=2, start_method=method)
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(2)]


def _member(rank: int, folder: Path, task: Callable[..., dict], arguments: tuple) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    nnunet_module.DDP = lambda network, device_ids: DistributedDataParallel(network)  # on the CPU there are no ids
    try:
        torch.save(task(*arguments), folder / f"{rank}.pth")
    finally:
        distributed.destroy_process_group()


def make_trainer(cls: type[DeterministicTrainer], path: Path) -> DeterministicTrainer:
    plans = json.loads(path.read_text(encoding="utf-8")) | {"continue_training": False}
    dataset = json.loads((path.parent / "dataset.json").read_text())
    trainer = cls(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None  # nnU-Net takes for granted that DDP is on CUDA
    return trainer


def step_of_one_patch(path: Path) -> dict:
    """One step on a patch that both processes share; what is in each of them after it."""
    trainer = make_trainer(FineTuningTrainer, path)
    trainer.initialize()
    assert isinstance(trainer.network, DistributedDataParallel)
    start_from(trainer, trainer.start_folder)
    trainer.network.train()
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (1, 1, *PATCH), generator=generator)
    data = torch.randn(1, 1, *PATCH, generator=generator) + target
    for _ in range(2):  # a parameter without a gradient fails in the second
        logged = trainer.train_step({"data": data, "target": target})
    named = dict(unwrapped(trainer.network).named_parameters())
    return {
        "logged": logged,
        "weights": {name: value.detach() for name, value in named.items()},
        "gradients": {name: value.grad for name, value in named.items() if value.requires_grad},
    }


def whole_training(cls: type[DeterministicTrainer], path: Path) -> dict:
    """A short training; its patches, its loss terms and the weights that it ends with."""
    trainer = make_trainer(cls, path)
    steps: list[tuple[torch.Tensor, dict]] = []
    original = trainer.train_step

    def watched(batch: dict) -> dict:
        logged = original(batch)
        steps.append((batch["data"].clone(), logged))
        return logged

    trainer.train_step = watched
    trainer.run_training()
    return {
        "patches": [data for data, _ in steps],
        "losses": [float(logged["loss"]) for _, logged in steps],
        "weights": {name: value.detach() for name, value in trainer.network.module.state_dict().items()},
        "batch": trainer.batch_size,
        "foreground": trainer.dataloader_train.data_loader.oversample_foreground_percent,
        "folder": trainer.output_folder,
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    "spec", [MOB, pytest.param(SPECS[0], marks=pytest.mark.slow), pytest.param(SPECS[2], marks=pytest.mark.slow)]
)
def test_two_processes_step_together_with_noise_of_their_own(deterministic, tmp_path, spec):
    settings = FineTuning(**vars(SHORT), samples=2, learning_rate=1e-3, kl_weight=1.0)
    path = prepare_finetuning(deterministic, f"step-{spec.kind}", spec, settings)
    first, second = in_two_processes(step_of_one_patch, tmp_path / "group", path)
    for each in (first, second):
        assert all(value is not None and bool(value.abs().sum() > 0) for value in each["gradients"].values())
    assert same(first["gradients"], second["gradients"])
    assert same(first["weights"], second["weights"])
    noisy = spec.kind is not Covariance.DETERMINISTIC
    assert (first["logged"]["cross_entropy"] != second["logged"]["cross_entropy"]) == noisy


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DeterministicTrainer, FineTuningTrainer])
def test_two_processes_train_to_the_same_weights_on_different_patches(deterministic, workspace, tmp_path, cls):
    path = workspace / "preprocessed" / NAME / f"{PLANS}.json"
    if cls is FineTuningTrainer:
        path = prepare_finetuning(deterministic, "group", MOB, FineTuning(**vars(SHORT), samples=2))
    else:
        plans = deterministic_plans(json.loads(path.read_text()), SHORT)
        path = path.with_name("groupPlans.json")
        path.write_text(json.dumps(plans | {"plans_name": "groupPlans"}))
    first, second = in_two_processes(whole_training, tmp_path / "group", cls, path)
    assert same(first["weights"], second["weights"])
    for each in (first, second):
        assert (each["batch"], each["foreground"]) == (1, 0.5)
        assert all(patch.shape == (1, 1, *PATCH) for patch in each["patches"])
    assert not any(torch.equal(a, b) for a, b in zip(first["patches"], second["patches"], strict=True))
    folder = Path(first["folder"])
    stored = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert same(first["weights"], stored["network_weights"])
    losses = np.mean([np.reshape(each["losses"], (SHORT.epochs, -1)) for each in (first, second)], axis=(0, 2))
    assert stored["logging"]["train_losses"] == pytest.approx(losses)
    if cls is FineTuningTrainer:
        assert [row["loss"] for row in progress(folder.parent)] == pytest.approx(losses, rel=1e-4)
