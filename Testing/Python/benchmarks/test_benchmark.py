"""The benchmark of speed and memory: that it measures, what it tabulates, and the user's page."""

import json
import re

import pytest

import benchmark
from support import ROOT
from support.documents import PAGES


def measurement(way: str, *seconds: float, network: str = "small") -> dict:
    """Runs of a way, the first one cold, half of their time in the network; they take a second longer in all."""
    runs = [
        {"volumes": taken, "processor": 2 * taken + 1, "whole": taken + 1, "stages": {"network": taken / 2}}
        for taken in seconds
    ]
    task = {"network": network, "size": [64, 64, 64], "way": way, "device": "cpu"}
    return {"task": task, "cold": seconds[0] + 3, "runs": runs, "bytes": {"process": 4_000_000_000}}


def test_seconds_are_medians_of_warm_runs_beside_stock_nnunet() -> None:
    failed = {"task": measurement("torch-float32", 1)["task"], "failed": "No memory."}
    made = [measurement("stock", 20), measurement("openvino-float32", 9, 2, 4, 8), failed]
    *_, stock, ours, last = benchmark.report([*made, measurement("stock", 5, 5, network="large")][:3]).splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in (stock, ours, last)]
    assert cells[0][2:6] == ["stock", "20†", "1.00", "21"]
    assert cells[1][2:8] == ["openvino-float32", "4", "0.20", "5", "12", "4.00"]
    assert cells[1][8 + benchmark.STAGES.index("network")] == "2" and cells[1][8] == "–"
    assert cells[1][-2:] == ["9", "0.22"]
    assert cells[2][2:] == ["torch-float32", "No memory."]


@pytest.mark.slow
def test_each_way_is_measured_once(tmp_path, monkeypatch) -> None:
    ways = ["stock", "torch-float32-sampled", "torch-float32-adaptive"]
    asked = [str(tmp_path), "--networks", "small", "--sizes", "48", "--threads", "1", "--device", "cpu"]
    benchmark.main([*asked, "--ways", ",".join(ways)])
    lines = (tmp_path / "measurements.jsonl").read_text().splitlines()
    made = [json.loads(line) for line in lines]
    assert [one["task"]["way"] for one in made] == ways
    for one in made:
        volumes, processor, whole, stages = benchmark.seconds(one)
        assert processor > 0 < volumes <= whole < one["cold"] and one["bytes"]["process"] > 1e8
        assert {"read", "preprocess", "network", "blend", "resample"} <= stages.keys()
        assert sum(stages.values()) <= 1.05 * volumes
    monkeypatch.setattr(benchmark, "_in_child", lambda given: pytest.fail("it is measured again"))
    benchmark.main([*asked, "--ways", ",".join(ways)])


def test_the_page_on_speed_has_the_rows_of_the_results() -> None:
    text = (ROOT / "Testing" / "Benchmarks" / "results" / "small" / "benchmark.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:PyTorch|OpenVINO) \w+) \| ([\d.]+) \| ([\d.]+) \|$", PAGES["speed"], re.MULTILINE)
    measured = re.findall(
        r"^\| 512 x 512 x 300 \| ([^|]+) \| [^|]+ \| ([\d.]+) \| .* \| ([\d.]+) / ", text, re.MULTILINE
    )
    assert len(rows) == 3 and set(rows) <= set(measured)
