"""`mob-uncertainty calibrate`: its options, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.programs import Result


def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or .zip, or the name of a model that is shipped.")],
    reviews: Annotated[
        list[Path],
        typer.Argument(
            metavar="REVIEWS...",
            help="Folders of signed-off reviews, or results folders, or a folder of these, with reviews in them.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Model folder to make, or a .zip.")],
    name: Annotated[str | None, typer.Option(help="Name of the new model. Default: the old one, calibrated.")] = None,
) -> Result:
    """Calibrate a model on a site's own signed-off reviews, 5 or more; the result is a new model.

    Nothing is written where the new model would not be better, by leaving out one review at a time.
    """
    with console.reporting():
        from MoBUncertaintyLib.calibration.models import calibrate_model

        made = calibrate_model(model, reviews, output, name)
        console.show_calibrated(made)
        facts = {"path": made.model.path, "digest": made.model.digest, "refused": made.refused}
        return Result(facts | {"calibration": made.model.card.training["calibration"]})
