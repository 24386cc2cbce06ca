"""From measurements to medians, ratios and whether the targets hold. Pure arithmetic: nothing is measured here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from inference.tasks import SYSTEMS, in_way, network_name, size_title, split_system, way_title

STAGES = (
    "read", "preprocess", "backbone", "moments", "blend", "resample", "write", "other", "regions", "report", "scene",
)  # fmt: skip
BEYOND_VOLUMES = ("regions", "report", "scene")
"""Stages that stock nnU-Net has no counterpart of; ratios to it are without them."""
END_TO_END = {(128, 128, 128): (0.6, 0.3), (512, 512, 300): (0.2, 0.08)}
"""Largest ratio of (e) to (a) with the small network, and with AMX, which computes bfloat16 several times as fast."""

Entry = dict[str, Any]
Row = dict[str, Any]


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
    made = []
    for (network, size, system), group in groups.items():
        results = [entry["result"] for entry in group if "result" in entry]
        row: Row = {"network": network, "size": list(size), "system": system}
        made.append(row | (_medians(results) if results else {"failed": group[-1]["failed"]}))
    networks, systems = list(dict.fromkeys(row["network"] for row in made)), list(SYSTEMS)
    place = {id(row): (networks.index(row["network"]), _count(row["size"])) for row in made}
    return sorted(made, key=lambda row: (*place[id(row)], systems.index(split_system(row["system"])[0])))


def _medians(results: Sequence[dict[str, Any]]) -> Row:
    warm = [run for result in results for run in result["warm"]]
    runs = warm or [result["cold"] for result in results]
    names = {name for run in runs for name in run["stages"]}
    ordered = [*(n for n in STAGES if n in names), *sorted(names - set(STAGES))]

    def median(values: Iterable[float]) -> float:
        return float(statistics.median(values))

    last = results[-1]
    gpu = [result["gpu_peak_bytes"] for result in results if "gpu_peak_bytes" in result]
    return {
        "runs": len(runs),
        "first_run_only": not warm,
        "total_s": median(run["total"] for run in runs),
        "volumes_s": median(volumes_seconds(run) for run in runs),
        "stages_s": {name: median(run["stages"].get(name, 0.0) for run in runs) for name in ordered},
        "import_s": median(result["import_s"] for result in results),
        "load_s": median(result["load_s"] for result in results),
        "cold_s": median(result["import_s"] + result["load_s"] + result["cold"]["total"] for result in results),
        "peak_bytes": max(result["peak_bytes"] for result in results),
        "gpu_peak_bytes": max(gpu) if gpu else None,
        **{name: last.get(name) for name in ("tiles", "input_voxels", "device", "engine", "precision")},
    }


def volumes_seconds(run: dict[str, Any]) -> float:
    """Seconds of a run from the CT's file to those of segmentation, probability and variance."""
    return run["total"] - sum(run["stages"].get(name, 0.0) for name in BEYOND_VOLUMES)


def targets(
    table: Sequence[Row], entries: Sequence[Entry], networks: dict[str, Any], amx: bool = False
) -> list[dict[str, Any]]:
    """What must be shown: ratios, each with its bound and whether it holds.

    Args:
        table: Of `rows`.
        entries: The measurements.
        networks: What `networks.describe` says, by name.
        amx: The processor has AMX.
    """
    found = []
    by = {(row["network"], tuple(row["size"]), row["system"]): row for row in table if "failed" not in row}
    for network, size in dict.fromkeys((row["network"], tuple(row["size"])) for row in table):
        systems = {system: row for (n, s, system), row in by.items() if (n, s) == (network, size)}
        random = bool(networks.get(network, {}).get("random_weights"))
        for way in dict.fromkeys(split_system(s)[1] for s in systems if s.startswith("e")):
            own = {letter: systems[s] for letter in SYSTEMS if (s := in_way(letter, way)) in systems}
            found += _ratios(network, size, own, random, way_title(in_way("e", way)), amx)
    for entry in entries:
        if entry["task"]["kind"] == "sampling" and "result" in entry:
            found += _sampling_ratio(entry)
        if entry["task"]["kind"] == "interactive" and "result" in entry:
            found.append(_region_seconds(entry, amx))
        if entry["task"]["kind"] == "distance" and "result" in entry:
            found += _distance(entry)
    return found


def _ratios(
    network: str, size: tuple, systems: dict[str, Row], random: bool, way: str, amx: bool
) -> list[dict[str, Any]]:
    """Of one network, CT and way; random weights find no organ, so adaptive tiling is not judged by them."""
    where = ", ".join(filter(None, (network_name(network), size_title(size), way)))
    bounds = {"small": 0.10, "large": 0.02}
    whole_ct = size == (512, 512, 300)
    fast = amx and systems.get("e", {}).get("precision") == "bfloat16"
    end_to_end = END_TO_END.get(size, (1.0, 1.0))[fast] if network == "small" else 1.0
    wanted = [
        ("(e) / (a), end to end", "e", "a", "volumes_s", end_to_end, True),
        ("(d) / (e), end to end", "d", "e", "volumes_s", 1.1 if network == "large" else None, True),
        ("(a) / (e-adaptive), end to end", "a", "e-adaptive", "volumes_s", None if random else 2.5, False),
        (
            "tiles, full / adaptive",
            "e",
            "e-adaptive",
            "tiles",
            None if random else 1.8 if size == (512, 512, 300) else None,
            False,
        ),
        ("peak memory, (e) / (a)", "e", "a", "peak_bytes", 0.45 if whole_ct else None, True),
    ]
    found = []
    for what, over, under, name, bound, at_most in wanted:
        if over in systems and under in systems and systems[under].get(name) and systems[over].get(name):
            mark = mark_of(systems[over]) or mark_of(systems[under])
            found.append(_target(what, where, systems[over][name] / systems[under][name], bound, at_most, mark))
    if "e" in systems:
        stages = systems["e"]["stages_s"]
        share = stages["moments"] / stages["backbone"]
        mark = mark_of(systems["e"])
        found.append(_target("(e): heads and moments / backbone", where, share, bounds.get(network), True, mark))
    return found


def _distance(entry: Entry) -> list[dict[str, Any]]:
    """Of a whole case to its limit, and what report and scene add; bounds are those of a CT of 512 x 512 x 300."""
    task, result = entry["task"], entry["result"]
    size = tuple(task["size"])
    where = ", ".join(filter(None, (network_name(task["network"]), size_title(size), way_title(task["system"]))))
    wanted = [("end to end / (reading + network + writing)", result["end_to_end_s"] / sum(result["limit_s"].values()))]
    wanted += [(f"{name}, s more", seconds) for name, seconds in result["around_s"].items()]
    bounds = dict(zip((what for what, _ in wanted), (1.3, 1.0, 2.0), strict=False)) if size == (512, 512, 300) else {}
    return [_target(what, where, value, bounds.get(what), at_most=True) for what, value in wanted]


def _sampling_ratio(entry: Entry) -> list[dict[str, Any]]:
    network, result = entry["task"]["network"], entry["result"]
    k = str(entry["task"]["options"]["samples"])
    if k not in result["c_s"]:
        return []
    ratio = result["c_s"][k] / result["e_s"]
    return [_target(f"(c) / (e), sampling stage, K = {k}", network_name(network), ratio, 50.0, at_most=False)]


def _region_seconds(entry: Entry, amx: bool) -> dict[str, Any]:
    task, result = entry["task"], entry["result"]
    where = ", ".join(filter(None, (network_name(task["network"]), way_title(task["system"] or "e"))))
    seconds = statistics.median(run["total"] for run in result["warm"])
    fast = amx and result["precision"] == "bfloat16"
    return _target("region of 128 x 128 x 128 voxels, warm, s", where, seconds, 1.0 if fast else None, True)


def mark_of(row: Row) -> str:
    """`†` where only a first run was made."""
    return "†" if row["first_run_only"] else ""


def number(value: float) -> str:
    """Three digits that count, without exponents for large ones."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _target(what: str, where: str, value: float, bound: float | None, at_most: bool, mark: str = "") -> dict[str, Any]:
    met = None if bound is None else bool(value <= bound if at_most else value >= bound)
    return {
        "what": what, "where": where, "value": float(value), "bound": bound, "at_most": at_most, "met": met,
        "marks": mark,
    }  # fmt: skip


def _count(size: Sequence[int]) -> int:
    return int(np.prod(size, dtype=np.int64))
