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
    (tmp_path / "test_apart.py").write_text(FILE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["slicer_host.isolation"]')
    command = [sys.executable, "-m", "pytest", "-rA", "-v", "test_apart.py"]
    # Where CI is set, or the terminal wide, pytest's summary repeats whole messages.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    environment |= {"PYTHONPATH": str(TESTS), "COLUMNS": "80"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    text = done.stdout
    assert done.returncode == 1
    assert "3 failed, 2 passed, 1 skipped" in text
    assert "assert (1 + 1) == 3" in text
    assert "said before" in text
    assert "some other day" in text
    assert "FAILED test_apart.py::test_crashes" in text
    assert text.count("ended with -6 before the test did") == 2  # the one that crashed, and the one after it
    assert "Fatal Python error: Aborted" in text


def test_a_test_of_another_folder_may_follow(tmp_path):
    """What pytest keeps of one folder for the next test goes, though that one is set up elsewhere."""
    for name, mark in (
        ("a/test_before", ""),
        ("a/test_own", "pytestmark = pytest.mark.own_process"),
        ("b/test_after", ""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(f"import pytest\n{mark}\ndef test_passes(): ...\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["slicer_host.isolation"]')
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "3 passed" in done.stdout
