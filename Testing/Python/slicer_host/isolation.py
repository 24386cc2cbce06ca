"""pytest plugin: the tests of a file marked `own_process` run in a Python of their own, and report as if they had not.

Qt, VTK and Slicer's core allow one application in a process, and do not go well with torch.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from slicer_host import server

REPORTS = "OWN_PROCESS_REPORTS"  # set in the child: the file that its reports go to, one JSON line each
LIMIT_SECONDS = 600

Reports = dict[str, list[pytest.TestReport]]
finished = pytest.StashKey[dict[Path, Reports]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_process: runs in a process of its own, one for each file")
    config.stash[finished] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if os.environ.get(REPORTS) or not item.get_closest_marker("own_process"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    done = item.config.stash[finished]
    if item.path not in done:
        done[item.path] = run(item)
    for report in done[item.path][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    item.session._setupstate.teardown_exact(nextitem)  # what the item before this one left for it, such as its folder
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if path := os.environ.get(REPORTS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(report._to_json()) + "\n")


def run(first: pytest.Item) -> Reports:
    """Run all tests of a file that were asked for, in one process."""
    items = [item for item in first.session.items if item.path == first.path]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, output = Path(folder) / "reports.jsonl", Path(folder) / "output.txt"
        path.touch()
        environment = os.environ | {REPORTS: str(path), "QT_QPA_PLATFORM": "offscreen"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # these tests use none, and each process would load them
        names = [item.nodeid for item in items]
        process = server.start(_run_tests, first.config.rootpath, names, output=output, environment=environment)
        process.join(LIMIT_SECONDS)
        ending = f"was ended after {LIMIT_SECONDS} s" if process.exitcode is None else f"ended with {process.exitcode}"
        process.kill()
        process.join()
        said = server.said(output)[-5000:]
        lines = path.read_text(encoding="utf-8").splitlines()
    reports: Reports = defaultdict(list)
    for line in lines:
        report = pytest.TestReport._from_json(json.loads(line))
        if isinstance(report.longrepr, list):  # why a test was skipped: JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        reports[report.nodeid].append(report)
    for item in items:
        if not any(report.when == "teardown" for report in reports[item.nodeid]):  # a crash, or before it
            text = f"The process of this test {ending} before the test did.\n{said}"
            reports[item.nodeid].append(pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call"))
    return reports


def _run_tests(folder: Path, names: list[str]) -> None:
    os.chdir(folder)
    sys.exit(pytest.main(["-p", "no:cacheprovider", "-m", "own_process", *names]))
