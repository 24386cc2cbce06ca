"""Compare our label maps with nnU-Net's, for each kind of model that nnU-Net trains.

    python Testing/Benchmarks/model_kinds.py [--output Testing/Benchmarks/results/model-kinds.json] [--only KIND ...]

nnU-Net itself plans and trains tiny networks on synthetic cases, in a temporary folder, and predicts another case with
`nnUNetPredictor`; the same training folder is then given to us. Prints a table, and writes it as JSON; with `--only`,
other rows stay as they are there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

CASES, SIZE, LARGER = 6, 32, 48
"""Training cases, and voxels along an axis of these and of the case that is predicted: of several tiles."""
FEATURES = 4
"""Of a network's first stage, where nnU-Net's planners have 32."""


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        name: For the table.
        channels: Names of the input channels.
        labels: Of `dataset.json`.
        order: Its `regions_class_order`.
        configuration, planner, folds: nnU-Net's names.
        iterations, seed: How long each fold is trained, and from which random numbers.
        zipped: We are given a zip of the training folder.
        also: Another configuration, which makes an ensemble of two.
    """

    name: str
    channels: tuple[str, ...] = ("CT",)
    labels: tuple[tuple[str, int | list[int]], ...] = (("liver", 1), ("spleen", 2))
    order: tuple[int, ...] = ()
    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    folds: tuple[int | str, ...] = (0,)
    iterations: int = 15
    seed: int = 0
    zipped: bool = False
    also: str = ""


NESTED: tuple[tuple[str, int | list[int]], ...] = (("liver and spleen", [1, 2]), ("spleen", 2))
KINDS = (
    Kind("one channel, one label", labels=(("organ", 1),)),
    Kind("one channel, two labels"),
    Kind("two channels", channels=("T1", "FLAIR")),
    Kind("regions that overlap", labels=NESTED, order=(1, 2), iterations=45),
    Kind("an ignore label", labels=(("liver", 1), ("spleen", 2), ("ignore", 3))),
    Kind("2d", configuration="2d", seed=3),  # with seeds 0, 1 and 2 it finds nothing so soon
    Kind("3d_lowres", configuration="3d_lowres", iterations=45),
    Kind("residual encoder M", planner="nnUNetPlannerResEncM", iterations=45),
    Kind("residual encoder L", planner="nnUNetPlannerResEncL"),
    Kind("fold_all", folds=("all",)),
    Kind("five folds", folds=(0, 1, 2, 3, 4)),
    Kind("zip of a training folder", zipped=True),
    Kind("cascade of two stages", configuration="3d_cascade_fullres", iterations=25),
    Kind("ensemble of 3d_fullres and 2d", also="2d"),
)

FIRST_STAGE: dict[str, dict[str, tuple[int | str, ...]]] = {"3d_cascade_fullres": {"3d_lowres": ("all",)}}
"""Of a cascade: the configuration, and its folds, of which one that has seen all cases can predict all."""


@dataclass(frozen=True)
class Row:
    """A line of the table: `equal` is the fraction of voxels with equal labels, `differing` their number.

    `of_logits` is that fraction when we average logits over tiles and folds, as nnU-Net does, instead of probabilities;
    None of an ensemble, for which nnU-Net averages probabilities too. `labels` is how many nnU-Net finds, `iterations`
    how long each fold was trained.
    """

    kind: str
    equal: float
    of_logits: float | None
    differing: int
    voxels: int
    labels: int
    iterations: int


def make_case(seed: int, size: int, channels: int) -> tuple[list[sitk.Image], np.ndarray]:
    """Make the images of a case, and its truth: two blobs of other intensities in a body of noise."""
    rng = np.random.default_rng(seed)
    shape = (size, size, size)

    def smooth(sigma: float) -> np.ndarray:
        field: np.ndarray = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
        return field / field.std()

    z, y, x = (np.indices(shape) - size / 2) / size
    shift = rng.uniform(-0.06, 0.06, 3)
    liver = np.sqrt((z - shift[0]) ** 2 + (y - 0.1) ** 2 + (x - 0.2) ** 2) + 0.015 * smooth(3) < 0.22
    spleen = np.sqrt((z - shift[1]) ** 2 + (y + 0.12) ** 2 + (x + 0.22) ** 2) + 0.015 * smooth(3) < 0.16
    truth = np.where(spleen, 2, liver).astype(np.uint8)
    images = []
    for channel in range(channels):
        levels = np.array([[40, 140, 220], [100, 60, 180]][channel % 2], float)
        image = sitk.GetImageFromArray((levels[truth] + 18 * smooth(0.8)).astype(np.float32))
        image.SetSpacing((1.5, 1.5, 2.0))
        images.append(image)
    return images, truth


def write_raw(folder: Path, kind: Kind) -> None:
    """Write a data set as nnU-Net takes it."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(CASES):
        images, truth = make_case(number, SIZE, len(kind.channels))
        if len(kind.labels) == 1:
            truth = (truth > 0).astype(np.uint8)
        if "ignore" in dict(kind.labels):
            truth[:, : SIZE // 4] = 3
        for channel, image in enumerate(images):
            sitk.WriteImage(image, folder / "imagesTr" / f"case{number}_{channel:04}.nii.gz")
        label = sitk.GetImageFromArray(truth)
        label.CopyInformation(images[0])
        sitk.WriteImage(label, folder / "labelsTr" / f"case{number}.nii.gz")
    described: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in enumerate(kind.channels)},
        "labels": {"background": 0, **dict(kind.labels)},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    if kind.order:
        described["regions_class_order"] = list(kind.order)
    (folder / "dataset.json").write_text(json.dumps(described))


def train(root: Path, number: int, kind: Kind) -> Path:
    """Plan, preprocess and train as nnU-Net does, unless that is done; returns the training folder."""
    import nnunetv2
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    name = f"Dataset{number:03}_Kind"
    if not (root / "raw" / name).exists():
        write_raw(root / "raw" / name, kind)
        extract_fingerprint_dataset(number, num_processes=1, verbose=False, show_progress_bar=False)
    place = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
    planner = recursive_find_python_class(place, kind.planner, "nnunetv2.experiment_planning")(number)
    planner.UNet_base_num_features = FEATURES
    os.environ["nnUNet_n_proc_DA"] = "1"  # as many threads has the planner
    plans = planner.plan_experiment()
    if kind.configuration in ("3d_lowres", *FIRST_STAGE):
        add_lowres(planner, plans)
    os.environ["nnUNet_n_proc_DA"] = "0"  # augmentation in this process
    first = FIRST_STAGE.get(kind.configuration, {})
    # A second stage takes its images as 3d_fullres does, and the first predicts its cases onto them.
    for configuration in ("3d_fullres", *first) if first else (kind.configuration,):
        data = root / "preprocessed" / name / plans["configurations"][configuration]["data_identifier"]
        if not data.exists():
            preprocess_dataset(number, planner.plans_identifier, (configuration,), [1], show_progress_bar=False)
    for configuration, folds in (first | {kind.configuration: kind.folds}).items():
        for fold in folds:
            trainer = get_trainer_from_args(
                str(number), configuration, fold, "nnUNetTrainer", planner.plans_identifier, device=torch.device("cpu")
            )
            if not (Path(trainer.output_folder) / "checkpoint_final.pth").exists():
                torch.manual_seed(kind.seed)
                np.random.seed(kind.seed)
                trainer.num_epochs, trainer.num_iterations_per_epoch = 1, kind.iterations
                trainer.num_val_iterations_per_epoch = 1
                trainer.run_training()
            if configuration in first:
                trainer.perform_actual_validation()  # which writes what the next stage is trained on
    return Path(trainer.output_folder_base)


def add_lowres(planner: Any, plans: dict[str, Any]) -> None:
    """Let nnU-Net's planner plan both stages of a cascade, which it does by itself for large images only."""
    full = plans["configurations"]["3d_fullres"]
    spacing, shape = np.array(full["spacing"]) * 1.5, np.array(full["median_image_size_in_voxels"]) / 1.5
    data = planner.generate_data_identifier("3d_lowres")
    lowres = planner.get_plans_for_configuration(spacing, shape, data, float(shape.prod()) * CASES, {})
    plans["configurations"]["3d_lowres"] = lowres | {"batch_dice": False, "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    planner.save_plans(plans)


def stock(folder: Path, kind: Kind, images: Sequence[sitk.Image], probabilities: bool = False) -> np.ndarray:
    """Predict with nnU-Net the label map, or the probabilities (C, z, y, x); of a cascade both stages."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    first = None
    for configuration, folds in FIRST_STAGE.get(kind.configuration, {}).items():
        before = folder.with_name(folder.name.replace(kind.configuration, configuration))
        first = stock(before, replace(kind, configuration=configuration, folds=folds), images)[None].astype(np.float32)
    predictor.initialize_from_trained_model_folder(str(folder), kind.folds, "checkpoint_final.pth")
    data = np.stack([sitk.GetArrayFromImage(image) for image in images]).astype(np.float32)
    properties = {"spacing": list(images[0].GetSpacing())[::-1]}
    found = predictor.predict_single_npy_array(data, properties, first, None, probabilities)
    labels: np.ndarray = found[1] if probabilities else found
    return labels


def stocks(folders: dict[Path, Kind], images: Sequence[sitk.Image]) -> np.ndarray:
    """Predict the label map with nnU-Net; of several training folders by the mean of their probabilities."""
    if len(folders) == 1:
        return stock(*next(iter(folders.items())), images)
    means = [stock(folder, kind, images, probabilities=True) for folder, kind in folders.items()]
    labels: np.ndarray = np.mean(means, axis=0).argmax(axis=0)
    return labels


def compare(root: Path, number: int, kind: Kind) -> Row:
    """Train one kind and predict it in both ways."""
    from logit_average import predict_logits
    from MoBUncertaintyLib.inference.maps.ensemble import predictor_of
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.model.folder import load_model
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    images, _ = make_case(100, LARGER, len(kind.channels))
    members = [kind, *([replace(kind, configuration=kind.also)] if kind.also else [])]
    folders = {train(root, number, each): each for each in members}
    theirs = stocks(folders, images)
    settings = PredictionSettings(device="cpu", precision="float32", engine="torch", tiling="full", body_box=False)
    given = [Path(shutil.make_archive(str(root / "zipped"), "zip", *folders))] if kind.zipped else list(folders)
    predictor = predictor_of([load_model(path, folds=kind.folds) for path in given], settings)
    others = dict(zip(kind.channels[1:], images[1:], strict=True))
    ours = predictor.predict(images[0], channels=others).segmentation
    logits = predict_logits(predictor, images[0], others) if isinstance(predictor, Predictor) else None
    return Row(
        kind.name,
        equal=round(float((ours == theirs).mean()), 5),
        of_logits=None if logits is None else round(float((logits == theirs).mean()), 5),
        differing=int((ours != theirs).sum()),
        voxels=theirs.size,
        labels=len(np.unique(theirs)) - 1,
        iterations=kind.iterations,
    )


def table(facts: dict[str, Any]) -> str:
    """Write what was measured as the table of the page on nnU-Net's models."""
    columns = "kind", "steps of training", "labels found", "differing voxels", "equal voxels", "averaging logits"
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in facts["rows"]:
        logits = "" if row["of_logits"] is None else f"{row['of_logits']:.3%}"
        differing = f"{row['differing']:,} of {row['voxels']:,}"
        cells = row["kind"], row["iterations"], row["labels"], differing, f"{row['equal']:.3%}", logits
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def environment() -> Iterator[Path]:
    """Point nnU-Net at a temporary folder, before it is imported."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            os.environ[f"nnUNet_{name}"] = str(root / name)
        os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
        forked = multiprocessing.get_context("fork")  # which need not import everything anew, as nnU-Net's would
        multiprocessing.get_context = lambda *_: forked  # type: ignore[assignment]
        yield root


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    results = Path(__file__).parent / "results" / "model-kinds.json"
    parser.add_argument("--output", type=Path, default=results)
    parser.add_argument("--only", nargs="*", help="Kinds, by a part of their names.")
    asked = parser.parse_args()
    facts = json.loads(asked.output.read_text()) if asked.only and asked.output.exists() else {"rows": []}
    rows = {row["kind"]: row for row in facts["rows"]}
    with environment() as root:
        from nnunetv2.training.logging.nnunet_logger import LocalLogger

        LocalLogger.plot_progress_png = lambda *_: None
        numbers: dict[str, int] = {}  # of data sets
        for kind in KINDS:
            if asked.only and not any(part in kind.name for part in asked.only):
                continue
            data = kind.channels, kind.labels, kind.order, kind.configuration in FIRST_STAGE
            number = numbers.setdefault(str(data), len(numbers) + 1)
            start = time.monotonic()
            with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
                row = compare(root, number, kind)
            rows[kind.name] = asdict(row)
            in_order = [rows[each.name] for each in KINDS if each.name in rows]
            asked.output.write_text(json.dumps({"nnunetv2": version("nnunetv2"), "rows": in_order}, indent=1) + "\n")
            equal = f"{row.equal:.3%} {row.of_logits or 0:.3%}"
            print(f"{kind.name:32} {equal} {row.labels} ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
