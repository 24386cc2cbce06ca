"""The command `mob-uncertainty`, in the test's process."""

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from MoBUncertaintyLib.cli import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, [str(argument) for argument in arguments])
