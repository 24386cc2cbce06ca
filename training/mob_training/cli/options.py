"""Options and results that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from MoBUncertaintyLib.cli.programs import Result

Workspace = Annotated[Path, typer.Option(help="Folder that holds nnU-Net's raw, preprocessed and results folders.")]
DatasetId = Annotated[int, typer.Option(min=1, max=999, help="nnU-Net's number of the data set.")]


def declaring(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command an option for each field of the dataclasses among its arguments, and call it with these."""
    hints, options, groups = get_type_hints(command, include_extras=True), [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(kind := hints[name]):
            groups[name] = kind, inspect.signature(kind).parameters
            hints |= get_type_hints(kind, include_extras=True)
        options += groups[name][1].values() if name in groups else [parameter]

    @wraps(command)
    def run(**values: Any) -> Result:
        made = {name: kind(**{field: values.pop(field) for field in fields}) for name, (kind, fields) in groups.items()}
        return command(**values, **made)

    run.__annotations__ = hints
    run.__signature__ = inspect.Signature(
        [one.replace(annotation=hints[one.name], kind=one.KEYWORD_ONLY) for one in options]
    )
    return run


def written(path: Path) -> Result:
    """Print the path of what a command made; it is also all that there is for `--json`."""
    print(path)
    return Result({"output": path})
