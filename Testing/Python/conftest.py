"""Fixtures for every test."""

import gc
import importlib
import locale
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

from support import TESTS
from support.browser import launched
from support.caller import FAKE_WORKER, Caller, Start

pytest_plugins = ["slicer_host.isolation"]

# A shell ignores it in what it runs in the background, and programs that the tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. Each run tries other examples.
PROFILE = {"deadline": None, "max_examples": 30, "stateful_step_count": 30}
hypothesis.settings.register_profile("busy", **PROFILE, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

# The digits that tests expect are PyTorch's, whether OpenVINO is installed or not; test_engines.py compares the two.
os.environ["MOB_UNCERTAINTY_ENGINE"] = "torch"
# Nor are the models of whoever runs the tests, and what they have agreed to.
os.environ["MOB_UNCERTAINTY_MODELS"] = str(TESTS / "no models")
os.environ["TOTALSEG_WEIGHTS_PATH"] = str(TESTS / "no weights")
os.environ["XDG_DATA_HOME"] = str(TESTS / "no data")

FIRST = (
    "training/test_workflow_runs.py",
    "cli/test_cli.py",
    "slicer_app/test_story.py",
    "training/test_training.py",
    "benchmarks/test_benchmark.py",
    "cli/test_faults.py",
    "inference/test_stock_nnunet.py",
    "training/test_trainers.py",
    "inference/test_engines.py",
    "slicer_app/test_panel_clicks.py",
    "slicer_app/test_panel.py",
    "training/test_reader_study.py",
    "slicer_app/test_review_panel.py",
    "slicer_app/test_client.py",
    "slicer_app/test_worklist.py",
    "slicer_app/test_worklist_keeping.py",
    "worker/test_remote.py",
)
"""The files that take longest. Those that run commands in forks (support/forks.py) come before test_engines.py: its
OpenVINO stays in the process, which cannot be forked any more, and every command would import all that it needs anew.
"""

LOCALE = locale.setlocale(locale.LC_ALL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: one that begins last keeps one core busy while the others wait."""
    order = {TESTS / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what is imported by now: 750,000 objects, a third of a second each."""
    gc.freeze()


@pytest.fixture(autouse=True)
def keep_the_locale() -> Iterator[None]:
    """ITK leaves the C locale behind where it writes DICOM, in which Python takes text files for ASCII."""
    locale.setlocale(locale.LC_ALL, LOCALE)  # a fixture of the whole module may have written some
    yield
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every matplotlib figure that is saved."""
    from matplotlib.figure import Figure

    found: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (found.append(figure), save(figure, *a, **k)))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of a file; each opens a `reader` of its own."""
    with launched() as each:
        yield each


@pytest.fixture(scope="module")
def client_module() -> Iterator[ModuleType]:
    """`slicer_app.worker.client` with PySide6 as `qt`, and without the rest of Slicer."""
    from slicer_host import qt_namespace

    qt = qt_namespace.install()
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "slicer", ModuleType("slicer"))
        application = qt.QCoreApplication.instance() or qt.QCoreApplication([])
        yield importlib.import_module("MoBUncertaintyLib.slicer_app.worker.client")
        application.processEvents()
    for name in set(sys.modules) - before:
        if name.startswith("MoBUncertaintyLib.slicer_app"):
            del sys.modules[name]


@pytest.fixture
def start(client_module: ModuleType, tmp_path: Path) -> Iterator[Start]:
    """Makes clients whose worker's folders lie in one with spaces and other letters; none may be left behind."""
    folder = tmp_path / "temporäre Dateien 一時"
    folder.mkdir()
    callers: list[Caller] = []

    def start(mode: str = "normal", **options: Any) -> Caller:
        arguments = options.pop("arguments", (*FAKE_WORKER, mode))
        program = options.pop("python", sys.executable)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        client = client_module.WorkerClient(program, environment, arguments, folder=str(folder), **options)
        callers.append(Caller(client))
        return callers[-1]

    yield start
    for caller in callers:
        caller.client.close()
    # A worker killed as it starts can leave its lock: an empty file, which the next one removes.
    assert [path for path in folder.iterdir() if path.suffix != ".mob-lock" or path.stat().st_size] == []
