"""The command `mob-uncertainty`, in the test's process."""

from functools import cache
from pathlib import Path

import typer.testing
from click.testing import Result
from typer.testing import CliRunner

from MoBUncertaintyLib.cli import app

# The commands of a program, and what checks their options, are made once for all tests: that takes as long as most
# commands themselves.
typer.testing._get_command = cache(typer.testing._get_command)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, [str(argument) for argument in arguments])
