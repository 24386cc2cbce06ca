"""Where nnU-Net keeps its three folders. It reads them from its process environment, so they are set here."""

from __future__ import annotations

import os
from pathlib import Path

from MoBUncertaintyLib.errors import SettingsError


def use_workspace(folder: Path) -> None:
    """Point nnU-Net at `folder`/{raw,preprocessed,results}; call before nnunetv2 is first imported."""
    for variable, name in (
        ("nnUNet_raw", "raw"),
        ("nnUNet_preprocessed", "preprocessed"),
        ("nnUNet_results", "results"),
    ):
        path = Path(folder).resolve() / name
        path.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(path)


def dataset_folder(kind: str, dataset_id: int) -> Path:
    """The folder `Dataset042_Name` below nnU-Net's `raw`, `preprocessed` or `results`.

    Raises:
        SettingsError: There is none with that number.
    """
    base = Path(os.environ[f"nnUNet_{kind}"])
    found = sorted(base.glob(f"Dataset{dataset_id:03d}_*"))
    if not found:
        raise SettingsError(f"There is no data set {dataset_id} in {base}; convert one first.")
    return found[0]
