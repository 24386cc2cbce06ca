"""JSON that others wrote: what is refused."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.json_input import DEPTH_LIMIT, SIZE_LIMIT, JsonError, parse_object, read_object

REFUSED = {
    "not JSON": b'{"a": ',
    "a list": b"[1]",
    "not UTF-8": b'{"a": "M\xfcller"}',
    "half a surrogate pair": b'{"a": ["\\ud800"]}',
    "half a surrogate pair in a key": b'{"\\ud800": 1}',
    "a whole number of 400 digits": b'{"a": 1' + b"0" * 400 + b"}",
    "a whole number of 5,000 digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "2^63": b'{"a": 9223372036854775808}',
    "1e400": b'{"a": 1e400}',
    "NaN": b'{"a": NaN}',
    "a key twice": b'{"a": 1, "b": {"c": 1, "c": 1}}',
    "nested 900 deep": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "nested 200,000 deep": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "too large": b'{"a": "' + b"x" * SIZE_LIMIT + b'"}',
    "empty": b"",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_refused(content: bytes) -> None:
    with pytest.raises(JsonError):
        parse_object(content)


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
