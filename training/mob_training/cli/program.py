"""`mob-training`: from a labelled data set to a trained covariance model, one command per step."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from mob_training.cli import data, evaluation, training
from MoBUncertaintyLib.base.errors import Cancelled, SettingsError, UserError
from MoBUncertaintyLib.cli.programs import SHOWN, AsJson, Commands, HelpAll, Quiet, version_option

CANCELLED = 130
"""The exit code after Ctrl-C, as a shell has it."""


class Program(Commands):
    """The commands of `mob-training`."""

    usual: ClassVar = {
        "labelled": {"test", "validation", "channel"},
        "finetune": {"covariance", "scope", "name", "epochs", "fold", "device", "resume"},
        "attach-head": {"covariance", "epochs", "device"},
        "evaluate": {"raters", "name", "part", "measure", "doses", "device"},
    }


app = typer.Typer(cls=Program, no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.callback()
def program(
    _version: Annotated[bool, version_option("mob-training")] = False,
    _as_json: AsJson = False,
    _quiet: Quiet = False,
    _help_all: HelpAll = False,
) -> None:
    """Set the options of the program itself."""


for command in (
    *(data.phantom, data.totalsegmentator, data.rtstruct, data.labelled, data.openkbp),
    *(training.plan, training.train, training.finetune, training.attach_head),
    *(evaluation.evaluate, evaluation.fingerprint, evaluation.pieces, evaluation.compare, evaluation.overlay),
):
    app.command(command.__name__.replace("_", "-"))(command)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def workflow(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="Config, as in training/workflow/config.")],
    output: Annotated[Path, typer.Option(help="Folder of the workflow: data, runs, scores, tables.")],
    profile: Annotated[str, typer.Option(help="local, slurm, or a folder with a profile.")] = "local",
) -> None:
    """Run the whole comparison, from data to tables and figures, or resume it.

    All other arguments are passed to Snakemake: targets (all, models, or a file) and options
    (--cores 2, --dry-run, --config data=FOLDER). Run the same command again after a stop or a crash.
    """
    from mob_training.workflow import start

    if SHOWN.as_json:
        raise SettingsError("What the workflow prints is Snakemake's, which is no JSON; leave out --json.")
    start(config, output, profile, [*context.args, *(["--quiet", "all"] if SHOWN.quiet else [])])


def main() -> None:
    """Run the command; report what a user can fix in one sentence, with exit code 2."""
    try:
        app()
    except Cancelled as error:
        print(error, file=sys.stderr)
        sys.exit(CANCELLED)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no name: it was open
            print("Error: The disk is full; free some space, and run this again.", file=sys.stderr)
        elif error.filename is not None:
            place = f"{error.filename}: {error.strerror}"
            print(f"Error: {place}; choose another place or repair this one.", file=sys.stderr)
        else:
            raise
        sys.exit(2)
