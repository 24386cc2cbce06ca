"""The pages on speed are what their command draws from the results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import speed_page
from inference.tasks import AUTO, BenchmarkSettings, split_system
from speed_page import BLOCKS, PAGES, RESULTS, draw
from support.documents import section

PAGE, DETAILS = (path.read_text(encoding="utf-8") for path in PAGES)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the results, whose numbers may be changed."""
    return Path(shutil.copytree(RESULTS, tmp_path / "results"))


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
    ours = next(row for row in run["systems"] if row["system"] == "e")
    run["systems"].append(ours | {"system": "e@openvino-bfloat16", "volumes_s": 2.0})
    run["settings"] |= {"engines": ["torch", "openvino"], "limit": 50.0}
    path.write_text(json.dumps(run), encoding="utf-8")
    page = draw(DETAILS, results)
    table = section(page, "Compared with stock nnU-Net")
    assert "| PyTorch float32 | 40 | 10 |" in draw(PAGE, results)
    assert "| 512 x 512 x 300 | PyTorch float32 | 40 |" in table and "| 10 | 0.25 |" in table
    assert "| 128 x 128 x 128 | OpenVINO bfloat16 | 40 | 2 |" in table
    assert "2.00 / 2.00" in table
    assert "--limit 50 --threads 2 --engine torch,openvino" in " ".join(page.replace("\\\n", " ").split())


def test_page_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        draw(DETAILS.replace("<!-- accuracy -->", ""))


def test_command_of_a_run_is_that_of_its_settings() -> None:
    settings = BenchmarkSettings(networks=("small",), sizes=((128, 128, 128), (512, 512, 300)), threads=2)
    assert speed_page.command_of(vars(settings)) == (
        "python Testing/Benchmarks/benchmark.py --output FOLDER --networks small --sizes 128,512x512x300 --threads 2"
    )
