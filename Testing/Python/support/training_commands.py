"""Runs the training commands as a user does, each in a process of its own."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from mob_training.evaluation import held_out  # noqa: F401 - once, for all forks
from mob_training.training import planning, stages  # noqa: F401
from support.forks import child

WORKSPACE_OPTIONS = ["--dataset-id", "900"]

FEW = property(lambda _extractor: 1e5, lambda _extractor, _number: None)
"""Of the intensities that planning draws: nnU-Net's 100 million take seconds, however small the cases are."""


def run(module: str, *arguments: object) -> str:
    """`python -m module arguments`; returns what it printed last.

    Raises:
        AssertionError: It failed; with the end of its log.
    """
    # Patches prepared in the training's own process: repeatable, and no process to start for a few iterations.
    environment = os.environ | {"nnUNet_n_proc_DA": "0", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        patch.setattr(DatasetFingerprintExtractor, "num_foreground_voxels_for_intensitystats", FEW, raising=False)
        code = child()(command, env=environment, stdout=output, stderr=errors).wait()
        output.seek(0)
        errors.seek(0)
        printed = output.read()
        assert code == 0, (printed + errors.read())[-3000:]
    return printed.strip().splitlines()[-1]


def train_and_export(
    source: Path, folder: Path, label: str, channel: str, epochs: int, iterations: int, finetune_options: list[object]
) -> Path:
    """Convert, plan, train, fine-tune and export; returns the model folder."""
    workspace = ["--workspace", folder / "ws"]
    known = [*workspace, *WORKSPACE_OPTIONS]
    split = ["--validation", 1, "--test", 1]
    run("mob_training.cli", "labelled", source, "--label", label, "--name", "T", "--channel", channel, *known, *split)
    run("mob_training.cli", "plan", *known, "--processes", 1)
    results = run(
        "mob_training.cli", "train", *known, "--epochs", epochs, "--iterations", iterations, "--device", "cpu"
    )
    tuned = run("mob_training.cli", "finetune", results, *workspace, "--device", "cpu", *finetune_options)
    run("MoBUncertaintyLib.cli.app", "export", tuned, "--output", folder / "model", "--name", "T")
    return folder / "model"


def write_cases(source: Path, cases: dict[str, tuple[sitk.Image, sitk.Image]]) -> None:
    """Images and label maps in the layout of `mob-training labelled`."""
    for kind in ("images", "labels"):
        (source / kind).mkdir(parents=True)
    for name, (image, label) in cases.items():
        sitk.WriteImage(image, str(source / "images" / f"{name}.nii.gz"))
        sitk.WriteImage(label, str(source / "labels" / f"{name}.nii.gz"))
