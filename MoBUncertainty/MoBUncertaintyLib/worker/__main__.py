"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

from __future__ import annotations

import sys

from MoBUncertaintyLib.worker import commands
from MoBUncertaintyLib.worker.predictions import Predictions
from MoBUncertaintyLib.worker.protocol import Command
from MoBUncertaintyLib.worker.server import FOR_ANOTHER_COMPUTER, Handler, serve


def handlers_here() -> dict[str, Handler]:
    """Make the handlers of the application's own worker."""
    predictions = Predictions()
    return {
        Command.PREDICT: predictions.predict,
        Command.PREDICT_CASE: predictions.predict_case,
        Command.EXPORT: commands.export_review,
        Command.MEASURE: commands.measure_review,
        Command.CALIBRATE: commands.calibrate,
        Command.COMPUTER: commands.ask_computer,
        Command.LIST: commands.list_catalogue,
        Command.PICTURE: commands.fetch_picture,
        Command.INSTALL: commands.install_model,
        Command.CASES: commands.CaseList(),
        Command.OPEN_CASE: commands.open_case,
        Command.SIGN_CASE: commands.sign_case,
    }


def handlers_for_another_computer() -> dict[str, Handler]:
    """Make the handlers of a worker that computes for another computer, and does nothing else for it."""
    return {
        Command.PREDICT: Predictions().predict_sent,
        Command.COMPUTER: commands.describe_computer,
        Command.MODEL: commands.has_model,
        Command.KEEP: commands.keep_model,
    }


if __name__ == "__main__":
    serve(handlers_for_another_computer() if FOR_ANOTHER_COMPUTER in sys.argv else handlers_here())
