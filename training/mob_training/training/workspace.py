"""nnU-Net's three folders, which it reads from its process environment."""

from __future__ import annotations

import os
from pathlib import Path

from MoBUncertaintyLib.base.errors import SettingsError

FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
"""nnU-Net's variables, and the folders of a workspace that they point at."""


def use_workspace(folder: Path, new: bool = False) -> None:
    """Point nnU-Net at `folder`/{raw,preprocessed,results}; call before nnunetv2 is first imported.

    A new workspace need not exist, since a data set will be written to it; no folder is made then.

    Raises:
        SettingsError: There is no workspace.
    """
    paths = {variable: Path(folder).resolve() / name for variable, name in FOLDERS.items()}
    if not new and not any(path.is_dir() for path in paths.values()):
        raise SettingsError(
            f"{folder} is not a workspace: it has none of the folders raw, preprocessed and results; check --workspace."
        )
    for variable, path in paths.items():
        if not new:
            path.mkdir(exist_ok=True)
        os.environ[variable] = str(path)


def dataset_folder(kind: str, dataset_id: int) -> Path:
    """Find the folder `Dataset042_Name` below nnU-Net's `raw`, `preprocessed` or `results`.

    Raises:
        SettingsError: There is none with that number.
    """
    base = Path(os.environ[f"nnUNet_{kind}"])
    folders = sorted(base.glob(f"Dataset{dataset_id:03d}_*"))
    if not folders:
        raise SettingsError(f"There is no data set {dataset_id} in {base}; convert one first.")
    return folders[0]
