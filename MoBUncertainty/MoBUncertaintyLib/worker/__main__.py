"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

import sys

from MoBUncertaintyLib.worker.catalogue import HANDLERS
from MoBUncertaintyLib.worker.commands import (
    Predictions,
    calibrate,
    describe_computer,
    export_review,
    has_model,
    keep_model,
)
from MoBUncertaintyLib.worker.protocol import Command
from MoBUncertaintyLib.worker.server import FOR_ANOTHER_COMPUTER, Handler, serve
from MoBUncertaintyLib.worker.worklist import worklist_handlers

if __name__ == "__main__":
    predictions = Predictions()
    elsewhere: dict[str, Handler] = {
        Command.PREDICT: predictions.predict_sent,
        Command.COMPUTER: describe_computer,
        Command.MODEL: has_model,
        Command.KEEP: keep_model,
    }
    here: dict[str, Handler] = {
        Command.PREDICT: predictions,
        Command.PREDICT_CASE: predictions.predict_case,
        Command.EXPORT: export_review,
        Command.CALIBRATE: calibrate,
        Command.COMPUTER: describe_computer,
        **HANDLERS,
        **worklist_handlers(),
    }
    serve(elsewhere if FOR_ANOTHER_COMPUTER in sys.argv else here)
