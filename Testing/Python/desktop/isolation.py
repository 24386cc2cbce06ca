"""pytest plugin: a test marked `own_process` runs in a Python of its own, and its reports read as if it had not.

Qt, VTK and Slicer's core hold one application for each process, and do not go well with torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPORTS = "OWN_PROCESS_REPORTS"  # set in the child: the file that its reports go to, one JSON line each
LIMIT_SECONDS = 300


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_process: runs in a process of its own")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if os.environ.get(REPORTS) or not item.get_closest_marker("own_process"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in run(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if path := os.environ.get(REPORTS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(report._to_json()) + "\n")


def run(item: pytest.Item) -> list[pytest.TestReport]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reports.jsonl"
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "pytest",
            item.nodeid,
            "-m",
            "own_process",
            "-p",
            "no:cacheprovider",
        ]
        environment = os.environ | {REPORTS: str(path), "QT_QPA_PLATFORM": "offscreen"}
        try:
            done = subprocess.run(
                command,
                cwd=item.config.rootpath,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=LIMIT_SECONDS,
            )
            ending, output = f"ended with {done.returncode}", done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            ending, output = f"was ended after {LIMIT_SECONDS} s", str(error.stderr)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    reports = [pytest.TestReport._from_json(json.loads(line)) for line in lines]
    for report in reports:
        if isinstance(report.longrepr, list):  # why a test was skipped: JSON has no tuples
            report.longrepr = tuple(report.longrepr)
    if not any(report.when == "teardown" for report in reports):  # it crashed, or never began
        text = f"The process of this test {ending} before the test did.\n{output[-5000:]}"
        reports.append(pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call"))
    return reports
