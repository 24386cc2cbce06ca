"""Options and results that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from MoBUncertaintyLib.cli.programs import Result

Workspace = Annotated[Path, typer.Option(help="Folder that holds nnU-Net's raw, preprocessed and results folders.")]
DatasetId = Annotated[int, typer.Option(min=1, max=999, help="nnU-Net's number of the data set.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Fold = Annotated[int, typer.Option(min=0, max=999, help="Fold of the data set's split.")]


def declaring(options: type) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command an option for each field of a dataclass; its argument `options` gets the value that they make."""

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        hints = get_type_hints(command, include_extras=True) | get_type_hints(options, include_extras=True)
        fields = inspect.signature(options).parameters
        own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "options"]

        @wraps(command)
        def run(**values: Any) -> Result:
            chosen = options(**{name: values.pop(name) for name in fields})
            return command(**values, options=chosen)

        run.__annotations__ = hints
        run.__signature__ = inspect.Signature(
            [one.replace(annotation=hints[one.name], kind=one.KEYWORD_ONLY) for one in (*own, *fields.values())]
        )
        return run

    return decorate


def written(path: Path) -> Result:
    """Print the path of what a command made; it is also all that there is for `--json`."""
    print(path)
    return Result({"output": path})
