"""The frames between two computers: what is sent arrives, and nothing else is taken for a frame."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.worker.remote import stream as module
from MoBUncertaintyLib.worker.remote.models import ModelFiles, keep
from MoBUncertaintyLib.worker.remote.stream import FrameError, Stream, UnreadableError, as_text, name_files


class Dribble(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, 7))


def sent(*messages: dict) -> bytes:
    target = io.BytesIO()
    for message in messages:
        Stream(io.BytesIO(), target).send(message)
    return target.getvalue()


def received(content: bytes, folder: Path) -> dict:
    return Stream(Dribble(content), io.BytesIO()).receive(lambda _message: folder)


def frame(head: object, rest: bytes = b"") -> bytes:
    content = json.dumps(head).encode()
    return len(content).to_bytes(4) + content + rest


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_files_arrive_under_names_that_the_receiver_gives(folders: tuple[Path, Path]) -> None:
    here, there = folders
    contents = {"ct": b"0123456789" * 99_999, "empty": b""}
    for name, content in contents.items():
        (here / f"{name}.npy").write_bytes(content)
    message = {"id": 3, "ct": {"array": str(here / "ct.npy"), "n": [1.5, None]}, "b": str(here / "empty.npy")}
    message |= {"elsewhere": "/etc/x.npy", "text": "Bäuche ≥ 3"}
    got = received(sent(name_files(message, here)), there)
    assert got["ct"].pop("array").read_bytes() == contents["ct"]
    assert got.pop("b").read_bytes() == b""
    assert got == {"id": 3, "ct": {"n": [1.5, None]}, "elsewhere": "/etc/x.npy", "text": "Bäuche ≥ 3"}
    assert {path.name for path in there.iterdir()} == {"received-0.npy", "received-1.npy"}
    assert as_text({"a": {"b": there}}) == {"a": {"b": str(there)}}


def test_how_far_it_is_is_told_to_both_sides(folders: tuple[Path, Path]) -> None:
    here, there = folders
    (here / "ct.npy").write_bytes(bytes(1_000_000))
    target, there_told, here_told = io.BytesIO(), [], []
    Stream(io.BytesIO(), target).send({"a": here / "ct.npy"}, lambda *counts: here_told.append(counts))
    stream = Stream(io.BytesIO(target.getvalue()), io.BytesIO())
    stream.receive(lambda _message: there, lambda _message, *counts: there_told.append(counts))
    for told in (here_told, there_told):
        assert len(told) > 2
        assert told[-1] == (1_000_000, 1_000_000)


def test_a_file_that_cannot_be_read_is_said_and_whether_half_of_it_is_sent(folders: tuple[Path, Path]) -> None:
    here, target = folders[0], io.BytesIO()
    with pytest.raises(UnreadableError) as gone:
        Stream(io.BytesIO(), target).send({"a": here / "gone.npy"})
    assert (gone.value.half_sent, target.getvalue()) == (False, b"")
    (here / "ct.npy").write_bytes(bytes(3 * module.CHUNK))

    def cut_short(done: int, _total: int) -> None:
        if done == module.CHUNK:
            os.truncate(here / "ct.npy", module.CHUNK + 1)

    with pytest.raises(UnreadableError) as shorter:
        Stream(io.BytesIO(), target).send({"a": here / "ct.npy"}, cut_short)
    assert shorter.value.half_sent


BAD = {
    "too long": (1 << 31).to_bytes(4) + b"x" * 100,
    "no JSON": (5).to_bytes(4) + b"hello",
    "no object": frame([1]),
    "no message": frame({"sizes": []}),
    "no sizes": frame({"message": {}}),
    "negative size": frame({"message": {"a": {"$file": 0}}, "sizes": [-1]}),
    "size no number": frame({"message": {"a": {"$file": 0}}, "sizes": ["1"]}, b"x"),
    "size true": frame({"message": {"a": {"$file": 0}}, "sizes": [True]}, b"x"),
    "too many files": frame({"message": {}, "sizes": [0] * 5000}),
    "file without a number": frame({"message": {}, "sizes": [1]}, b"x"),
    "number without a file": frame({"message": {"a": {"$file": 1}}, "sizes": [1]}, b"x"),
    "number twice": frame({"message": {"a": {"$file": 0}, "b": {"$file": 0}}, "sizes": [1]}, b"x"),
    "a name for a number": frame({"message": {"a": {"$file": "../../x.npy"}}, "sizes": [1]}, b"x"),
    "deep": (200_000).to_bytes(4) + b"[" * 200_000,
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_frame_is_refused_before_anything_is_written(what: str, folders: tuple[Path, Path]) -> None:
    with pytest.raises(FrameError):
        received(BAD[what], folders[1])
    assert list(folders[1].iterdir()) == []


def test_more_than_the_disk_holds_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(OutputError):
        received(frame({"message": {"a": {"$file": 0}}, "sizes": [1 << 60]}), folders[1])
    assert list(folders[1].iterdir()) == []


@given(st.data())
def test_any_other_byte_or_end_is_a_fault_and_writes_only_where_it_may(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("x")
    (folder / "a.npy").write_bytes(b"0123456789")
    there = folder / "there"
    there.mkdir()
    good = sent({"a": folder / "a.npy", "b": "../x.npy"})
    spoiled = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=3)):
        spoiled[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(good)))
    with suppress(EOFError, FrameError, OutputError):
        received(bytes(spoiled[:end]), there)
    assert {path.name for path in folder.iterdir()} == {"a.npy", "there"}
    assert {path.name for path in there.iterdir()} <= {"received-0.npy"}


def test_the_beginning_is_found_behind_what_a_shell_says() -> None:
    target = io.BytesIO(b"Last login: never\n")
    target.seek(0, io.SEEK_END)
    stream = Stream(io.BytesIO(), target)
    stream.greet()
    stream.send({"event": "hello"})
    reader = Stream(Dribble(target.getvalue()), io.BytesIO())
    reader.await_greeting()
    assert reader.receive(Path) == {"event": "hello"}
    with pytest.raises(EOFError):
        Stream(io.BytesIO(b"no"), io.BytesIO()).await_greeting()
    with pytest.raises(FrameError):
        Stream(io.BytesIO(b"y\n" * (1 << 20)), io.BytesIO()).await_greeting()


@pytest.mark.parametrize("name", ["../x", "fold_0/../../x", "/etc/x", "fold_0/weights.py", "", "model.json/x"])
def test_a_model_has_no_other_files_than_a_models(name: str, tmp_path: Path) -> None:
    from MoBUncertaintyLib.errors import ModelError

    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ModelError):
        keep(ModelFiles("model", {name: "0" * 64}, {name: tmp_path / "x"}))


@pytest.mark.parametrize("name", ["..", "../x", ".hidden", "a/b", "", "x" * 300])
def test_a_model_is_kept_in_its_own_folder_whatever_its_name(name: str, tmp_path: Path, monkeypatch) -> None:
    import hashlib

    from MoBUncertaintyLib.worker.remote import models

    monkeypatch.setattr(models, "kept_models", lambda: tmp_path / "kept")
    (tmp_path / "sent").write_bytes(b"a model")
    sent_model = ModelFiles(
        name, {"model.json": hashlib.sha256(b"a model").hexdigest()}, {"model.json": tmp_path / "sent"}
    )
    keep(sent_model)
    assert models.find(sent_model.digest) == tmp_path / "kept" / sent_model.digest / "model"
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}
    assert models.find("..") is None


def test_the_models_used_last_are_kept(tmp_path: Path, monkeypatch) -> None:
    import hashlib
    import os

    from MoBUncertaintyLib.worker.remote import models

    monkeypatch.setattr(models, "kept_models", lambda: tmp_path / "kept")
    monkeypatch.setattr(models, "KEPT", 2)
    digests = []
    for number in range(4):
        (tmp_path / "sent").write_bytes(bytes([number]))
        stated = {"model.json": hashlib.sha256(bytes([number])).hexdigest()}
        sent_model = ModelFiles("model", stated, {"model.json": tmp_path / "sent"})
        keep(sent_model)
        digests.append(sent_model.digest)
        os.utime(tmp_path / "kept" / sent_model.digest, (number, number))
        if number == 2:
            assert models.find(digests[0]) is None and models.find(digests[1]), "the third has taken its place"
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {digests[1], digests[3]}, "the second was used"


def test_the_relay_starts_with_the_standard_library_alone() -> None:
    code = "import sys; import MoBUncertaintyLib.worker.remote.relay; print(*sys.modules)"
    import subprocess

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "torch", "SimpleITK"}.isdisjoint(loaded)
    assert ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
