"""The inference benchmark: end to end on a tiny CT and network."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

import benchmark
from inference import cases, measure, ours, report, run
from inference.networks import make_network, open_model, stock_folder
from inference.stock import StockSystem
from inference.tasks import BenchmarkSettings, Task, parse_size, plan, size_title
from MoBUncertaintyLib.base.errors import ModelError, OutputError, SettingsError, UserError
from MoBUncertaintyLib.network.backbone import load_network
from support import ROOT, tiny
from support.documents import PAGES
from support.forks import child

SIZE = (32, 32, 32)
SYSTEMS = {"a", "d", "e", "e-adaptive"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a benchmark of all systems that has been run."""
    assert StockSystem and ours, "the forks find imported what they need"
    folder = tmp_path_factory.mktemp("benchmark")
    dataset = tiny.make_dataset(orientation="LPS")
    network = tiny.make_results_folder(folder / "tiny", dataset=dataset, covariance=tiny.SPEC)
    output = folder / "out"
    (output / "cases").mkdir(parents=True)
    sitk.WriteImage(tiny.make_ct(SIZE), cases.case_file(output, SIZE))
    (output / run.FILE).touch()
    run.Store(output).add(Task("cases", size=SIZE), {"result": {}})
    given = ["--output", str(output), "--networks", str(network), "--sizes", "32", "--samples", "4"]
    given += ["--rounds", "1", "--threads", "1", "--device", "cpu", "--repeats", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": child()}))
        done = CliRunner().invoke(benchmark.app, given)
    assert done.exit_code == 0, done.output
    assert "systems measured" in done.output
    return given


@pytest.fixture
def finished(arguments: list[str]) -> dict[str, Any]:
    return json.loads((Path(arguments[1]) / "benchmark.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_system_is_measured_stage_by_stage(arguments: list[str], finished: dict[str, Any]) -> None:
    table = {row["system"]: row for row in finished["systems"]}
    assert finished["failed"] == []
    assert set(table) == SYSTEMS
    for system, row in table.items():
        stages = row["stages_s"]
        assert row["runs"] == 1 and not row["first_run_only"] and row["tiles"] <= 8
        assert {"read", "preprocess", "backbone", "blend", "resample", "write", "other"} <= set(stages), system
        assert all(seconds >= 0 for seconds in stages.values())
        assert row["total_s"] == pytest.approx(sum(stages.values()), rel=1e-6)
        assert 0 < row["volumes_s"] <= row["total_s"] and row["cold_s"] > row["import_s"] + row["load_s"]
        assert row["import_s"] > 0 and row["load_s"] > 0 and row["peak_bytes"] > 1e8
    assert "moments" not in table["a"]["stages_s"] and "regions" not in table["a"]["stages_s"]
    assert all("moments" in table[system]["stages_s"] for system in SYSTEMS - {"a"})
    assert all(table[system]["tiles"] == 8 for system in SYSTEMS - {"e-adaptive"})
    assert finished["machine"]["versions"]["torch"] == torch.__version__
    folder = Path(arguments[1])
    assert "(e-adaptive) closed form, adaptive tiling" in (folder / "benchmark.md").read_text(encoding="utf-8")
    assert not list(folder.glob("scratch-*"))


@pytest.mark.slow
def test_second_run_measures_what_is_missing_or_failed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Task] = []
    monkeypatch.setattr(run, "in_child", lambda task, folder: started.append(task) or {"failed": "not now"})
    assert CliRunner().invoke(benchmark.app, arguments).exit_code == 0
    assert started == []
    for times in (1, 2):
        done = CliRunner().invoke(benchmark.app, [*arguments, "--samples", "5"])
        assert "not now" in done.output
        assert len(started) == times * len(SYSTEMS)
    assert CliRunner().invoke(benchmark.app, arguments).exit_code == 0


@pytest.mark.slow
def test_stock_folder_has_the_models_own_backbone(arguments: list[str]) -> None:
    output, network = Path(arguments[1]), arguments[3]
    model = open_model(output, network)
    weights = load_network(model, 0).backbone.state_dict()
    stock = torch.load(stock_folder(output, network) / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in stock["network_weights"].items())
    assert "covariance" not in json.loads((stock_folder(output, network) / "plans.json").read_text())
    assert model.card.covariance == tiny.SPEC


def test_network_without_the_mixture_of_bases_is_refused(tmp_path: Path) -> None:
    folder = tiny.make_results_folder(tmp_path / "plain")
    with pytest.raises(ModelError):
        make_network(tmp_path, str(folder))


@pytest.mark.parametrize("change", [{"networks": ("tiny",)}, {"device": "cuda:99"}], ids=["network", "device"])
def test_what_is_not_there_is_refused_before_anything_is_measured(tmp_path: Path, change: dict) -> None:
    settings = BenchmarkSettings(**{"networks": ("small",), "sizes": (SIZE,), "device": "cpu"} | change)
    with pytest.raises(UserError):
        run.run(tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_line_cut_short_is_measured_again_and_swallows_no_other(tmp_path: Path) -> None:
    store = run.Store(tmp_path / "new")
    first, second, third = (Task("system", number=n) for n in range(3))
    store.add(first, {"result": {"x": 1}})
    store.path.write_text(store.path.read_text() + '{"key": "' + second.key)
    again = run.Store(tmp_path / "new")
    assert again.is_done(first) and not again.is_done(second)
    again.add(third, {"result": {}})
    assert run.Store(tmp_path / "new").is_done(third)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError):
        run.Store(tmp_path)


def test_sizes_are_read_and_named() -> None:
    sizes = [parse_size(word) for word in ("128", "512x512x300")]
    assert sizes == [(128, 128, 128), (512, 512, 300)]
    assert [size_title(size) for size in sizes] == ["128³", "512 x 512 x 300"]
    for word in ("", "x", "12x", "1x2", "0", "4x4x4x4", "-3"):
        with pytest.raises(SettingsError):
            parse_size(word)


@pytest.mark.parametrize("change", [{"systems": ("f",)}, {"networks": ("here/model", "there/model/")}])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        BenchmarkSettings(**change)


def test_systems_take_turns_and_engines_and_precisions_are_systems_of_their_own() -> None:
    planned = plan(BenchmarkSettings())
    turn = [t.system for t in planned if t.kind == "system" and t.network == "small" and t.size == (128,) * 3]
    assert turn == ["a", "e", "e-adaptive", "d"] * 2
    assert len({task.key for task in planned}) == len(planned)
    settings = BenchmarkSettings(engines=("torch", "openvino"), precisions=("float32", "bfloat16"), rounds=1)
    planned = [t for t in plan(settings) if t.network == "small"]
    turn = [t.system for t in planned if t.kind == "system" and t.size == (128,) * 3]
    ways = ["torch-float32", "torch-bfloat16", "openvino-float32", "openvino-bfloat16"]
    closed = [f"{letter}@{way}" for letter in ("e", "e-adaptive") for way in ways]
    assert turn == ["a", *closed, "d@torch-float32"]
    assert {task.system for task in planned if task.options.get("scene")} == {closed[0]}, "one writes the scene"
    asked = ours.settings_of("e-adaptive@openvino-bfloat16", "cpu", 7)
    assert (asked.engine, asked.precision, asked.tiling) == ("openvino", "bfloat16", "adaptive")
    assert asked.samples is None and ours.settings_of("d@torch-float32", "cpu", 7).samples == 7


def measurement(system: str, seconds: float, **changes: Any) -> dict[str, Any]:
    """A measurement whose warm runs took `seconds` end to end, half of it in the backbone."""
    stages = {"read": 0.1 * seconds, "backbone": 0.5 * seconds, "blend": 0.4 * seconds}
    if system != "a":
        stages |= {"regions": 3.0, "scene": 5.0}
    warm = [{"total": sum(stages.values()) * f, "stages": {k: v * f for k, v in stages.items()}} for f in (1, 0.9, 1.2)]
    result = {"import_s": 2.0, "load_s": 1.0, "cold": warm[-1], "warm": warm, "peak_bytes": 4e9, "tiles": 60}
    task = Task("system", "large", SIZE, system)
    return {"task": asdict(task), "revision": "abc", "result": result | changes}


def test_rows_are_medians_of_warm_runs_up_to_the_volumes() -> None:
    entries = [measurement("e@openvino-bfloat16", 80.0), measurement("a", 100.0, warm=[])]
    failed = {"task": entries[0]["task"] | {"system": "d"}, "failed": "No memory."}
    stock, samples, our_row = table = report.rows([*entries, failed])
    assert (our_row["volumes_s"], our_row["total_s"], our_row["stages_s"]["backbone"]) == pytest.approx((80, 88, 40))
    assert (report.mark_of(stock), stock["volumes_s"]) == ("†", pytest.approx(120.0))
    assert samples["failed"] == "No memory."
    assert "| (a) stock nnU-Net | (e) our closed form, OpenVINO bfloat16 |" in report.systems(table)
    assert "failed" not in report.rows([failed, measurement("d", 1.0)])[0]


@pytest.mark.parametrize("name", ["small", "large"])
def test_reports_and_the_page_on_speed_are_those_of_the_results(tmp_path: Path, name: str) -> None:
    folder = ROOT / "Testing" / "Benchmarks" / "results" / name
    text = (folder / "benchmark.md").read_text(encoding="utf-8")
    report.write_markdown(json.loads((folder / "benchmark.json").read_text(encoding="utf-8")), tmp_path)
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == text
    rows = [line for line in PAGES["speed"].splitlines() if line.startswith(("| PyTorch", "| OpenVINO"))]
    assert len(rows) == 4
    assert name == "large" or all(f"| 512 x 512 x 300 {row}"[:-1] in text for row in rows)


def test_cts_show_the_field_or_a_cut_out_and_keep_their_middle() -> None:
    ct = tiny.make_ct((50, 60, 70), (6.0, 6.0, 6.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    whole, part = cases.sample(ct, (256, 256, 200)), cases.sample(ct, (64, 64, 64))
    assert whole.GetPixelID() == sitk.sitkInt16
    assert np.multiply(whole.GetSize(), whole.GetSpacing()) == pytest.approx(cases.FIELD_MM)
    assert part.GetSpacing() == pytest.approx((1.5, 1.5, 0.9375))
    middles = [cases._middle(image) for image in (ct, whole, part)]
    assert np.ptp(middles, axis=0) == pytest.approx([0, 0, 0], abs=1e-6)


def test_stages_within_stages_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 10.0])
    clock = measure.StageClock()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    with clock.stage("outer"), clock.stage("inner"):
        pass
    assert dict(clock.seconds) == {"inner": 3.0, "outer": 7.0}


def test_warm_runs_stop_at_the_limit() -> None:
    runs = measure.repeated(lambda: {"total": 4.0}, repeats=5, limit=13.0)
    assert len(runs["warm"]) == 2
    assert measure.repeated(lambda: {"total": 40.0}, repeats=5, limit=13.0)["warm"] == []


def test_environment_has_this_checkout_first_and_the_threads_everywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    variables = run.environment(tmp_path, 3)
    assert variables["PYTHONPATH"].split(os.pathsep)[-1] == "elsewhere"
    assert variables["PYTHONPATH"].startswith(str(ROOT / "Testing" / "Benchmarks"))
    assert variables["OMP_NUM_THREADS"] == variables["nnUNet_def_n_proc"] == "3"
