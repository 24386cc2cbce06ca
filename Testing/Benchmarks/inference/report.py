"""`benchmark.json` and `benchmark.md`: medians of the measurements."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from inference.tasks import (
    ENGINES,
    SYSTEMS,
    BenchmarkSettings,
    Task,
    in_way,
    network_name,
    size_title,
    split_system,
    system_title,
    way_title,
)

STAGES = (
    "read", "preprocess", "backbone", "moments", "blend", "resample", "write", "other", "regions", "report", "scene",
)  # fmt: skip
BEYOND_VOLUMES = ("regions", "report", "scene")
"""Stages that stock nnU-Net has no counterpart of; ratios to it are without them."""
BESIDE_STOCK = (
    "CT, voxels", "computed by", "stock, s", "ours, s", "ours / stock", "adaptive tiling / stock", "K samples, s",
    "memory, ours / stock, GB", "heads and moments, % of the backbone",
)  # fmt: skip
NOTES = (
    "Seconds are medians of warm runs; the first run is reported apart, as importing and loading are.",
    "*End to end* is from the CT's file to the files of segmentation, probability and, but for (a), variance. What "
    "stock nnU-Net has no counterpart of (regions, overlay and report, Slicer scene) comes on top and stands apart.",
    "(a) goes nnU-Net's way without further processes, with its own preprocessing and export, without mirroring.",
    "Peak memory is that of the measurement's own process, all stages included; the scene is written by another one.",
    "† no warm run fitted the limit, so the first one counts, which is slower.",
)

Entry = dict[str, Any]
Row = dict[str, Any]


def write_report(
    folder: Path, settings: BenchmarkSettings, entries: Sequence[Entry], machine: dict[str, Any]
) -> dict[str, Any]:
    """Write the report of these measurements; return the content of `benchmark.json`."""
    networks = {e["task"]["network"]: e["result"] for e in entries if e["task"]["kind"] == "network" and "result" in e}
    gpus = sorted({e["result"]["gpu"] for e in entries if "gpu" in e.get("result", {})})
    summary = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine | {"gpu": ", ".join(gpus) or None},
        "revisions_measured": sorted({str(e["revision"]) for e in entries}),
        "settings": asdict(settings),
        "networks": networks,
        "systems": rows(entries),
        "failed": [{"what": Task(**e["task"]).title, "why": e["failed"]} for e in entries if "failed" in e],
    }
    text = json.dumps(summary, ensure_ascii=False, separators=(",", ":"))
    (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    write_markdown(summary, folder)
    return summary


def rows(entries: Iterable[Entry]) -> list[Row]:
    """Medians of each system for each network and size: networks as they were measured, sizes and systems in order.

    Where no warm run fitted the limit, the first one stands for them (`first_run_only`); a system of which no
    measurement succeeded has only the reason why (`failed`).
    """
    groups: defaultdict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        task = entry["task"]
        if task["kind"] == "system":
            groups[task["network"], tuple(task["size"]), task["system"]].append(entry)
    networks, systems = list(dict.fromkeys(network for network, _, _ in groups)), list(SYSTEMS)

    def place(key: tuple) -> tuple[int, int, int]:
        network, size, system = key
        return networks.index(network), int(np.prod(size, dtype=np.int64)), systems.index(split_system(system)[0])

    made = []
    for key in sorted(groups, key=place):
        (network, size, system), group = key, groups[key]
        results = [entry["result"] for entry in group if "result" in entry]
        row: Row = {"network": network, "size": list(size), "system": system}
        made.append(row | (_medians(results) if results else {"failed": group[-1]["failed"]}))
    return made


def _medians(results: Sequence[dict[str, Any]]) -> Row:
    warm = [run for result in results for run in result["warm"]]
    runs = warm or [result["cold"] for result in results]
    names = {name for run in runs for name in run["stages"]}
    ordered = [*(n for n in STAGES if n in names), *sorted(names - set(STAGES))]

    def median(values: Iterable[float]) -> float:
        return float(statistics.median(values))

    gpu = [result["gpu_peak_bytes"] for result in results if "gpu_peak_bytes" in result]
    return {
        "runs": len(runs),
        "first_run_only": not warm,
        "total_s": median(run["total"] for run in runs),
        "volumes_s": median(
            run["total"] - sum(run["stages"].get(name, 0.0) for name in BEYOND_VOLUMES) for run in runs
        ),
        "stages_s": {name: median(run["stages"].get(name, 0.0) for run in runs) for name in ordered},
        "import_s": median(result["import_s"] for result in results),
        "load_s": median(result["load_s"] for result in results),
        "cold_s": median(result["import_s"] + result["load_s"] + result["cold"]["total"] for result in results),
        "peak_bytes": max(result["peak_bytes"] for result in results),
        "gpu_peak_bytes": max(gpu) if gpu else None,
        **{name: results[-1].get(name) for name in ("tiles", "input_voxels", "device", "engine", "precision")},
    }


def write_markdown(summary: dict[str, Any], folder: Path) -> None:
    """Write `benchmark.md`."""
    parts = ["# Inference benchmark", _machine(summary)]
    for network in dict.fromkeys(row["network"] for row in summary["systems"]):
        own = [row for row in summary["systems"] if row["network"] == network]
        parts += [f"## Seconds and memory: network {network_name(network)}", _network(summary["networks"][network])]
        parts.append(beside_stock(own))
        for size in dict.fromkeys(tuple(row["size"]) for row in own):
            parts += [f"### {size_title(size)} voxels", systems([row for row in own if tuple(row["size"]) == size])]
    failed = [f"Not measured: {each['what']}: {each['why']}" for each in summary["failed"]]
    parts += ["## Notes", "\n".join(f"- {note}" for note in (*NOTES, *failed))]
    (folder / "benchmark.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _machine(summary: dict[str, Any]) -> str:
    machine, settings = summary["machine"], summary["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB of memory; "
        f"GPU: {machine['gpu'] or 'none used'}; {machine['system']}.",
        f"{versions}; commit {', '.join(summary['revisions_measured'])}.",
        f"{summary['created'][:10]}; device {settings['device']}, threads {settings['threads'] or 'as torch chooses'}, "
        f"K = {settings['samples']}, {settings['rounds']} rounds of {settings['repeats']} warm runs each, "
        f"limit {settings['limit']:g} s a measurement.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _network(about: dict[str, Any]) -> str:
    weights = ", random weights" if about["random_weights"] else ""
    backbone, head = about["backbone_parameters"] / 1e6, about["head_parameters"]
    patch, spacing = (" x ".join(f"{n:g}" for n in about[name]) for name in ("patch", "spacing_mm"))
    return f"{backbone:.3g} million parameters, {head:,} in the head{weights}; patch {patch}, spacing {spacing} mm."


def beside_stock(table: Sequence[Row]) -> str:
    """Tabulate what matters most, ours beside stock nnU-Net: a line for each CT, engine and precision."""
    lines = []
    for row in table:
        letter, way = split_system(row["system"])
        of = {each["system"]: each for each in table if each["size"] == row["size"] and "failed" not in each}
        stock, adaptive, sampled = (of.get(name) for name in ("a", in_way("e-adaptive", way), in_way("d", way)))
        if letter == "e" and stock and "failed" not in row:
            lines.append(
                [
                    size_title(row["size"]),
                    way_title(row["system"]) or f"{ENGINES[row['engine']]} {row['precision']}",
                    number(stock["volumes_s"]) + mark_of(stock),
                    number(row["volumes_s"]) + mark_of(row),
                    f"{row['volumes_s'] / stock['volumes_s']:.2f}",
                    f"{adaptive['volumes_s'] / stock['volumes_s']:.2f}" if adaptive else "–",
                    number(sampled["volumes_s"]) + mark_of(sampled) if sampled else "–",
                    f"{row['peak_bytes'] / 1e9:.2f} / {stock['peak_bytes'] / 1e9:.2f}",
                    f"{100 * row['stages_s']['moments'] / row['stages_s']['backbone']:.1f}",
                ]
            )
    return _table(BESIDE_STOCK, lines) if lines else ""


def systems(table: Sequence[Row]) -> str:
    """Tabulate the stages: one column for each system, one line for each stage."""
    good = [row for row in table if "failed" not in row]
    if not good:
        return ""
    names = [name for name in STAGES if any(name in row["stages_s"] for row in good)]
    cells: dict[str, Callable[[Row], str]] = {
        name: lambda row, name=name: number(row["stages_s"][name]) if name in row["stages_s"] else "–" for name in names
    }
    cells |= {
        "**end to end, s**": lambda row: f"**{number(row['volumes_s'])}**{mark_of(row)}",
        "with regions, report, scene, s": lambda row: number(row["total_s"]),
        "first run with importing and loading, s": lambda row: number(row["cold_s"]),
        "- importing, s": lambda row: number(row["import_s"]),
        "- loading, s": lambda row: number(row["load_s"]),
        "peak memory, GB": lambda row: number(row["peak_bytes"] / 1e9),
        "tiles": lambda row: str(row["tiles"] or "–"),
        "runs": lambda row: str(row["runs"]),
        "device": lambda row: f"{row['device']}, {row['precision']}",
        "engine": lambda row: row["engine"] or "–",
    }
    if any(row["gpu_peak_bytes"] for row in good):
        cells["peak GPU memory, GB"] = lambda row: number((row["gpu_peak_bytes"] or 0) / 1e9)
    heads = ["stage, s", *(system_title(row["system"]) for row in good)]
    return _table(heads, [[title, *map(cell, good)] for title, cell in cells.items()])


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Of Markdown; the first column is text, the others are numbers."""
    rule = "| --- |" + " ---: |" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def mark_of(row: Row) -> str:
    """`†` where only a first run was made."""
    return "†" if row["first_run_only"] else ""


def number(value: float) -> str:
    """Three digits that count, without exponents for large ones."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
