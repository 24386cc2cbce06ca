"""Serve the review page on this computer alone, so that each click acts at once.

The server listens on the loopback address only, under a token that nobody can guess, and answers no page of another
site: a request must name this server as its host.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from MoBUncertaintyLib.base.errors import OutputError, ReviewError, UserError, reason_of
from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.base.json_input import JsonError, parse_object
from MoBUncertaintyLib.base.publishing import reserve, withdraw, write_file
from MoBUncertaintyLib.measurements.interval import change_text, volume_text
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pages.review_page import ReviewPage
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent
from MoBUncertaintyLib.review.suggestion import Suggestion, suggest

_LARGEST_REQUEST = 2**20  # bytes


class DecisionsFile:
    """The file that a review is in while its page is served: never another one's, and whole at any time.

    It lies beside the results folder, or in the home folder if nothing can be written there.
    """

    def __init__(self, results: Path) -> None:
        self._results = results.absolute()
        self.path: Path | None = None  # once something is decided

    def write(self, text: str) -> None:
        """Put the decisions on the disk; raises `OutputError` or `OSError`, and the file is as it was."""
        if self.path:
            write_file(self.path, lambda path: path.write_text(text, encoding="utf-8"))
            return
        stem = f"{self._results.name}-decisions-{datetime.now():%Y%m%d-%H%M%S}"
        problem: Exception = OutputError("there is no folder for them")
        for folder in filter(Path.is_dir, (self._results.parent, Path.home())):
            for number in count(1):
                target = folder / f"{stem}{'' if number == 1 else f'-{number}'}.json"
                try:
                    with reserve(target) as place:
                        place.partial.write_text(text, encoding="utf-8")
                        place.publish_new()
                    self.path = target
                    return
                except (FileExistsError, OutputError):  # another page began in this second
                    continue
                except OSError as error:
                    problem = error
                    break
        raise problem

    def remove(self) -> None:
        """Remove the file, since nothing is decided; raises `OutputError` or `OSError`."""
        if self.path:
            withdraw(self.path)
            self.path = None


class PageReview:
    """A review that is led from a page: takes its steps, each on the disk before what the page must show is said."""

    def __init__(self, case: Case, file: DecisionsFile) -> None:
        self._review, self._file = case.review, file
        self._page = ReviewPage(case)
        self._first = self._kept = self.decisions()

    def render(self) -> str:
        """Write the page as it is now."""
        return self._page.render(served=True)

    def step(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Take a step of the page: `click`, `lock`, `remove`, `decide`, `comment`, `undo` or `suggest`.

        Returns the page's state, the maps of the regions that have changed, and a message; raises `ReviewError` if it
        cannot be taken or written to the disk, and all is as it was.
        """
        review, message = self._review, ""
        boxes: tuple[Box, ...] = ()
        suggestion: Suggestion | None = None
        try:
            match action["action"]:
                case "click":
                    points = [(float(r), float(a), float(s)) for r, a, s in action["points_ras"]]
                    extent = Extent(action["extent"])
                    boxes = review.click(points, action["label"], action["region"], extent=extent)
                    message = self._effect_of(review.clicks[-1])
                case "lock":
                    boxes = review.lock(action["label"])
                case "remove":
                    boxes = review.remove_click(str(action["id"]))
                case "decide":
                    boxes = review.decide(str(action["region"]), str(action["verdict"]), action["label"])
                case "comment":
                    boxes = review.comment(str(action["region"]), str(action["text"]))
                case "undo":
                    boxes = review.undo()
                case "suggest":
                    suggestion, message = suggest(review), "No further click is expected to correct anything."
                    if suggestion:
                        gain = volume_text(suggestion.gain_mm3 / 1000)
                        message = f"A click at the cross is expected to remove {gain} of error."
                case _:
                    raise KeyError
        except (KeyError, TypeError, ValueError) as error:
            raise ReviewError("The page sent an invalid step; reload it.") from error
        self._keep(review.redo if action["action"] == "undo" else review.undo)
        place = asdict(suggestion) if suggestion else None
        return self._page.state() | {"maps": self._page.maps(boxes), "message": message, "suggestion": place}

    def decisions(self) -> str:
        """Write the decisions file: the review's whole record."""
        return json.dumps(self._review.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _keep(self, take_back: Callable[[], object]) -> None:
        """Write the decisions if they have changed; a step that cannot be written is taken back."""
        decisions = self.decisions()
        if decisions == self._kept:
            return
        try:
            if decisions == self._first:
                self._file.remove()
            else:
                self._file.write(decisions)
        except (OutputError, OSError) as error:
            take_back()
            raise ReviewError(
                f"The decisions cannot be written to a file ({reason_of(error)}), so this step was not applied; free "
                "some space or allow writing there, and repeat it."
            ) from error
        self._kept = decisions

    def _effect_of(self, click: Click) -> str:
        review = self._review
        if click.click_id in review.conflicts:
            return "This click contradicts others nearby, so it changes only its own voxels."
        net, changed = (mm3 / 1000 for mm3 in review.refiner.effect(click, review.clicks))
        return f"The click changed {volume_text(changed)}, and the volume by {change_text(net)}."


def serve(review: PageReview, port: int = 0, ready: Callable[[str], None] = print) -> None:
    """Serve the page of a review until it is interrupted, at a port (0: a free one); raises `ReviewError`."""
    try:
        server = _Server(review, port)
    except OSError as error:
        raise ReviewError(f"Port {port} cannot be used ({error.strerror}); choose another one with --port.") from error
    with server:
        with suppress(KeyboardInterrupt):
            ready(f"http://127.0.0.1:{server.server_port}/{server.token}/")
            server.serve_forever()
        server.lock.acquire()  # for good: a step is taken whole, and none after the end


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, review: PageReview, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.review, self.token, self.lock = review, secrets.token_urlsafe(24), Lock()
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that does not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30.0  # seconds without a byte; what is sent and received holds no lock

    def do_GET(self) -> None:
        """Answer with the page, or with the decisions file."""
        path, review = self._path(), self.server.review
        if path not in ("", "decisions"):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
            return
        with self.server.lock:
            text = review.decisions() if path else review.render()
        self._answer(text, "application/json" if path else "text/html")

    def do_POST(self) -> None:
        """Take a step."""
        length = self.headers.get("Content-Length", "")
        if self._path() != "step" or not (length.isdecimal() and int(length) <= _LARGEST_REQUEST):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
            return
        sent = self.rfile.read(int(length))
        if len(sent) < int(length):
            return  # nobody is there any more
        try:
            action = parse_object(sent)
            with self.server.lock:
                answer = self.server.review.step(action)
        except (UserError, JsonError) as error:
            text = f"Invalid step ({error}); reload the page." if isinstance(error, JsonError) else str(error)
            self._refuse(HTTPStatus.BAD_REQUEST, text)
            return
        self._answer(json.dumps(answer, allow_nan=False), "application/json")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the address with its token belongs in no log."""

    def _path(self) -> str | None:
        """Return the path below the token; None for whoever does not know it or takes this for another host."""
        if self.headers.get("Host") not in self.server.hosts:
            return None
        head, _, path = self.path.removeprefix("/").partition("/")
        return path if secrets.compare_digest(head.encode(), self.server.token.encode()) else None

    def _answer(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._answer(json.dumps({"error": text}), "application/json", status)
