"""The paper's Table 1 for data sets converted here: cases by part of the split, and the volumes of the structures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mob_training.data.datasets import CASES_FILE, LEFT_OUT
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.files.publishing import absolute, write_file

COLUMNS = {
    "structure": "Structure",
    "cases": "Cases",
    "train": "Train",
    "val": "Val",
    "test": "Test",
    "left_out": "Left out",
    "mean_ml": "Mean, ml",
    "std_ml": "SD, ml",
    "median_ml": "Median, ml",
    "min_ml": "Min, ml",
    "max_ml": "Max, ml",
}


def describe(dataset: Path) -> list[dict[str, object]]:
    """Return one row, keys as in `COLUMNS`, for each structure of a raw data set. Volumes are over the cases in use.

    Raises:
        SettingsError: The folder was not written by this program.
    """
    dataset = Path(dataset)
    if not (dataset / CASES_FILE).exists() or not (dataset / "dataset.json").exists():
        raise SettingsError(f"{dataset} has no {CASES_FILE}; convert it by mob-training.")
    with (dataset / CASES_FILE).open(newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    labels = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"]
    used = {part: [case for case in cases if case["part"] == part] for part in ("train", "val", "test")}
    rows = []
    for structure in (name for name, value in labels.items() if value != 0):
        shown = [float(case[f"{structure}_ml"] or 0) for part in used.values() for case in part]
        volumes = np.array([volume for volume in shown if volume > 0] or [np.nan])
        deviation = volumes.std(ddof=1) if len(volumes) > 1 else 0.0
        summary = (volumes.mean(), deviation, np.median(volumes), volumes.min(), volumes.max())
        names = ("mean_ml", "std_ml", "median_ml", "min_ml", "max_ml")
        rows.append(
            {"structure": structure.replace("_", " "), "cases": sum(map(len, used.values()))}
            | {part: len(members) for part, members in used.items()}
            | {"left_out": sum(case["part"] == LEFT_OUT for case in cases)}
            | {name: round(float(value), 2) for name, value in zip(names, summary, strict=True)}
        )
    return rows


def write_table(datasets: Sequence[Path], output: Path) -> Path:
    """Write `table1.csv` and `table1.md`; return the latter.

    Raises:
        SettingsError: A folder was not written by this program.
        OSError: They cannot be written.
    """
    rows, output = [row for dataset in datasets for row in describe(dataset)], absolute(output)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(COLUMNS))
    writer.writeheader()
    writer.writerows(rows)
    write_file(output / "table1.csv", lambda partial: partial.write_bytes(file.getvalue().encode()))
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(_shown(row[name]) for name in COLUMNS) + " |" for row in rows]
    path = output / "table1.md"
    write_file(path, lambda partial: partial.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return path


def _shown(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
