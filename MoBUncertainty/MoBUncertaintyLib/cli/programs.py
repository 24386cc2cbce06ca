"""What `mob-uncertainty` and `mob-training` have in common: `--version`, `--json` and `--quiet`, the last two anywhere.

Where a command has more options than fit on a screen, `--help` shows the usual ones and `--help-all` the others too.
A command prints text for people and returns a `Result` for programs. With `--json` only that reaches stdout, and text,
that of libraries too, goes to stderr; with `--quiet` it goes nowhere.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import copy
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup, TyperOption

import MoBUncertaintyLib


@dataclass
class Shown:
    """What is shown: one JSON object on stdout; neither progress nor results, only warnings and errors."""

    as_json: bool = False
    quiet: bool = False


SHOWN = Shown()  # what the running command shows


@dataclass(frozen=True)
class Result:
    """What a command did: facts for `--json` (paths, dataclasses and NumPy's numbers are welcome), and exit code."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0


def _set(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> bool:
    if value or context.parent is None:  # the program's own options come first, and forget an earlier run's
        setattr(SHOWN, str(parameter.name).lstrip("_"), value)
    return value


AsJson = Annotated[
    bool, typer.Option("--json", callback=_set, help="Print one JSON object to stdout, and all text to stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_set, help="Print only warnings and errors.")]


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for option in context.command.params:
            if isinstance(option, TyperOption):
                option.hidden = False
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", callback=_show_all, is_eager=True, hidden=True, help="Show the advanced options, too."),
]


def version_option(program: str) -> Any:
    """Make the option that prints a program's version and exits."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{program} {MoBUncertaintyLib.__version__}")
            raise typer.Exit

    return typer.Option("--version", callback=show, is_eager=True, help="Print the version and exit.")


class Commands(TyperGroup):
    """The commands of a program, whose callback takes `_as_json: AsJson`, `_quiet: Quiet` and `_help_all: HelpAll`.

    `usual` names, for a command with too many options for a screen, those that its `--help` shows beside the required.
    """

    usual: ClassVar[Mapping[str, set[str]]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        names = ("_as_json", "_quiet", "_help_all")
        shared = [option for option in self.params if isinstance(option, TyperOption) and option.name in names]
        waiting = list(self.commands.values())
        for command in waiting:  # the list grows meanwhile
            own, usual = [copy(option) for option in shared], self.usual.get(str(command.name), set())
            for option in own:
                option.expose_value, option.hidden = False, not usual and option.name == "_help_all"
            for other in command.params if usual else ():
                if isinstance(other, TyperOption) and not other.required and other.name not in usual:
                    other.hidden, other.rich_help_panel = True, "Advanced"
            command.params = [*command.params, *own]
            if command.help:  # as paragraphs, without the line ends of the source
                command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help)
            waiting += getattr(command, "commands", {}).values()

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and print what it returns if that is wanted."""
        return show_result(lambda: super(Commands, self).invoke(ctx))


def show_result(run: Callable[[], Any]) -> Any:
    """Run a command, and exit by its code; with `--json`, print its result, or the sentence that it fails with."""
    stdout, encoding = sys.stdout, getattr(sys.stdout, "encoding", None) or "utf-8"
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")  # the code page of a Windows terminal has not every letter
    # The options of the command itself are read only when it runs.
    with redirect_stdout(_Choice(stdout)):
        try:
            result = run()
        except Exception as error:
            code = error.exit_code if isinstance(error, typer.Exit) else None
            if SHOWN.as_json and code != 0:  # 0: of --help
                reason = error if code is None else error.__cause__
                print(to_json({"error": str(reason) if reason else "Cancelled."}, encoding), file=stdout)
            raise
    facts, code = (result.facts, result.code) if isinstance(result, Result) else ({}, 0)
    if SHOWN.as_json:
        print(to_json(facts, encoding), file=stdout)
    if code:
        raise typer.Exit(code)
    return result


class _Nowhere(io.StringIO):
    """A file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


class _Choice:
    """A stdout that chooses, at each use, where text for people goes."""

    def __init__(self, stdout: Any) -> None:
        self._stdout = stdout
        self._nowhere = _Nowhere()

    def __getattr__(self, name: str) -> Any:
        if SHOWN.quiet:
            return getattr(self._nowhere, name)
        return getattr(sys.stderr if SHOWN.as_json else self._stdout, name)


def to_json(value: Any, encoding: str = "utf-8") -> str:
    """Write a value as JSON; numbers that JSON cannot hold are null, letters that an encoding may lack are escaped."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=encoding.lower() != "utf-8", allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
