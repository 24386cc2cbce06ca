"""Be a worker whose work another computer does: `python -m MoBUncertaintyLib.worker.remote USER@HOST`.

To the application this is a worker like every other. It ends, and ssh with it, when either side does.
"""

import sys
from functools import partial
from typing import NoReturn

from MoBUncertaintyLib.worker.protocol import Command
from MoBUncertaintyLib.worker.remote.connection import Connection
from MoBUncertaintyLib.worker.server import serve


def relay(host: str) -> NoReturn:
    """Pass the application's requests on to a computer, which ssh knows by that name."""
    connection = Connection(host, partial(print, file=sys.stderr, flush=True))
    serve(
        {
            Command.PREDICT: connection.predict,
            Command.COMPUTER: lambda _request, report: connection.ask({"command": Command.COMPUTER}, report),
        },
        computes=False,
    )


if __name__ == "__main__":
    relay(sys.argv[1])
