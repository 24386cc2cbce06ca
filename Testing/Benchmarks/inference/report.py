"""`benchmark.json`, `benchmark.md` and the pictures that it shows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference.plots import draw_stages
from inference.summary import STAGES, Row, mark_of, number, rows, targets
from inference.tasks import (
    SYSTEMS,
    BenchmarkSettings,
    Task,
    network_name,
    size_title,
    system_title,
    way_title,
)

NOTES = (
    "Seconds are medians of warm runs; the first run is reported apart, as importing and loading are.",
    "*End to end* is from the CT's file to the files of segmentation, probability and, but for (a), variance. What "
    "stock nnU-Net has no counterpart of (regions, overlay and report, Slicer scene) comes on top and stands apart.",
    "(a) goes nnU-Net's way without further processes, with its own preprocessing and export, without mirroring.",
    "*Distance to the limit* has warm runs of its own; plain calls do about the same work without checks, those of "
    "SimpleITK with all of its threads.",
    "Peak memory is that of the measurement's own process, all stages included; the scene is written by another one.",
    "† no warm run fitted the limit, so the first one counts, which is slower.",
)


PICTURE = "stages.png"


def write_report(
    folder: Path, settings: BenchmarkSettings, entries: Sequence[dict[str, Any]], machine: dict[str, Any]
) -> dict[str, Any]:
    """Write the report of these measurements.

    Returns:
        The content of `benchmark.json`.
    """
    networks = {e["task"]["network"]: e["result"] for e in entries if e["task"]["kind"] == "network" and "result" in e}
    table = rows(entries)
    failed = [{"what": Task(**e["task"]).title, "why": e["failed"]} for e in entries if "failed" in e]
    gpus = sorted({e["result"]["gpu"] for e in entries if "gpu" in e.get("result", {})})
    summary = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine | {"gpu": ", ".join(gpus) or None},
        "revisions_measured": sorted({str(e["revision"]) for e in entries}),
        "settings": asdict(settings),
        "networks": networks,
        "targets": targets(table, entries, networks, amx="amx_bf16" in machine.get("instructions", ())),
        "systems": table,
        "sampling": _of("sampling", entries),
        "interactive": _of("interactive", entries),
        "distance": _of("distance", entries),
        "failed": failed,
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    write_markdown(summary, folder)
    return summary


def write_markdown(summary: dict[str, Any], folder: Path) -> None:
    """Write `benchmark.md`, and draw its picture."""
    measured = [row for row in summary["systems"] if "failed" not in row]
    if measured:
        draw_stages(measured, folder / PICTURE)
    (folder / "benchmark.md").write_text(markdown(summary), encoding="utf-8")


def markdown(summary: dict[str, Any]) -> str:
    """The report as text."""
    parts = ["# Inference benchmark", _machine(summary), "## What must be shown", _targets(summary["targets"])]
    for network in dict.fromkeys(row["network"] for row in summary["systems"]):
        parts.append(f"## Seconds and memory: network {network_name(network)}")
        parts.append(_network(summary["networks"].get(network, {})))
        own = [row for row in summary["systems"] if row["network"] == network]
        for size in dict.fromkeys(tuple(row["size"]) for row in own):
            parts += [f"### {size_title(size)} voxels", _systems([row for row in own if tuple(row["size"]) == size])]
    parts += [_sampling(summary["sampling"]), distance_table(summary["distance"]), _latency(summary["interactive"])]
    parts += [f"![stages]({PICTURE})"] * any("failed" not in row for row in summary["systems"])
    failed = [f"Not measured: {each['what']}: {each['why']}" for each in summary["failed"]]
    parts += ["## Notes", "\n".join(f"- {note}" for note in (*NOTES, *failed))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(summary: dict[str, Any]) -> str:
    machine, settings = summary["machine"], summary["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if machine["memory_bytes"] else ""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores{memory}; GPU: {machine['gpu'] or 'none used'}; "
        f"{machine['system']}.",
        f"{versions}; commit {', '.join(summary['revisions_measured']) or 'unknown'}.",
        f"{summary['created'][:10]}; device {settings['device']}, threads {settings['threads'] or 'as torch chooses'}, "
        f"K = {settings['samples']}, {settings['rounds']} rounds of {settings['repeats']} warm runs each, "
        f"limit {settings['limit']:g} s a measurement.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _targets(found: Sequence[dict[str, Any]]) -> str:
    def bound(target: dict[str, Any]) -> str:
        return "" if target["bound"] is None else f"{'≤' if target['at_most'] else '≥'} {target['bound']:g}"

    words = {True: "yes", False: "**no**", None: ""}
    return _table(
        ("ratio", "where", "value", "wanted", "holds"),
        [(t["what"], t["where"], number(t["value"]) + t["marks"], bound(t), words[t["met"]]) for t in found],
    )


def _network(about: dict[str, Any]) -> str:
    if not about:
        return ""
    weights = ", random weights" if about["random_weights"] else ""
    backbone, head = about["backbone_parameters"] / 1e6, about["head_parameters"]
    patch, spacing = (" x ".join(f"{n:g}" for n in about[name]) for name in ("patch", "spacing_mm"))
    return f"{backbone:.3g} million parameters, {head:,} in the head{weights}; patch {patch}, spacing {spacing} mm."


def _systems(table: Sequence[Row]) -> str:
    """One column for each system, one line for each stage."""
    good = [row for row in table if "failed" not in row]
    names = [name for name in STAGES if any(name in row["stages_s"] for row in good)]
    names += sorted({name for row in good for name in row["stages_s"]} - set(STAGES))

    def line(title: str, value: Any) -> tuple[str, ...]:
        return (title, *(value(row) for row in good))

    lines = [
        line(name, lambda row, name=name: number(row["stages_s"][name]) if name in row["stages_s"] else "–")
        for name in names
    ]
    lines += [
        line("**end to end, s**", lambda row: f"**{number(row['volumes_s'])}**{mark_of(row)}"),
        line("with regions, report, scene, s", lambda row: number(row["total_s"])),
        line("first run with importing and loading, s", lambda row: number(row["cold_s"])),
        line("- importing, s", lambda row: number(row["import_s"])),
        line("- loading, s", lambda row: number(row["load_s"])),
        line("peak memory, GB", lambda row: number(row["peak_bytes"] / 1e9)),
        line("tiles", lambda row: str(row["tiles"] or "–")),
        line("runs", lambda row: str(row["runs"])),
        line("device", lambda row: f"{row['device']}, {row['precision']}"),
        line("engine", lambda row: row.get("engine") or "–"),
    ]
    if any(row["gpu_peak_bytes"] for row in good):
        lines.append(line("peak GPU memory, GB", lambda row: number((row["gpu_peak_bytes"] or 0) / 1e9)))
    heads = ("stage, s", *(system_title(row["system"]) for row in good))
    return _table(heads, lines) if good else ""


def _sampling(entries: Sequence[dict[str, Any]]) -> str:
    parts = []
    for entry in entries:
        ks = list(dict.fromkeys((*entry["c_s"], *entry["d_s"])))
        lines = [
            (title, *(number(entry[f"{letter}_s"][k]) if k in entry[f"{letter}_s"] else "–" for k in ks))
            for letter, title in (("c", "Eq. 14 literally, K samples"), ("d", SYSTEMS["d"]))
        ]
        lines.append((SYSTEMS["e"], *[number(entry["e_s"])] * len(ks)))
        patch = " x ".join(map(str, entry["patch"]))
        parts.append(
            f"### {network_name(entry['network'])}, {patch} voxels\n\nBackbone {number(entry['backbone_s'])} s "
            f"({entry['precision']}), head {number(entry['head_s'])} s.\n\n"
            + _table(("seconds of one tile", *(f"K = {k}" for k in ks)), lines)
        )
    return "\n\n".join(["## The sampling stage alone", *parts]) if parts else ""


def _latency(entries: Sequence[dict[str, Any]]) -> str:
    lines = []
    for entry in entries:
        runs = [run["total"] for run in entry["warm"]]
        parts = (network_name(entry["network"]), size_title(entry["size"]), f"{entry['tiles']} tiles")
        where = ", ".join(filter(None, (*parts, way_title(entry.get("system") or "e"))))
        lines.append((f"first result in 128 x 128 x 128 voxels ({where})", number(statistics.median(runs))))
    return "## What a user waits for, warm\n\n" + _table(("", "seconds, median"), lines) if lines else ""


def distance_table(entries: Sequence[dict[str, Any]]) -> str:
    """How far cases are from their limit; empty where none was measured."""
    parts = []
    for entry in entries:
        limit, per_voxel = entry["limit_s"], 1e9 / entry["voxels"]
        sums = ", ".join(f"{name} {number(seconds)} s" for name, seconds in limit.items())
        lines = [
            (name, number(seconds * per_voxel), number(entry["plain_s"][name] * per_voxel), entry["plain"][name])
            for name, seconds in entry["stages_s"].items()
        ]
        more = ", ".join(f"the {name} {number(seconds)} s" for name, seconds in entry["around_s"].items())
        parts.append(
            f"### {network_name(entry['network'])}, {size_title(entry['size'])}, {entry['tiles']} tiles\n\n"
            f"From the CT's file to volumes and regions {number(entry['end_to_end_s'])} s; the limit is "
            f"{number(sum(limit.values()))} s ({sums}). On top come {more}.\n\n"
            + _table(("stage", "ns a voxel", "plain call, ns a voxel", "plain call"), lines)
        )
    return "\n\n".join(["## Distance to the limit", *parts]) if parts else ""


def _of(kind: str, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of a kind of measurement, with the network, the size and the system they are of."""
    return [
        {**{name: e["task"][name] for name in ("network", "size", "system")}, **e["result"]}
        for e in entries
        if e["task"]["kind"] == kind and "result" in e
    ]


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Of Markdown; the first column is text, the others are numbers."""
    rule = "| --- |" + " ---: |" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])
