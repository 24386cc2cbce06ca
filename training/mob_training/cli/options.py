"""Options and results that several commands share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mob_training.training.settings import default_options
from MoBUncertaintyLib.cli.programs import Result

Workspace = Annotated[Path, typer.Option(help="Folder that holds nnU-Net's raw, preprocessed and results folders.")]
DatasetId = Annotated[int, typer.Option(min=1, max=999, help="nnU-Net's number of the data set.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Fold = Annotated[int, typer.Option(min=0, max=999, help="Fold of the data set's split.")]

DEFAULTS = SimpleNamespace(**default_options())
"""Of a fine-tuning."""


def written(path: Path) -> Result:
    """Print the path of what a command made; it is also all that there is for `--json`."""
    print(path)
    return Result({"output": path})
