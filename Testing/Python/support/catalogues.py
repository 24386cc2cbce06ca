"""Catalogues, and a web server on this computer that hosts one, well or badly."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Host(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        address: Of the folder.
        faults: What goes wrong, by the end of a file's name: `truncated`, `lost`, `silent`, or where it
            redirects to.
        asked: Method, path and headers of each request.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, str] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.released = threading.Event()


class _Handler(SimpleHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        fault = next((fault for end, fault in self.server.faults.items() if self.path.endswith(end)), None)
        if fault is None:
            super().do_GET()
        elif fault == "silent":
            self.server.released.wait(10)
        elif fault in ("truncated", "lost"):
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "lost":  # the connection is reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        else:
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hosted(folder: Path) -> Iterator[Host]:
    """Serve a folder meanwhile."""
    with Host(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
