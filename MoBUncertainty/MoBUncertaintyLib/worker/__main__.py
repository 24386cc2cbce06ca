"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

from MoBUncertaintyLib.worker.catalogue import HANDLERS
from MoBUncertaintyLib.worker.commands import Predictions, calibrate, export_review
from MoBUncertaintyLib.worker.protocol import Command
from MoBUncertaintyLib.worker.server import Handler, serve

if __name__ == "__main__":
    own: dict[str, Handler] = {
        Command.PREDICT: Predictions(),
        Command.EXPORT: export_review,
        Command.CALIBRATE: calibrate,
    }
    serve({**own, **HANDLERS})
