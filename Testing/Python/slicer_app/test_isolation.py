"""Tests in a process of their own: what they report, and what is reported if the process does not end well."""

import os
import subprocess
import sys

from support import TESTS

FILE = """
import os, sys
import pytest
pytestmark = pytest.mark.own_process
shared = []

def test_first():
    shared.append(os.getpid())
    print("said before")

def test_shares_the_process():
    assert shared == [os.getpid()]

def test_fails():
    assert 1 + 1 == 3

@pytest.mark.skip(reason="some other day")
def test_skipped(): ...

def test_crashes():
    os.abort()

def test_never_begun(): ...
"""


def test_reports_are_those_of_the_tests(tmp_path):
    """Nor is a test of another folder in the way, for which pytest lets go of what it has kept of this one."""
    plain = "def test_passes(): ..."
    for name, content in (("a/test_before", plain), ("a/test_own", FILE), ("b/test_after", plain)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(content)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["slicer_host.isolation"]')
    # Where CI is set, or the terminal wide, pytest's summary repeats whole messages.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    environment |= {"PYTHONPATH": str(TESTS), "COLUMNS": "80"}
    command = [sys.executable, "-m", "pytest", "-rA", "-v"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    text = done.stdout
    assert done.returncode == 1
    assert "3 failed, 4 passed, 1 skipped" in text
    assert "assert (1 + 1) == 3" in text
    assert "said before" in text
    assert "some other day" in text
    assert "FAILED a/test_own.py::test_crashes" in text
    assert text.count("ended with -6 before the test did") == 2  # the one that crashed, and the one after it
    assert "Fatal Python error: Aborted" in text
