"""Messages with files between two computers: what is sent arrives, and nothing else is taken for a message."""

import hashlib
import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.errors import ModelError, OutputError
from MoBUncertaintyLib.worker import protocol
from MoBUncertaintyLib.worker.protocol import ProtocolError, UnreadableError, receive, send
from MoBUncertaintyLib.worker.remote import models
from MoBUncertaintyLib.worker.remote.models import ModelFiles, keep


def sent(message: dict, files: dict[str, Path]) -> bytes:
    target = io.BytesIO()
    send(target, message, files)
    return target.getvalue()


def received(content: bytes, folder: Path) -> dict:
    return receive(io.BytesIO(content), lambda _message: folder)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_files_arrive_where_the_receiver_wants_them(folders: tuple[Path, Path]) -> None:
    here, there = folders
    contents = {"ct.npy": b"0123456789" * 99_999, "empty.npy": b""}
    for name, content in contents.items():
        (here / name).write_bytes(content)
    message = {"id": 3, "ct": {"array": str(here / "ct.npy"), "n": [1.5, None]}, "b": str(here / "empty.npy")}
    message |= {"elsewhere": "/etc/x.npy", "text": "Bäuche ≥ 3", "file": "$file/other.npy"}
    content = sent(message, {name: here / name for name in contents})
    assert str(here).encode() not in content
    arrived = received(content, there)
    assert {name: Path(path).read_bytes() for name, path in arrived.pop("files").items()} == contents
    assert arrived == message | {
        "ct": {"array": str(there / "ct.npy"), "n": [1.5, None]},
        "b": str(there / "empty.npy"),
    }
    assert {path.name for path in there.iterdir()} == set(contents)


def test_both_sides_report_how_far_it_is(folders: tuple[Path, Path]) -> None:
    here, there = folders
    (here / "ct.npy").write_bytes(bytes(1_000_000))
    target, steps = io.BytesIO(), ([], [])
    send(target, {}, {"a": here / "ct.npy"}, lambda *counts: steps[0].append(counts))
    receive(io.BytesIO(target.getvalue()), lambda _message: there, lambda *counts: steps[1].append(counts))
    for own in steps:
        assert len(own) > 2
        assert own[-1] == (1_000_000, 1_000_000)


def test_a_file_that_cannot_be_read_is_an_error(folders: tuple[Path, Path]) -> None:
    here, target = folders[0], io.BytesIO()
    with pytest.raises(UnreadableError):
        send(target, {}, {"a": here / "gone.npy"})
    assert target.getvalue() == b""
    (here / "ct.npy").write_bytes(bytes(3 * protocol.CHUNK))

    def cut_short(done: int, _total: int) -> None:
        if done == protocol.CHUNK:
            os.truncate(here / "ct.npy", protocol.CHUNK + 1)

    with pytest.raises(UnreadableError):
        send(io.BytesIO(), {}, {"a": here / "ct.npy"}, cut_short)


def message(files: object, rest: bytes = b"") -> bytes:
    return json.dumps({"id": 1, "files": files}).encode() + b"\n" + rest


BAD = {
    "no JSON": b"hello\n",
    "no object": b"[1]\n",
    "no sizes": message(None),
    "a list": message([1], b"x"),
    "negative size": message({"a": -1}),
    "size no number": message({"a": "1"}, b"x"),
    "size true": message({"a": True}, b"x"),
    "too many files": message({f"{number}.npy": 0 for number in range(5000)}),
    "another folder": message({"../x.npy": 1}, b"x"),
    "a path": message({"/tmp/x.npy": 1}, b"x"),
    "hidden": message({".x": 1}, b"x"),
    "no name": message({"": 1}, b"x"),
    "deep": b"[" * 200_000 + b"\n",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_message_is_refused_before_anything_is_written(what: str, folders: tuple[Path, Path]) -> None:
    with pytest.raises(ProtocolError):
        received(BAD[what], folders[1])
    assert list(folders[1].iterdir()) == []


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol, "SIZE_LIMIT", 1000)
    with pytest.raises(ProtocolError):
        received(b"x" * 2000, tmp_path)
    with pytest.raises(EOFError):
        received(b"x" * 900, tmp_path)


def test_more_than_the_disk_holds_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(OutputError):
        received(message({"a": 1 << 60}), folders[1])
    assert list(folders[1].iterdir()) == []


@given(st.data())
def test_any_other_byte_or_end_is_a_fault_and_writes_only_where_it_may(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("x")
    (folder / "a.npy").write_bytes(b"0123456789")
    there = folder / "there"
    there.mkdir()
    good = sent({"a": str(folder / "a.npy"), "b": "../x.npy"}, {"a.npy": folder / "a.npy"})
    spoiled = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=3)):
        spoiled[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(good)))
    with suppress(EOFError, ProtocolError, OutputError):
        received(bytes(spoiled[:end]), there)
    assert {path.name for path in folder.iterdir()} == {"a.npy", "there"}
    assert len([*there.iterdir()]) <= 1


@pytest.mark.parametrize("name", ["../x", "fold_0/../../x", "/etc/x", "fold_0/weights.py", "", "model.json/x"])
def test_a_model_has_no_other_files_than_a_models(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ModelError):
        keep(ModelFiles("model", {name: "0" * 64}, {name: tmp_path / "x"}))


@pytest.mark.parametrize("name", ["..", "../x", ".hidden", "a/b", "", "x" * 300])
def test_a_model_is_kept_in_its_own_folder_whatever_its_name(name: str, tmp_path: Path, monkeypatch) -> None:
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


def test_a_worker_that_only_passes_on_needs_the_standard_library_alone() -> None:
    names = "MoBUncertaintyLib.worker.__main__, MoBUncertaintyLib.worker.remote.connection"
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "pydantic", "torch", "SimpleITK"}.isdisjoint(loaded)
