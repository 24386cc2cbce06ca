"""The review page as it is served: each click acts at once, and nobody else is answered."""

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.review_files import open_case
from MoBUncertaintyLib.pipeline import review_server
from MoBUncertaintyLib.review.suggestion import suggest
from support import command_line
from support.browser import Reader, reader
from support.fake_case import write_case
from support.fake_review import fake_review
from support.marks import needs_browser


class Served:
    """A case whose page is served by a thread of this process."""

    def __init__(self, case: Case, results: Path) -> None:
        self.case = case
        self.file = review_server.DecisionsFile(results)
        self._ready = threading.Event()
        given = (review_server.PageReview(case, self.file), 0, self._started)
        threading.Thread(target=review_server.serve, args=given, daemon=True).start()
        assert self._ready.wait(20)
        self.place = urlsplit(self.address)

    def _started(self, address: str) -> None:
        self.address = address
        self._ready.set()

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=20)
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, headers)
        answer = connection.getresponse()
        said = answer.status, answer.read().decode()
        connection.close()
        return said

    def step(self, **action: object) -> tuple[int, dict]:
        status, text = self.ask(f"{self.place.path}step", action)
        return status, json.loads(text)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(fake_review(), tmp_path / "results")


@pytest.fixture
def person(browser: Any, served: Served) -> Iterator[Reader]:
    with reader(browser) as each:
        each.open(served.address)
        yield each


NO_LABELS = (99, 1.5, True, "1", None)
CLICK = {"action": "click", "extent": "stroke", "label": 1, "region": "1"}


class TestServer:
    def test_listens_on_loopback_with_a_long_token(self, served):
        assert served.place.hostname == "127.0.0.1"
        assert len(served.place.path.strip("/")) >= 32

    @pytest.mark.parametrize("path", ["/", "/step", "/decisions", "/0123456789/", "/../decisions", "//"])
    def test_who_does_not_know_the_token_learns_nothing(self, served, path):
        assert served.ask(path) == (404, '{"error": "There is no such page."}')
        assert served.ask(path, {"action": "undo"})[0] == 404

    def test_pages_of_other_hosts_are_refused(self, served):
        """A name of somebody else's that points to this computer must not reach it."""
        assert served.ask(served.place.path, Host="evil.example")[0] == 404
        assert served.ask(served.place.path)[0] == 200

    def test_click_changes_maps_and_counter(self, served):
        review = served.case.review
        before = review.labels_in(review.regions[0].box)
        point = review.regions[0].region.centroid_ras
        label = 0 if before[review.regions[0].mask].mean() > 0.5 else 1
        status, said = served.step(action="click", extent="stroke", points_ras=[point], label=label, region="1")
        assert status == 200
        assert said["maps"]
        assert said["counter"] == [volume_text(mm3 / 1000) for mm3 in review.expected_error_mm3]
        assert said["clicks"][0]["points_ras"] == [list(point)]
        assert "ml" in said["message"]
        status, said = served.step(action="undo")
        assert said["clicks"] == []
        assert np.array_equal(review.labels_in(review.regions[0].box), before)

    @pytest.mark.parametrize(
        "action",
        [
            {"action": "fly"},
            {},
            CLICK | {"points_ras": [[1]]},
            CLICK | {"points_ras": [["a", 0, 0]]},
            {"action": "decide", "region": "99", "verdict": "accept", "label": None},
            CLICK | {"points_ras": [[9e9, 0, 0]]},
            *({"action": "decide", "region": "1", "verdict": "include", "label": label} for label in (99, 1.5, True)),
            *({"action": "lock", "label": label} for label in (0, *NO_LABELS)),
            *(CLICK | {"points_ras": "here", "extent": extent} for extent in ("lasso", "outline", "lock", None)),
            *(CLICK | {"points_ras": "here", "label": label} for label in NO_LABELS),
        ],
    )
    def test_bad_steps_are_refused_in_a_sentence(self, served, action):
        if action.get("points_ras") == "here":
            action = action | {"points_ras": [served.case.review.regions[0].region.centroid_ras]}
        status, said = served.step(**action)
        assert status == 400
        assert said["error"].endswith(".")
        assert served.case.review.clicks == ()
        assert not served.case.review.can_undo
        assert served.file.path is None

    def test_what_is_no_json_is_refused(self, served):
        assert served.ask(f"{served.place.path}step", "{")[0] == 400
        assert served.ask(f"{served.place.path}step", "[]")[0] == 400
        status, said = served.ask(f"{served.place.path}step", '{"action":' + "[" * 100_000 + "]" * 100_000 + "}")
        assert (status, "nested more than" in said) == (400, True)
        assert served.ask(f"{served.place.path}step", "{}", **{"Content-Length": str(2**20 + 1)})[0] == 404

    def test_half_a_step_keeps_nobody_waiting_and_is_not_taken(self, served, monkeypatch):
        monkeypatch.setattr(review_server._Handler, "timeout", 1.0)
        step = b'{"action": "decide", "region": "1", "verdict": "accept", "label": null}'
        head = f"POST {served.place.path}step HTTP/1.0\r\nHost: {served.place.netloc}\r\nContent-Length: "
        with socket.create_connection((served.place.hostname, served.place.port), timeout=20) as slow:
            slow.sendall(head.encode() + b"1000\r\n\r\n" + step)
            assert served.step(action="decide", region="2", verdict="accept", label=None)[0] == 200
            assert slow.recv(100) == b""  # hung up on
        assert served.case.review.reviewed == (1, 2)

    def test_browser_that_does_not_wait_is_not_complained_of(self, served, capfd):
        for _ in range(5):
            with socket.create_connection((served.place.hostname, served.place.port), timeout=20) as hasty:
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
                hasty.sendall(f"GET {served.place.path} HTTP/1.0\r\nHost: {served.place.netloc}\r\n\r\n".encode())
        assert served.ask(served.place.path)[0] == 200  # one is answered after the other
        assert capfd.readouterr().err == ""

    def test_taken_port_is_refused(self, served):
        with pytest.raises(ReviewError):
            review_server.serve(review_server.PageReview(fake_review(), served.file), served.place.port)


class TestDecisionsFile:
    ACCEPT: ClassVar = {"action": "decide", "region": "1", "verdict": "accept", "label": None}

    def test_each_step_is_on_the_disk_before_it_is_answered(self, served, tmp_path, monkeypatch):
        synced = []
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor)))
        for verdict in ("accept", "exclude"):
            synced.clear()
            served.step(action="decide", region="1", verdict=verdict, label=None)
            (kept,) = tmp_path.iterdir()
            assert json.loads(kept.read_bytes()) == json.loads(json.dumps(served.case.review.to_dict()))
            assert len(synced) >= 2  # the file, and its name in the folder

    def test_nothing_is_left_where_the_last_step_is_undone(self, served, tmp_path):
        served.step(**self.ACCEPT)
        assert [*tmp_path.iterdir()] == [served.file.path]
        served.step(action="undo")
        assert [*tmp_path.iterdir()] == []
        served.step(**self.ACCEPT)
        assert [*tmp_path.iterdir()] == [served.file.path]

    def test_pages_that_begin_in_one_second_have_a_file_each(self, tmp_path, monkeypatch):
        noon = datetime(2026, 5, 31, 12)
        monkeypatch.setattr(review_server, "datetime", SimpleNamespace(now=lambda: noon))
        files = [review_server.DecisionsFile(tmp_path / "results") for _ in range(3)]
        for number, file in enumerate(files):
            file.write(f"{number}")
            file.write(f"{number} again")
        files[1].remove()
        files[1].write("1 once more")
        assert [file.path.read_text(encoding="utf-8") for file in files] == ["0 again", "1 once more", "2 again"]
        assert len([*tmp_path.iterdir()]) == 3

    def test_step_that_cannot_be_written_is_not_taken(self, served, monkeypatch):
        served.step(**self.ACCEPT)
        before = served.file.path.read_bytes()
        with monkeypatch.context() as full:

            def write(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            full.setattr(review_server, "write_file", write)
            full.setattr(review_server, "withdraw", write)
            for action in (self.ACCEPT | {"region": "2"}, {"action": "undo"}):
                status, said = served.step(**action)
                assert (status, "(No space left on device), so this step was not applied" in said["error"]) == (
                    400,
                    True,
                )
                assert served.case.review.reviewed == (1, 2)
        assert served.file.path.read_bytes() == before
        assert served.step(**self.ACCEPT | {"region": "2"})[1]["regions"][1]["verdict"] == "accept"
        assert served.file.path.read_bytes() != before

    def test_decisions_are_written_at_home_where_the_results_folder_is_read_only(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        page = review_server.PageReview(fake_review(), review_server.DecisionsFile(tmp_path / "gone" / "results"))
        page.step(self.ACCEPT)
        (kept,) = tmp_path.glob("results-decisions-*.json")
        assert json.loads(kept.read_text(encoding="utf-8"))["schema"] == "mob-uncertainty review"

    def test_no_step_is_taken_where_no_file_can_be_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "gone")
        case = fake_review()
        page = review_server.PageReview(case, review_server.DecisionsFile(tmp_path / "gone" / "results"))
        with pytest.raises(ReviewError):
            page.step(self.ACCEPT)
        assert case.review.reviewed == (0, 2)


class TestCommand:
    ENDS = ("SIGINT", "SIGKILL", "SIGHUP SIGHUP")

    @pytest.mark.parametrize("end", ["untouched", *ENDS])
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
    def test_loses_nothing_however_it_ends(self, tmp_path, end):
        write_case(tmp_path)
        command = [sys.executable, "-m", "MoBUncertaintyLib.cli.app", "review", "results", "--serve"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=tmp_path, **pipes) as run, contextlib.ExitStack() as after:
            after.callback(run.kill)  # else a page that does not end would be waited for
            place = urlsplit(run.stdout.readline().split()[1])
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
            if end != "untouched":
                region = open_case(tmp_path / "results").review.regions[0].region
                click = CLICK | {"points_ras": [region.centroid_ras], "label": 0}
                for body in (json.dumps(click), None):  # and a download that nobody receives
                    connection.request("POST" if body else "GET", place.path + ("step" if body else "decisions"), body)
                    assert connection.getresponse().status == 200
                    connection.close()
            for name in (end if end != "untouched" else "SIGINT").split():
                run.send_signal(getattr(signal, name))
            said, problem = run.communicate(timeout=60)
        kept = [*tmp_path.glob("results-decisions-*.json")]
        assert len(kept) == (end != "untouched")
        if end in ("untouched", "SIGINT"):
            assert (run.returncode, problem) == (0, "")
            assert said == (
                f"Stopped; the decisions are in {kept[0]}.\n" if kept else "Stopped; nothing was decided.\n"
            )
        if kept:
            assert len(open_case(tmp_path / "results", kept[0]).review.clicks) == 1

    def test_asks_for_decisions_or_a_page(self, place):
        done = command_line.run("review", place / "results")
        assert done.exit_code == 2
        assert "give --decisions FILE, or --serve" in done.stderr


@needs_browser
class TestReader:
    def test_click_moves_the_outline_and_undo_takes_it_back(self, person, served):
        before = person.pixels(0)
        person.press("o")
        person.click(0, 0.62, 0.5)
        person.wait_for("state.clicks.length === 1")
        assert "1 click, expected error" in person.text("#count")
        assert "changed" in person.text("#message") or "contradicts" in person.text("#message")
        person.press("u", "v")
        person.wait_for("state.clicks.length === 0")
        person.page.evaluate("show(state.regions[0].id)")
        assert person.pixels(0) == before
        assert served.case.review.clicks == ()

    def test_locked_organ_stays_while_a_lasso_is_drawn_and_a_box_is_taken_back(self, browser, served):
        with reader(browser, tolerated="Failed to load resource") as person:  # what is refused
            person.open(served.address)
            person.page.evaluate("step({action: 'lock', label: 1})")
            person.wait_for("lockOf(1)")
            assert list(served.case.review.locks) == [1]
            person.press("o", "j")
            person.draw(0, (0.3, 0.3), (0.7, 0.7))
            person.wait_for("document.querySelector('#message').classList.contains('problem')")
            assert "unlock" in person.text("#message")
            person.press("u", "l", "k")
            person.draw(0, (0.3, 0.3), (0.7, 0.3), (0.5, 0.7))
            person.wait_for("drawn().length === 1")
            (lasso,) = served.case.review.clicks
            assert (lasso.extent, lasso.label) == ("outline", 0)
            assert (served.case.review.corrected()[tuple(served.case.review.refiner.voxels_of(lasso).T)] == 0).all()
            person.press("u")
            person.wait_for("state.clicks.length === 0")

    def test_next_goes_to_the_suggested_place(self, person, served):
        person.press("n")
        person.wait_for("state.suggestion !== null")
        assert "expected to remove" in person.text("#message")
        suggested = suggest(served.case.review)
        assert person.page.evaluate("current") == suggested.region_id

    def test_saved_decisions_are_the_record(self, person, served):
        person.press("l")
        person.click(0, 0.5, 0.5)
        person.press("v", "ArrowDown", "a")
        person.wait_for("state.regions.some((each) => each.verdict === 'accept')")
        assert person.save() == json.loads(json.dumps(served.case.review.to_dict()))

    def test_page_that_is_loaded_again_goes_on(self, person, served):
        person.press("o")
        person.click(0, 0.62, 0.5)
        person.wait_for("state.clicks.length === 1")
        predicted, labels = (f"cropOf('1').then((crop) => Array.from(crop.{name}))" for name in ("predicted", "labels"))
        before = person.page.evaluate(predicted)
        assert person.page.evaluate(labels) != before
        person.open(served.address)
        assert person.page.evaluate(predicted) == before
        assert person.page.evaluate(labels) != before
        assert person.page.is_enabled("#undo")

    def test_signed_review_is_shown_as_signed(self, browser, served):
        for region_id in ("1", "2"):
            served.case.review.decide(region_id, "accept")
        served.case.review.sign("A. Reader")
        with reader(browser) as person:
            person.open(served.address)
            assert person.page.is_disabled("[data-verdict=accept]")
            person.save()
            assert ", signed." in person.text("#message")

    @pytest.mark.parametrize("gone", ["stopped", "another"])
    def test_decisions_are_not_saved_once_the_server_is_gone(self, browser, served, gone):
        with reader(browser, tolerated="Failed to load resource") as person:
            person.open(served.address)
            person.press("a")
            person.wait_for("state.regions[0].verdict === 'accept'")
            path = "**/decisions"
            person.page.route(path, lambda route: route.abort() if gone == "stopped" else route.fulfill(status=404))
            person.page.click("#save")
            person.wait_for("document.getElementById('message').classList.contains('problem')")
            assert "The server has stopped" in person.text("#message")

    def test_a_refused_step_shows_its_reason(self, browser, served):
        with reader(browser, tolerated="status of 400") as person:
            person.open(served.address)
            for region_id in ("1", "2"):
                served.case.review.decide(region_id, "accept")
            served.case.review.sign("A. Reader")
            person.press("x")
            person.wait_for("document.getElementById('message').classList.contains('problem')")
            assert "signed off by A. Reader" in person.text("#message")
