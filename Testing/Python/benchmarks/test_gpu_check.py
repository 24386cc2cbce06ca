"""The check of a GPU, on the CPU with a tiny network: every step runs, and what is wrong is said."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

import benchmark
from inference import cases, run
from inference.gpu import check, paths, report, rows, volumes
from inference.gpu.check import plan, run_check
from inference.gpu.rows import ResultError, Row, Rows
from inference.tasks import Task
from MoBUncertaintyLib.base.errors import Cancelled, OutputError
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from support import tiny
from support.forks import child

SIZE = (32, 32, 32)
MOB = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)
CUDA = torch.device("cuda")
STEPS = ["tiles", "samples", "predictions", "memory"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    return tiny.make_results_folder(folder / "tiny", dataset=tiny.make_dataset(orientation="LPS"), covariance=MOB)


def ready(folder: Path) -> Path:
    """A folder that has its CT already."""
    (folder / "cases").mkdir(parents=True)
    sitk.WriteImage(tiny.make_ct(SIZE), str(cases.case_file(folder, SIZE)))
    (folder / run.FILE).touch()
    return folder


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, network: Path) -> tuple[Path, Any]:
    """A whole check's folder, and how its command ended."""
    assert volumes, "the forks find imported what takes seconds to import"
    folder = ready(tmp_path_factory.mktemp("check") / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": child()}))
        patch.setattr(check, "CPU_SIZE", SIZE)
        given = ["--gpu-check", "--output", str(folder), "--networks", f"{network},large"]
        done = CliRunner().invoke(benchmark.app, [*given, "--device", "cpu", "--threads", "1", "--samples", "4"])
    return folder, done


@pytest.mark.slow
def test_every_step_runs_on_the_cpu_and_says_what_it_found(checked: tuple[Path, Any]) -> None:
    folder, done = checked
    assert done.exit_code == 0, done.output
    found = json.loads((folder / report.JSON).read_text(encoding="utf-8"))
    by = {step: [row for row in found["rows"] if row["step"] == step] for step in STEPS}
    assert sum(map(len, by.values())) == len(found["rows"]) == found["counts"]["ok"]
    assert [row["what"] for row in by["tiles"]] == ["float32", "bfloat16"]
    assert by["tiles"][0]["values"]["probability_change"] == 0 < by["tiles"][1]["values"]["probability_change"]
    assert all(row["values"][f"{letter}_ms"] > 0 for row in by["tiles"] for letter in "ade")
    assert len(by["samples"]) == 1
    assert [row["values"].get("said", "").count("The device ran") for row in by["memory"]] == [0, 1, 2]
    text = (folder / report.MARKDOWN).read_text(encoding="utf-8")
    assert all(f"## {report.TITLES[step]}" in text for step in STEPS)
    assert "No GPU was used" in text


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
    text = report.table(found[:3])
    assert text.splitlines()[2:] == [
        "| first | – | – | – | **no** |",
        "| second | – | 0.2 | 100.0000 | **no** |",
        "| third | 1.5 | – | – | yes |",
    ]


@pytest.mark.parametrize(
    ("values", "wrong"), [((0.0, 1.0), False), ((0.2, 1.0), True), ((float("nan"), 1.0), True), ((0.0, 0.5), True)]
)
def test_changes_are_held_to_bounds(values: tuple[float, float], wrong: bool) -> None:
    given = dict(zip(("probability_change", "labels_equal"), values, strict=True))
    with pytest.raises(ResultError) if wrong else nullcontext():
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
    assert found["counts"] == {"ok": 1, "failed": 0, "skipped": 2}
    with pytest.raises(Cancelled):
        run_check(folder, (str(network),), "cpu", cancelled=lambda: True)


def test_process_that_fails_is_a_row_and_the_command_says_so(tmp_path: Path, network: Path, monkeypatch) -> None:
    folder = ready(tmp_path / "out")
    failed = {"failed": "The system ended it, most probably because the memory did not suffice."}
    monkeypatch.setattr(check, "in_child", lambda task, *_: failed if task.kind == "gpu-check" else {"result": {}})
    given = ["--gpu-check", "--output", str(folder), "--networks", str(network), "--device", "cpu"]
    done = CliRunner().invoke(benchmark.app, given)
    assert done.exit_code == 1
    assert "memory did not suffice" in done.output and "0 of 2 rows are as they should be" in done.output
    monkeypatch.setattr(check, "in_child", lambda task, *_: failed if task.kind == "network" else {"result": {}})
    found = run_check(folder, (str(network),), "cpu")
    assert [row["step"] for row in found["rows"]] == ["network"], "nothing else is tried"


def test_gpu_has_more_paths_and_networks() -> None:
    assert [str(path) for path in paths.paths(CUDA)] == ["float32", "bfloat16", "float32, TF32", "float16"]
    made = plan(("small", "large"), "cuda", True, 30, None, (256,) * 3, 0.0)
    assert {part.task.network for part in made} == {None, "small", "large"}
    assert {part.task.options["samples"] for part in made if part.task.kind == "gpu-check"} == {30}
    without = plan(("small", "large"), "cpu", False, 30, None, SIZE, 0.0)
    assert {part.task.network for part in without} == {None, "small"}


def test_folder_of_something_else_is_left_alone(tmp_path: Path, network: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError):
        run_check(tmp_path, (str(network),), "cpu")
