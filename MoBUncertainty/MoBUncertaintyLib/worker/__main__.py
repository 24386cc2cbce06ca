"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

from MoBUncertaintyLib.worker.catalogue import HANDLERS
from MoBUncertaintyLib.worker.commands import Predictions, export_review
from MoBUncertaintyLib.worker.protocol import Command
from MoBUncertaintyLib.worker.server import serve

if __name__ == "__main__":
    serve({Command.PREDICT: Predictions(), Command.EXPORT: export_review, **HANDLERS})
