"""The pages on speed are what their command draws from the results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import speed_page
from inference.tasks import AUTO, BenchmarkSettings, parse_sizes, split_system
from speed_page import BLOCKS, PAGES, RESULTS, draw
from support.documents import section

PAGE, DETAILS = (path.read_text(encoding="utf-8") for path in PAGES)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the results, whose numbers may be changed."""
    return Path(shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png")))


def of_one_way(run: dict) -> dict:
    """Return a run of each system in one way only, whatever ways were measured."""
    ours = {split_system(row["system"])[1] for row in run["systems"]} - {AUTO}
    chosen = {AUTO, *sorted(ours)[-1:]}  # torch-float32, if there are any
    rows = [
        row | {"system": split_system(row["system"])[0]}
        for row in run["systems"]
        if split_system(row["system"])[1] in chosen
    ]
    return run | {"systems": rows}


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_pages_are_drawn_from_the_results() -> None:
    for page in (PAGE, DETAILS):
        assert page == draw(page), "run python Testing/Benchmarks/speed_page.py"
    assert [name for name in BLOCKS if f"<!-- {name} -->" not in PAGE + DETAILS] == []


def test_other_measurements_make_another_page(results: Path) -> None:
    path = results / "small" / "benchmark.json"
    run = of_one_way(json.loads(path.read_text(encoding="utf-8")))
    for row in run["systems"]:
        row["volumes_s"] = {"a": 40.0, "e": 10.0}.get(row["system"], 3.0)
        row["peak_bytes"], row["first_run_only"] = 2e9, False
    change(path, systems=run["systems"])
    page = draw(DETAILS, results)
    table = section(page, "Compared with stock nnU-Net")
    assert "| PyTorch float32 | 40 | 10 |" in draw(PAGE, results)
    assert "| 512 x 512 x 300 | PyTorch float32 | 40 |" in table and "| 10 | 0.25 |" in table
    assert "2.00 / 2.00" in table


def test_engines_and_formats_have_rows_of_their_own(results: Path) -> None:
    path = results / "small" / "benchmark.json"
    run = of_one_way(json.loads(path.read_text(encoding="utf-8")))
    stock, ours = (next(row for row in run["systems"] if row["system"] == system) for system in ("a", "e"))
    ways = ["torch-float32", "openvino-bfloat16"]
    rows = [stock, *(ours | {"system": f"e@{way}", "volumes_s": 1.0 + n} for n, way in enumerate(ways))]
    settings = run["settings"] | {
        "engines": ["torch", "openvino"],
        "precisions": ["float32", "bfloat16"],
        "limit": 50.0,
    }
    change(path, systems=rows, settings=settings)
    page = draw(DETAILS, results)
    for way in ("PyTorch float32", "OpenVINO bfloat16"):
        assert f"| 128 x 128 x 128 | {way} |" in page
    commands = " ".join(page.replace("\\\n", " ").split())
    assert "--limit 50 --threads 2 --engine torch,openvino --precision float32,bfloat16" in commands


def test_gpu_is_told_of_once_it_is_measured(results: Path) -> None:
    assert "No GPU was at hand" in draw(DETAILS, results)
    (results / "gpu-check.md").write_text("# GPU check\n\n- Some GPU\n\n## One tile\n\n| 1 |\n")
    assert "- Some GPU\n\n### One tile\n\n| 1 |\n" in draw(DETAILS, results)


def test_page_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        draw(DETAILS.replace("<!-- accuracy -->", ""))


def test_commands_of_the_runs_are_those_of_their_settings() -> None:
    settings = BenchmarkSettings(networks=("small",), sizes=parse_sizes("128,512x512x300"), threads=2)
    assert speed_page.command_of(vars(settings)) == (
        "python Testing/Benchmarks/benchmark.py --output FOLDER --networks small --sizes 128,512x512x300 --threads 2"
    )
    small, check = speed_page.commands(Path("out"), ["float32"])
    assert "--gpu-check" in check and "float32" in small


def test_what_was_measured_takes_the_place_of_the_results(results: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "measured"
    for name in ("small", "gpu-check"):
        (folder / name).mkdir(parents=True)
    shutil.copy(RESULTS / "small" / "benchmark.json", folder / "small")
    for name in ("gpu-check.json", "gpu-check.md"):
        (folder / "gpu-check" / name).write_text(json.dumps({"name": name}, indent=2))
    monkeypatch.setattr(speed_page, "RESULTS", results)
    asked: list[list[str]] = []
    monkeypatch.setattr(speed_page.subprocess, "run", lambda command, check: asked.append(command))
    speed_page.measure(folder)
    assert len(asked) == 2
    assert (results / "large").exists()
    assert (results / "small" / "benchmark.json").read_bytes() == (folder / "small" / "benchmark.json").read_bytes()
    assert (results / "gpu-check.json").read_text() == '{"name":"gpu-check.json"}\n'
    assert (results / "gpu-check.md").read_text() == (folder / "gpu-check" / "gpu-check.md").read_text()
