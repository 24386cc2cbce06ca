"""JSON that others wrote: what is refused, and why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.json_input import DEPTH_LIMIT, SIZE_LIMIT, JsonError, parse_object, read_object

REFUSED = {
    "not JSON": (b'{"a": ', "it is not valid JSON (line 1"),
    "a list": (b"[1]", "it is not a JSON object"),
    "not UTF-8": (b'{"a": "M\xfcller"}', "it is not UTF-8 text"),
    "half a surrogate pair": (b'{"a": ["\\ud800"]}', "half a surrogate pair"),
    "half a surrogate pair in a key": (b'{"\\ud800": 1}', "half a surrogate pair"),
    "a whole number of 400 digits": (b'{"a": 1' + b"0" * 400 + b"}", "is too large"),
    "a whole number of 5,000 digits": (b'{"a": 1' + b"0" * 5000 + b"}", "is too large"),
    "2^63": (b'{"a": 9223372036854775808}', "is too large"),
    "1e400": (b'{"a": 1e400}', "its number 1e400 is too large"),
    "NaN": (b'{"a": NaN}', "NaN is not a number in JSON"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 1}}', "it holds the key 'c' twice"),
    "nested 900 deep": (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "nested more than 64 deep"),
    "nested 200,000 deep": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested more than 64 deep"),
    "too large": (b'{"a": "' + b"x" * SIZE_LIMIT + b'"}', "it is larger than 16 MB"),
    "empty": (b"", "it is not valid JSON"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(content: bytes, reason: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_object(content)
    assert reason in str(caught.value)


def test_allowed_depth_and_numbers_pass() -> None:
    depth = DEPTH_LIMIT - 3
    content = b'\xef\xbb\xbf{"a": ' + b"[" * depth + b"-9223372036854775808" + b"]" * depth + b', "b": 1e308}'
    assert parse_object(content)["b"] == 1e308


def test_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ä": [1, 2.5, null, true]}', encoding="utf-8")
    assert read_object(tmp_path / "a.json") == {"ä": [1, 2.5, None, True]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for name in ("a.json", "."):
        with pytest.raises(JsonError):
            read_object(tmp_path / name)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=20)))
def test_what_json_writes_is_read_back(data: dict) -> None:
    assert parse_object(json.dumps(data).encode()) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(content: bytes) -> None:
    try:
        assert isinstance(parse_object(content), dict)
    except JsonError as error:
        assert str(error)
