"""The benchmark's arithmetic and its report, on made-up measurements."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import report, summary
from inference.ours import settings_of
from inference.tasks import BenchmarkSettings, Task, plan
from MoBUncertaintyLib.base.errors import SettingsError

SIZE = (40, 40, 40)


def finished_machine() -> dict[str, Any]:
    return {"processor": "Abacus", "cores": 2, "memory_bytes": None, "system": "Desk", "versions": {}, "revision": None}


def measurement(system: str, seconds: float, size: tuple[int, ...] = (512, 512, 300), **changes: Any) -> dict[str, Any]:
    """A measurement whose warm runs took `seconds` end to end, half of it in the backbone."""
    stages = {"read": 0.1 * seconds, "backbone": 0.5 * seconds, "blend": 0.4 * seconds}
    if system != "a":
        stages |= {"moments": 0.008 * seconds, "blend": 0.392 * seconds, "regions": 3.0, "scene": 5.0}
    warm = [{"total": sum(stages.values()) * f, "stages": {k: v * f for k, v in stages.items()}} for f in (1, 0.9, 1.2)]
    result = {"import_s": 2.0, "load_s": 1.0, "cold": warm[-1], "warm": warm, "peak_bytes": 4e9, "tiles": 60}
    result |= {"input_voxels": [int(np.prod(size)) // 8, 1, 1], "device": "cpu"}
    task = Task("system", "large", tuple(size), system)
    return {"key": task.key, "task": asdict(task), "revision": "abc", "result": result | changes}


def judged(entries: list[dict[str, Any]], **networks: Any) -> dict[str, dict[str, Any]]:
    return {target["what"]: target for target in summary.targets(summary.rows(entries), entries, networks)}


def test_ratios_bounds_and_marks_are_right() -> None:
    entries = [
        measurement("a", 100.0, peak_bytes=10e9),
        measurement("d", 84.0),
        measurement("e", 80.0, peak_bytes=4e9),
        measurement("e-adaptive", 50.0, tiles=15),
    ]
    found = judged(entries)
    expected = {
        "(e) / (a), end to end": (0.8, True),
        "(d) / (e), end to end": (1.05, True),
        "(a) / (e-adaptive), end to end": (2.0, False),
        "tiles, full / adaptive": (4.0, True),
        "peak memory, (e) / (a)": (0.4, True),
        "(e): heads and moments / backbone": (0.016, True),
    }
    assert found.keys() == expected.keys()
    for what, (value, met) in expected.items():
        assert found[what]["value"] == pytest.approx(value), what
        assert (found[what]["met"], found[what]["marks"]) == (met, ""), what
    first_only = judged([measurement("a", 100.0, warm=[]), measurement("e", 80.0)])
    assert first_only["(e) / (a), end to end"]["marks"] == "†"
    random = judged(entries, large={"random_weights": True})
    assert random["tiles, full / adaptive"]["met"] is None, "random weights find no organ"
    small_ct = judged([measurement("a", 1.0, SIZE), measurement("e", 1.1, SIZE)])
    assert small_ct["peak memory, (e) / (a)"]["met"] is None and small_ct["(e) / (a), end to end"]["met"] is False


def distance(size: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """A case that takes 5 s of which 4 s cannot be spared."""
    stages = {"read": 1.0, "write": 0.5}
    result = {"end_to_end_s": 5.0, "limit_s": stages | {"network": 2.5}, "around_s": {"report": 1.5, "scene": 1.0}}
    result |= {"stages_s": stages, "plain_s": {"read": 0.8, "write": 2.0}, "plain": {"read": "A", "write": "B"}}
    task = Task("distance", "small", size, "e-adaptive")
    return {"task": asdict(task), "revision": "abc", "result": result | {"voxels": 10**7, "tiles": 12} | changes}


def test_distance_to_the_limit_is_judged_for_a_whole_ct_and_shown_in_ns_a_voxel() -> None:
    found = judged([distance((512, 512, 300))])
    expected = {"end to end / (reading + network + writing)": (1.25, True), "report, s more": (1.5, False)}
    expected |= {"scene, s more": (1.0, True)}
    assert {what: (target["value"], target["met"]) for what, target in found.items()} == expected
    assert {target["met"] for target in judged([distance(SIZE)]).values()} == {None}
    text = report.distance_table(report._of("distance", [distance(SIZE)]))
    assert "| read | 100 | 80 | A |" in text
    assert "| write | 50 | 200 | B |" in text
    assert "5 s; the limit is 4 s (read 1 s, write 0.5 s, network 2.5 s)" in text


def test_what_failed_is_said_and_judged_by_nothing() -> None:
    failed = {key: value for key, value in measurement("a", 1.0).items() if key != "result"} | {"failed": "No memory."}
    (row,) = summary.rows([failed])
    assert row["failed"] == "No memory." and judged([failed]) == {}
    assert "failed" not in summary.rows([failed, measurement("a", 1.0)])[0]


def test_report_is_written_with_its_pictures(tmp_path: Path) -> None:
    entries = [measurement(s, t, size) for s, t in (("a", 9.0), ("e", 8.0)) for size in [SIZE, (512, 512, 300)]]
    found = report.write_report(tmp_path, BenchmarkSettings(), entries, finished_machine())
    assert (tmp_path / "stages.png").exists() and len(found["systems"]) == 4
    assert "### 512 x 512 x 300 voxels" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")


def test_networks_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError):
        BenchmarkSettings(networks=("here/model", "there/model/"))


def test_engines_and_precisions_are_systems_of_their_own() -> None:
    settings = BenchmarkSettings(engines=("torch", "openvino"), precisions=("float32", "bfloat16"), rounds=1)
    planned = [t for t in plan(settings) if t.network == "small"]
    turn = [t.system for t in planned if t.kind == "system" and t.size == (128,) * 3]
    ways = ["torch-float32", "torch-bfloat16", "openvino-float32", "openvino-bfloat16"]
    closed = [f"{letter}@{way}" for letter in ("e", "e-adaptive") for way in ways]
    assert turn == ["a", *closed, "d@torch-float32"]
    assert [t.system for t in planned if t.kind == "interactive"] == closed[4:]
    asked = settings_of("e-adaptive@openvino-bfloat16", "cpu", 7)
    assert (asked.engine, asked.precision, asked.tiling) == ("openvino", "bfloat16", "adaptive")
    assert asked.samples is None and settings_of("d@torch-float32", "cpu", 7).samples == 7
    entries = [measurement(s, seconds) for s, seconds in (("a", 100.0), (closed[0], 50.0), (closed[3], 8.0))]
    found = summary.targets(summary.rows(entries), entries, {})
    ratios = [(t["where"], t["value"]) for t in found if t["what"] == "(e) / (a), end to end"]
    assert ratios == [
        ("large, 512 x 512 x 300, PyTorch float32", pytest.approx(0.5)),
        ("large, 512 x 512 x 300, OpenVINO bfloat16", pytest.approx(0.08)),
    ]
    table = report._systems(summary.rows(entries))
    assert (
        "| (a) stock nnU-Net | (e) our closed form, PyTorch float32 | (e) our closed form, OpenVINO bfloat16 |" in table
    )


def test_aims_depend_on_amx_and_size() -> None:
    def entries(size: tuple[int, ...], precision: str) -> list[dict[str, Any]]:
        made = [measurement("a", 100.0, size), measurement("e", 15.0, size, precision=precision)]
        for each in made:
            each["task"]["network"] = "small"
        return made

    def bound(size: tuple[int, ...], precision: str, amx: bool) -> float:
        given = entries(size, precision)
        found = summary.targets(summary.rows(given), given, {}, amx)
        return next(target["bound"] for target in found if target["what"] == "(e) / (a), end to end")

    whole = (512, 512, 300)
    assert [bound(whole, "bfloat16", amx) for amx in (False, True)] == [0.2, 0.08]
    assert bound(whole, "float32", amx=True) == 0.2 and bound((128,) * 3, "bfloat16", amx=True) == 0.3
    task = Task("interactive", "small", whole, "e-adaptive@openvino-bfloat16")
    result = {"warm": [{"total": 0.4}, {"total": 0.6}, {"total": 2.0}], "precision": "bfloat16"}
    (waited,) = summary.targets([], [{"task": asdict(task), "result": result}], {}, amx=True)
    assert (waited["value"], waited["bound"], waited["where"]) == (0.6, 1.0, "small, OpenVINO bfloat16")


def test_one_system_writes_the_scene() -> None:
    planned = plan(BenchmarkSettings(engines=("torch", "openvino")))
    writing = {task.system for task in planned if task.options.get("scene")}
    assert writing == {"e@torch-auto"}
