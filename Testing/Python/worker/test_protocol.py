"""The lines that the application and its worker exchange."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.json_input import parse_object
from MoBUncertaintyLib.worker.protocol import Command, Event, ProtocolError, check_event, encode, read_event

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(st.text(), values, max_size=4)

PROGRESS = {"event": "progress", "stage": "network", "done": 1, "total": 2}
PROGRESS |= {"fraction": 0.5, "seconds_left": None}


@given(messages)
def test_a_message_survives(sent: dict) -> None:
    assert parse_object(encode(sent)) == sent


def test_a_message_is_one_line_of_utf8() -> None:
    line = encode({"command": Command.PREDICT, "name": "Bauch\nspät ≥ 3"})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert "spät ≥ 3" in line.decode()
    assert parse_object(line) == {"command": "predict", "name": "Bauch\nspät ≥ 3"}


def test_a_carriage_return_does_no_harm() -> None:
    assert read_event(b'{"event": "heartbeat"}\r\n') == {"event": "heartbeat"}


@pytest.mark.parametrize(
    "line",
    [
        b"Traceback (most recent call last):",
        b"\xff\xfe",
        b"[1, 2]",
        b"3",
        b'{"a": NaN}',
        b'{"a": 1',
        b"[" * 100_000,
        b'{"id": "\\ud800"}',
    ],
    ids=["text", "not UTF-8", "list", "number", "NaN", "half", "deep", "surrogate"],
)
def test_nonsense_is_called_so(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_event(line + b"\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"bytes", pytest.param(object(), id="object")], ids=repr)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        encode({"value": value})


def test_a_proper_event_passes() -> None:
    check_event(PROGRESS)
    check_event(PROGRESS | {"seconds_left": 3, "fraction": 1, "id": 4, "more": []})
    check_event({"event": Event.READY, "pid": 3, "version": "1"})


@pytest.mark.parametrize(
    "change", [{"fraction": None}, {"fraction": "half"}, {"total": "3"}, {"event": "party"}], ids=repr
)
def test_an_event_with_a_wrong_field_does_not(change: dict) -> None:
    with pytest.raises(ProtocolError):
        check_event(PROGRESS | change)


@pytest.mark.parametrize("missing", sorted(PROGRESS))
def test_an_event_that_lacks_a_field_does_not(missing: str) -> None:
    with pytest.raises(ProtocolError):
        check_event({name: value for name, value in PROGRESS.items() if name != missing})
