"""A tiny nnU-Net with real plans and a synthetic CT, for tests: models that run in milliseconds, written as nnU-Net
writes them, and briefly trained so that their probabilities have the structure of a segmentation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.model.card import ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import read_file
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.model.weights import read_weights, write_weights
from MoBUncertaintyLib.network.backbone import StochasticNetwork, build_network
from MoBUncertaintyLib.network.export import export, write_model

PLANS_FILE = Path(__file__).with_name("tiny_plans.json")
"""A residual encoder with three stages, as nnU-Net plans one."""
WEIGHTS = Path(__file__).with_suffix(".safetensors")
"""Of the backbone for two classes; made by running this file."""

CONFIGURATION = "3d_fullres"
PATCH = (24, 24, 24)
SPACING = (3.0, 3.0, 3.0)
INTENSITIES = {"mean": 50.0, "std": 60.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0}
INTENSITIES |= {"min": -1000.0, "max": 500.0, "median": 50.0}
DETERMINISTIC = CovarianceSpec(Covariance.DETERMINISTIC)
SPEC = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)


def make_plans(
    patch: Sequence[int] = PATCH,
    spacing: Sequence[float] = SPACING,
    transpose: Sequence[int] = (0, 1, 2),
    normalisation: str = "CTNormalization",
    use_mask: bool = False,
) -> dict[str, Any]:
    """`plans.json` of a residual encoder with three stages.

    Args:
        patch, spacing: In the network's axes, that is, transposed.
        transpose: `transpose_forward`.
        normalisation: Name of nnU-Net's class.
        use_mask: `use_mask_for_norm`.
    """
    plans = json.loads(PLANS_FILE.read_text(encoding="utf-8"))
    plans["configurations"][CONFIGURATION] |= {
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": [normalisation],
        "use_mask_for_norm": [use_mask],
    }
    return plans | {
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch),
        "transpose_forward": list(transpose),
        "transpose_backward": np.argsort(transpose).tolist(),
    }


def make_dataset(
    labels: Sequence[str] = ("organ",), channel: str = "CT", orientation: str | None = None
) -> dict[str, Any]:
    """`dataset.json` with the foreground labels 1, 2, ..."""
    values = {"background": 0} | {name: value for value, name in enumerate(labels, start=1)}
    dataset = {"channel_names": {"0": channel}, "labels": values, "numTraining": 1, "file_ending": ".nii.gz"}
    return dataset if orientation is None else dataset | {"orientation": orientation}


def write_raw(
    folder: Path, description: dict, cases: Mapping[str, tuple[sitk.Image, sitk.Image]], part: str = "Ts"
) -> Path:
    """A raw data set of nnU-Net with images and label maps in one part."""
    for kind in ("images", "labels"):
        (folder / f"{kind}{part}").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for name, (image, truth) in cases.items():
        sitk.WriteImage(image, str(folder / f"images{part}" / f"{name}_0000.nii.gz"))
        sitk.WriteImage(truth, str(folder / f"labels{part}" / f"{name}.nii.gz"))
    return folder


def make_results_folder(
    folder: Path,
    plans: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    covariance: CovarianceSpec = DETERMINISTIC,
    folds: int = 1,
    mirror_axes: Sequence[int] | None = None,
    trainer: str = "nnUNetTrainer",
) -> Path:
    """Write what nnU-Net leaves after training: a stock folder if deterministic, else as `mob-training finetune` does.

    Fold 0 has the trained weights; the others are disturbed versions of them.
    """
    plans, dataset = plans or make_plans(), dataset or make_dataset()
    stock = covariance.kind is Covariance.DETERMINISTIC and trainer == "nnUNetTrainer"
    if not stock:
        plans = plans | {"covariance": to_json(covariance)}
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in range(folds):
        weights = make_weights(covariance, len(dataset["labels"]), fold)
        if stock:
            weights = {name.removeprefix("backbone."): value for name, value in weights.items()}
        write_fold(folder, fold, weights, CONFIGURATION, mirror_axes, trainer)
    return folder


def write_fold(
    folder: Path,
    fold: int | str,
    weights: dict[str, Tensor],
    configuration: str,
    mirror_axes: Sequence[int] | None = None,
    trainer: str = "nnUNetTrainer",
) -> None:
    """Write the checkpoint of a fold into a training folder, as nnU-Net does."""
    checkpoint = {
        "network_weights": weights,
        "trainer_name": trainer,
        "init_args": {"configuration": configuration, "fold": fold},
        "inference_allowed_mirroring_axes": mirror_axes,
        "current_epoch": 1,
    }
    (folder / f"fold_{fold}").mkdir()
    torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")


def make_model(folder: Path, **options: Any) -> Model:
    """The same, opened; options as for `make_results_folder`."""
    return load_model(make_results_folder(folder, **options))


def make_exported_model(folder: Path) -> Path:
    """Export a diagonal model, called Tiny, to a new folder in `folder`."""
    spec = CovarianceSpec(Covariance.DIAGONAL)
    export(make_results_folder(folder / "raw", covariance=spec), folder / "model", name="Tiny")
    return folder / "model"


def make_weights(covariance: CovarianceSpec = DETERMINISTIC, classes: int = 2, fold: int = 0) -> dict[str, Tensor]:
    """State dict of a `StochasticNetwork`; the backbone is trained where there are two classes."""
    generator = torch.Generator().manual_seed(fold)
    network = _network(covariance, classes)
    if classes == 2:
        network.backbone.load_state_dict(_trained_backbone())
    weights = {}
    for name, value in network.state_dict().items():
        scale = 0.0 if fold == 0 else 0.03
        # A log-variance that differs from voxel to voxel, not the prior that heads start from.
        noise = torch.randn(value.shape, generator=generator)
        weights[name] = (
            0.3 * noise if name == "head.log_variance.weight" else value + scale * value.abs().mean() * noise
        )
    return weights


PLANS = make_plans(patch=(8, 8, 8), spacing=(3.0, 1.5, 1.0))
DATASET = make_dataset(["pancreas"])
"""Of a model folder whose axes differ in their spacing."""


def card(**changes: Any) -> ModelCard:
    """That of `make_model_folder`, with changes."""
    return replace(
        ModelCard(
            name="Tiny",
            task="Pancreas in CT.",
            labels=describe_labels({1: "pancreas"}),
            covariance=SPEC,
            configuration=CONFIGURATION,
            orientation="RAS",
            spacing=(1.0, 1.5, 3.0),
            training={"cases": 12},
            scores={"dice": 0.9},
            licence="CC-BY-4.0",
        ),
        **changes,
    )


def network(seed: int = 0) -> StochasticNetwork:
    """That of `PLANS`, with random weights."""
    torch.manual_seed(seed)
    return build_network(PLANS, DATASET, CONFIGURATION, SPEC).eval()


def make_model_folder(folder: Path, **changes: Any) -> Model:
    """Write a model of two folds, as a zip if the name says so; `changes` of its card."""
    weights = [(fold, network(fold).state_dict()) for fold in (0, 1)]
    return write_model(folder, card(**changes), PLANS, DATASET, weights)


def make_ct(
    shape: Sequence[int] = (40, 48, 56),
    spacing: Sequence[float] = SPACING,
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    centre: Sequence[float] = (0, 0, 0),
) -> sitk.Image:
    """A CT (int16) of the one patient there is: the anatomy is a function of the point in space, LPS mm.

    Args:
        shape: Voxels, z y x.
        spacing: mm, x y z.
        direction: SimpleITK direction.
        centre: The point, LPS mm, in the middle of the image.
    """
    image = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkInt16)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection([float(d) for d in direction])
    middle = [(n - 1) / 2 for n in image.GetSize()]
    image.SetOrigin((np.asarray(centre) - image.TransformContinuousIndexToPhysicalPoint(middle)).tolist())
    values, _ = _anatomy(_points(image))
    filled = sitk.GetImageFromArray(np.round(values).astype(np.int16))
    filled.CopyInformation(image)
    return filled


def truth(image: sitk.Image) -> np.ndarray:
    """Where the organ is in an image of `make_ct`, (z, y, x) bool."""
    return _anatomy(_points(image))[1] > 0.5


def _points(image: sitk.Image) -> np.ndarray:
    """LPS mm of every voxel, (3, z, y, x)."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in image.GetSize()[::-1]), indexing="ij")
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.einsum("ij,jzyx->izyx", matrix, np.stack([x, y, z])) + np.reshape(image.GetOrigin(), (3, 1, 1, 1))


def _anatomy(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HU and share of organ at points (3, ...), LPS mm: an ellipsoid of soft tissue, an organ off its centre."""
    x, y, z = points

    def inside(centre: Sequence[float], radii: Sequence[float], width: float) -> np.ndarray:
        distance = np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)))
        return 1 / (1 + np.exp((distance - 1) * min(radii) / width))

    body = inside((0, 0, 0), (72, 60, 75), 1.5)
    organ = inside((14, -8, 5), (34, 26, 30), 3.0)
    texture = 5 * np.sin(x / 9) * np.cos(y / 7 + z / 11) + 4 * np.sin(x / 5 + z / 4)
    return -1000 + body * (1010 + texture + 110 * organ), organ


def _network(covariance: CovarianceSpec, classes: int) -> StochasticNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = [f"organ {i}" for i in range(1, classes)]
        return build_network(make_plans(), make_dataset(names), CONFIGURATION, covariance)


@lru_cache(maxsize=1)
def _trained_backbone() -> dict[str, Tensor]:
    stored = read_weights(read_file(WEIGHTS))
    return {name: torch.from_numpy(value) for name, value in stored.items()}


def train(steps: int = 1000) -> None:
    """Fit the backbone to images of the patient in many positions and write `WEIGHTS`; about a minute."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(16):
        turned = sitk.VersorTransform(rng.normal(size=3).tolist(), rng.uniform(0, 0.3)).GetMatrix()
        images.append(make_ct((48, 48, 56), rng.uniform(2.5, 3.5, 3), turned, rng.uniform(-9, 9, 3)))
    low, high = INTENSITIES["percentile_00_5"], INTENSITIES["percentile_99_5"]
    data = np.stack([np.clip(sitk.GetArrayFromImage(image), low, high) for image in images])
    data = torch.from_numpy((data - INTENSITIES["mean"]) / INTENSITIES["std"]).float()
    # Soft borders, as where readers disagree: thresholded between voxels they are accurate to a fraction of one.
    organ = np.stack([_anatomy(_points(image))[1] for image in images])
    target = torch.from_numpy(np.stack([1 - organ, organ], axis=1)).float()
    network = _network(DETERMINISTIC, 2).train()
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=steps)
    for _ in range(steps):
        starts = rng.integers(0, np.subtract(data.shape[1:], PATCH) + 1, (3, 3))
        places = [
            (rng.integers(len(images)), *(slice(i, i + n) for i, n in zip(start, PATCH, strict=True)))
            for start in starts
        ]
        logits = network(torch.stack([data[place] for place in places])[:, None]).mean
        loss = cross_entropy(logits, torch.stack([target[(image, slice(None), *place)] for image, *place in places]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"loss {loss.item():.4f}")
    # float16 keeps the file small; a test needs no more.
    write_weights(WEIGHTS, network.backbone.state_dict(), half=True)


if __name__ == "__main__":
    train()
