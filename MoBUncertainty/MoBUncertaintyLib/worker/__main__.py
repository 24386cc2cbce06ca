"""Serve on stdin and stdout: `python -m MoBUncertaintyLib.worker`."""

import sys

from MoBUncertaintyLib.worker.commands import handlers_for_another_computer, handlers_here
from MoBUncertaintyLib.worker.server import FOR_ANOTHER_COMPUTER, serve

if __name__ == "__main__":
    serve(handlers_for_another_computer() if FOR_ANOTHER_COMPUTER in sys.argv else handlers_here())
