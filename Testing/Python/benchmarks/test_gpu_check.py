"""The check of a GPU, on the CPU with a tiny network: every step runs, and what is wrong is said."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from inference import cases, ours, run
from inference.gpu import check, paths, report, rows, training, volumes
from inference.gpu.check import plan, run_check
from inference.gpu.rows import ResultError, Row, Rows
from inference.stock import StockSystem
from inference.tasks import SYSTEMS, Task
from mob_training.training import trainer
from MoBUncertaintyLib.cli import app
from MoBUncertaintyLib.errors import Cancelled, OutputError
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from support import tiny
from support.forks import child

SIZE = (32, 32, 32)
MOB = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)
CPU = torch.device("cpu")
RESULT = {"cold": {"total": 2.0, "stages": {"backbone": 1.0}}, "warm": [], "import_s": 1.0, "load_s": 1.0, "tiles": 8}
RESULT |= {"device": "cpu", "engine": "torch", "precision": "float32", "peak_bytes": 1e9, "extrapolated": False}
STEPS = ["tiles", "samples", "predictions", "memory", "training", "system", "compiled"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    return tiny.make_results_folder(folder / "tiny", dataset=tiny.make_dataset(orientation="LPS"), covariance=MOB)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny.make_model(tmp_path_factory.mktemp("model") / "tiny", covariance=MOB)


def ready(folder: Path) -> Path:
    """A folder that has its CT already."""
    (folder / "cases").mkdir(parents=True)
    sitk.WriteImage(tiny.make_ct(SIZE), str(cases.case_file(folder, SIZE)))
    (folder / run.FILE).touch()
    return folder


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, network: Path) -> tuple[Path, Any]:
    """A whole check's folder, and how its command ended."""
    assert all((StockSystem, ours, volumes, trainer, training)), "the forks find imported what takes seconds to import"
    folder = ready(tmp_path_factory.mktemp("check") / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": child()}))
        patch.setattr(check, "CPU_SIZE", SIZE)
        given = ["benchmark", "--gpu-check", "--output", str(folder), "--networks", f"{network},large"]
        done = CliRunner().invoke(app.app, [*given, "--device", "cpu", "--threads", "1", "--samples", "4"])
    return folder, done


def test_every_step_runs_on_the_cpu_and_says_what_it_found(checked: tuple[Path, Any]) -> None:
    folder, done = checked
    assert done.exit_code == 0, done.output
    found = json.loads((folder / report.JSON).read_text(encoding="utf-8"))
    by = {step: [row for row in found["rows"] if row["step"] == step] for step in STEPS}
    assert sum(map(len, by.values())) == len(found["rows"]) == found["counts"]["ok"]
    assert [row["what"] for row in by["tiles"]] == ["float32", "bfloat16", "float32, channels-last"]
    assert by["tiles"][0]["values"]["probability_change"] == 0 < by["tiles"][1]["values"]["probability_change"]
    assert all(row["values"][f"{letter}_ms"] > 0 for row in by["tiles"] for letter in "acde")
    assert len(by["samples"]) == 2 and len(by["system"]) == 6 and len(by["compiled"]) == 1
    assert [row["values"].get("said", "") for row in by["memory"]] == [
        "",
        "The device ran short of memory, so the results are summed on the CPU.",
        "The device ran short of memory, so the results are summed on the CPU. "
        "The device ran out of memory, so the CPU computes; this takes longer.",
    ]
    assert [row["what"] for row in by["training"]] == ["DeterministicTrainer", "FineTuningTrainer"]
    assert all(row["values"]["last_loss"] < row["values"]["first_loss"] for row in by["training"])
    text = (folder / report.MARKDOWN).read_text(encoding="utf-8")
    assert all(f"## {report.TITLES[step]}" in text for step in STEPS)
    assert "No GPU was used" in text and "| DeterministicTrainer |" in text


def test_what_is_wrong_ends_its_row_alone(tmp_path: Path) -> None:
    made = Rows(tmp_path, "tiles", time.time() + 60)

    def broken() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    def wrong() -> dict[str, Any]:
        paths.hold_to((0.01, 0.99), {"probability_change": 0.2, "labels_equal": 1.0})
        return {}

    assert made.add("first", broken) == {} and made.add("second", wrong)["probability_change"] == 0.2
    assert made.add("third", lambda: {"a_ms": 1.5}) == {"a_ms": 1.5}
    assert made.add("fourth", wrong, needs=100) == {}
    found = rows.read(tmp_path / rows.FILE)
    assert [row.status for row in found] == ["failed", "failed", "ok", "skipped"]
    assert found[0].why == "RuntimeError: CUDA error: an illegal memory access."
    assert found[1].why == "A probability changes by 0.2; at most 0.01 was expected."
    assert found[3].why == "There was no time left for it (100 s are needed)."
    text = report.table(found[:3])
    assert text.splitlines()[2:] == [
        "| first | – | – | – | **no** |",
        "| second | – | 0.2 | 100.0000 | **no** |",
        "| third | 1.5 | – | – | yes |",
    ]


@pytest.mark.parametrize(
    ("values", "wrong"),
    [((0.0, 1.0), ""), ((0.2, 1.0), "A probability"), ((float("nan"), 1.0), "A probability"), ((0.0, 0.5), "Only 50")],
)
def test_changes_are_held_to_bounds(values: tuple[float, float], wrong: str) -> None:
    given = dict(zip(("probability_change", "labels_equal"), values, strict=True))
    if not wrong:
        paths.hold_to((0.01, 0.99), given)
        return
    with pytest.raises(ResultError, match=wrong):
        paths.hold_to((0.01, 0.99), given)


def test_time_that_is_over_ends_the_step_and_skips_the_rest(tmp_path: Path, network: Path, monkeypatch) -> None:
    folder = ready(tmp_path / "out")
    asked: list[Task] = []

    def in_child(task: Task, _folder: Path, stop: Any) -> dict[str, Any]:
        asked.append(task)
        if task.kind != "gpu-check":
            return {"result": {}}
        rows.write(folder / rows.FILE, Row("tiles", "float32"))
        while not stop():
            time.sleep(0.01)
        raise Cancelled("ended")

    monkeypatch.setattr(check, "in_child", in_child)
    monkeypatch.setattr(check, "plan", lambda *given: [replace(p, needs=p.needs / 100) for p in plan(*given)])
    found = run_check(folder, (str(network),), "cpu", budget=0.2)
    assert [task.kind for task in asked] == ["cases", "network", "gpu-check"]
    assert found["counts"] == {"ok": 1, "failed": 0, "skipped": len(found["rows"]) - 1}
    assert found["rows"][1]["why"] == "It was stopped when the time was over."
    assert {row["why"] for row in found["rows"][2:]} == {"There was no time left for it (0 s are needed)."}
    with pytest.raises(Cancelled):
        run_check(folder, (str(network),), "cpu", cancelled=lambda: True)


def test_process_that_fails_is_a_row_and_the_command_says_so(tmp_path: Path, network: Path, monkeypatch) -> None:
    folder = ready(tmp_path / "out")
    failed = {"failed": "The system ended it, most probably because the memory did not suffice."}
    monkeypatch.setattr(check, "in_child", lambda task, *_: failed if task.kind == "gpu-check" else {"result": RESULT})
    given = ["benchmark", "--gpu-check", "--output", str(folder), "--networks", str(network), "--device", "cpu"]
    done = CliRunner().invoke(app.app, given)
    assert done.exit_code == 1
    assert "memory did not suffice" in done.output and "6 of 10 rows are as they should be" in done.output
    monkeypatch.setattr(check, "in_child", lambda task, *_: failed if task.kind == "network" else {"result": RESULT})
    found = run_check(folder, (str(network),), "cpu")
    assert [row["step"] for row in found["rows"]] == ["network"], "nothing else is tried"


def test_gpu_has_more_paths_networks_and_time_for_compiling(network: Path) -> None:
    cuda = [str(path) for path in paths.paths(torch.device("cuda"))]
    assert {"float32", "float32, TF32", "bfloat16, channels-last", "float16, compiled"} <= set(cuda)
    made = plan(("small", "large"), "cuda", True, 30, None, (256,) * 3, 0.0)
    assert [part.title for part in made[-2:]] == ["small: compiled", "large: compiled"]
    assert set(SYSTEMS) <= {part.task.system for part in made if part.task.network == "small"}
    without = plan(("small", "large"), "cpu", False, 30, None, SIZE, 0.0)
    assert {part.task.network for part in without} == {None, "small"}
    assert {part.task.options["samples"] for part in made if part.task.kind == "system"} == {30}


def test_folder_of_something_else_is_left_alone(tmp_path: Path, network: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match="holds other things"):
        run_check(tmp_path, (str(network),), "cpu")
