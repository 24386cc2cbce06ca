"""Turn a labelled data set into nnU-Net's raw layout, one organ at a time, with a fixed split that nnU-Net follows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.errors import SettingsError


@dataclass(frozen=True)
class LabelledCase:
    """One image with its label map on the same grid."""

    name: str
    image: Path
    label: sitk.Image


@dataclass(frozen=True)
class Split:
    """How many cases train, validate and test; `None` takes what is left. The order comes from the seed alone."""

    train: int | None = None
    validation: int = 0
    test: int = 0
    seed: int = 0

    def assign(self, names: list[str]) -> dict[str, list[str]]:
        """Names by `train`, `val` and `test`, disjoint, in an order that depends on the seed only.

        Raises:
            SettingsError: There are too few cases.
        """
        order = [sorted(names)[i] for i in np.random.default_rng(self.seed).permutation(len(names))]
        train = len(order) - self.validation - self.test if self.train is None else self.train
        if train < 1 or train + self.validation + self.test > len(order):
            raise SettingsError(
                f"{len(order)} cases are too few to train {train}, validate {self.validation} and test {self.test}."
            )
        test, rest = order[: self.test], order[self.test :]
        validation, rest = rest[: self.validation], rest[self.validation :]
        return {"train": sorted(rest[:train]), "val": sorted(validation), "test": sorted(test)}


def totalsegmentator_cases(source: Path, organ: str, report: Callable[[str], None] = print) -> Iterator[LabelledCase]:
    """Cases in TotalSegmentator's layout, `CASE/ct.nii.gz` and `CASE/segmentations/ORGAN.nii.gz`, that show the organ.

    A case whose files are missing, whose mask is empty or lies on another grid is reported and left out.
    """
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        image, mask = folder / "ct.nii.gz", folder / "segmentations" / f"{organ}.nii.gz"
        if not image.exists() or not mask.exists():
            report(f"{folder.name}: {(image if not image.exists() else mask).name} is missing, case left out")
            continue
        label = sitk.Cast(sitk.ReadImage(str(mask)) > 0, sitk.sitkUInt8)
        if not _same_grid(image, label):
            report(f"{folder.name}: {mask.name} is on another grid than the CT, case left out")
        elif not sitk.GetArrayViewFromImage(label).any():
            report(f"{folder.name}: no {organ}, case left out")
        else:
            yield LabelledCase(folder.name, image, label)


def folder_cases(
    source: Path, values: list[list[int]], report: Callable[[str], None] = print
) -> Iterator[LabelledCase]:
    """Cases of a folder with `images/NAME.nii.gz` and `labels/NAME.nii.gz`.

    Class 1, 2, ... is where the label map has one of the values of the first, second, ... list.
    """
    for image in sorted((source / "images").glob("*.nii.gz")):
        path = source / "labels" / image.name
        if not path.exists():
            report(f"{image.name}: no label map, case left out")
            continue
        stored = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(stored)
        classes = np.zeros(array.shape, np.uint8)
        for index, members in enumerate(values, start=1):
            classes[np.isin(array, members)] = index
        label = sitk.GetImageFromArray(classes)
        label.CopyInformation(stored)
        if _same_grid(image, label):
            yield LabelledCase(image.name.removesuffix(".nii.gz"), image, label)
        else:
            report(f"{image.name}: its label map is on another grid, case left out")


def write_dataset(
    cases: Iterator[LabelledCase],
    dataset_id: int,
    name: str,
    labels: list[str],
    channel: str,
    split: Split,
    source: str,
) -> Path:
    """Write `nnUNet_raw/DatasetXXX_NAME` with images, label maps, `dataset.json` and `splits_final.json`.

    Args:
        cases: What to write.
        dataset_id: nnU-Net's number of the data set.
        name: Its name.
        labels: Names of the classes from 1 on.
        channel: `CT` for Hounsfield units with nnU-Net's CT normalisation; anything else is z-scored.
        split: Train, validation and test.
        source: Where the data came from, kept in `dataset.json`.

    Raises:
        SettingsError: There is such a data set already, or there are too few cases for the split.

    Returns:
        The folder. Test cases lie in `imagesTs` and `labelsTs`, which nnU-Net does not look at in training.
    """
    folder = Path(os.environ["nnUNet_raw"]) / f"Dataset{dataset_id:03d}_{name}"
    found = list(cases)
    parts = split.assign([case.name for case in found])
    if folder.exists():
        raise SettingsError(f"{folder} exists already; choose another --dataset-id or remove it.")
    orientations: set[str] = set()
    for case in found:
        part = next((part for part, names in parts.items() if case.name in names), None)
        if part is None:
            continue
        suffix = "Ts" if part == "test" else "Tr"
        images, label_maps = folder / f"images{suffix}", folder / f"labels{suffix}"
        images.mkdir(parents=True, exist_ok=True)
        label_maps.mkdir(parents=True, exist_ok=True)
        shutil.copy(case.image, images / f"{case.name}_0000.nii.gz")
        sitk.WriteImage(case.label, str(label_maps / f"{case.name}.nii.gz"), useCompression=True)
        orientations.add(_orientation(case.label))
    description = {
        "channel_names": {"0": channel},
        "labels": {"background": 0} | {label: value for value, label in enumerate(labels, start=1)},
        "numTraining": len(parts["train"]) + len(parts["val"]),
        "file_ending": ".nii.gz",
        "reference": source,
        # Not nnU-Net's: kept so that `mob-uncertainty export` can state the axes the model was trained in.
        "orientation": orientations.pop() if len(orientations) == 1 else None,
    }
    _write_json(folder / "dataset.json", description)
    _write_json(folder / "splits_final.json", [{"train": parts["train"], "val": parts["val"]}])
    return folder


def _orientation(image: sitk.Image) -> str:
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


def _same_grid(image: Path, label: sitk.Image) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    return reader.GetSize() == label.GetSize() and np.allclose(
        (*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection()),
        (*label.GetSpacing(), *label.GetOrigin(), *label.GetDirection()),
        atol=1e-3,
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
