"""Be a worker whose work another computer does: `python -m MoBUncertaintyLib.worker.remote USER@HOST`."""

import sys

from MoBUncertaintyLib.worker.remote.relay import relay

if __name__ == "__main__":
    relay(sys.argv[1])
