"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

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
from MoBUncertaintyLib.worker.server import Handler, serve
from MoBUncertaintyLib.worker.worklist import worklist_handlers

if __name__ == "__main__":
    predictions = Predictions()
    own: dict[str, Handler] = {
        Command.PREDICT: predictions,
        Command.PREDICT_CASE: predictions.predict_case,
        Command.EXPORT: export_review,
        Command.CALIBRATE: calibrate,
        Command.COMPUTER: describe_computer,
        Command.MODEL: has_model,
        Command.KEEP: keep_model,
    }
    serve({**own, **HANDLERS, **worklist_handlers()})
