"""`mob-uncertainty calibrate`: its options, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.options import Device
from MoBUncertaintyLib.cli.programs import Result


def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or .zip, or the name of a model that is shipped.")],
    cases: Annotated[
        list[Path],
        typer.Argument(
            metavar="CASES...",
            help="Folders of signed-off reviews, or results folders, or a folder of these, with reviews in them; or "
            "folders of labelled cases, with images/NAME.nii.gz and labels/NAME.nii.gz.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Model folder to make, or a .zip.")],
    name: Annotated[str | None, typer.Option(help="Name of the new model. Default: the old one, calibrated.")] = None,
    device: Device = "auto",
) -> Result:
    """Calibrate a model on a site's own cases, 5 or more, signed-off reviews or labelled; the result is a new model.

    Labelled cases are predicted first. Nothing is written where the new model would not be better, by leaving out one
    case at a time.
    """
    with console.reporting(steps=True) as cancelled:
        from MoBUncertaintyLib.calibration.calibration import calibrate_model

        with console.progress(f"Calibrating {model}") as progress:
            made = calibrate_model(model, cases, output, name, progress, cancelled, device)
        console.show_calibrated(made)
        facts = {"path": made.model.path, "digest": made.model.digest, "refused": made.refused}
        return Result(facts | {"calibration": made.model.card.training["calibration"]})
