"""`gpu-check.json` and `gpu-check.md`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from inference.gpu.rows import FAILED, OK, SKIPPED, Row
from inference.report import number

JSON, MARKDOWN = "gpu-check.json", "gpu-check.md"
TITLES = {
    "tiles": "One tile: every number format",
    "samples": "Samples beside the closed form",
    "predictions": "Whole predictions",
    "memory": "When memory runs out",
}
COLUMNS = {
    "warm_s": "s",
    "first_s": "first time, s",
    "a_ms": "(a) network alone, ms",
    "d_ms": "(d) Monte Carlo, ms",
    "e_ms": "(e) closed form, ms",
    "drawing_ms": "drawing, ms",
    "peak_gb": "peak GPU memory, GB",
    "network_gb": "the network needs, GB",
    "weights_gb": "weights, GB",
    "sums_gb": "sums, GB",
    "budget_gb": "given, GB",
    "probability_change": "largest change of a probability",
    "variance_change": "of a variance",
    "labels_equal": "labels equal, %",
    "dice": "Dice",
    "organ_voxels": "organ, voxels",
    "k": "K",
    "voxels": "voxels",
    "error_over_expected": "error / expected",
    "variance_ratio": "variance / exact",
    "said": "said",
}
NOTES = (
    "Changes are those from float32 on the CPU. Milliseconds are medians of warm runs on the GPU's own clock. (d) "
    "is the network and K samples, (e) is everything.",
    "*error / expected* is the error of the samples' mean in units of what K samples are expected to have; 1 is right.",
    "float32 without TF32 was computed with TF32 switched off. PyTorch allows it for convolutions by default, so that "
    "float32 of `predict` on a GPU is the row *float32, TF32*.",
    "The large network has random weights; they are held to no bounds.",
)


def write_report(
    folder: Path, rows: Sequence[Row], machine: dict[str, Any], device: torch.device, seconds: float, budget: float
) -> dict[str, Any]:
    """Write both files; returns the content of the JSON file."""
    found = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine | {"gpu": gpu(device)},
        "device": str(device),
        "seconds": seconds,
        "budget_s": budget,
        "counts": {status: sum(row.status == status for row in rows) for status in (OK, FAILED, SKIPPED)},
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(found, indent=2, ensure_ascii=False, default=float)
    (folder / JSON).write_text(text + "\n", encoding="utf-8")
    (folder / MARKDOWN).write_text(markdown(found), encoding="utf-8")
    return found


def gpu(device: torch.device) -> dict[str, Any] | None:
    """What the GPU is, and how PyTorch uses it; None without one."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda or f"ROCm {torch.version.hip}",
        "cudnn": torch.backends.cudnn.version(),
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
    }


def markdown(found: dict[str, Any]) -> str:
    """The check as text: one table for each step, and what failed or was skipped."""
    rows = [Row(**row) for row in found["rows"]]
    counts = found["counts"]
    parts = [
        "# GPU check",
        _machine(found),
        f"{counts[OK]} of {len(rows)} rows are as they should be, {counts[FAILED]} failed, {counts[SKIPPED]} were "
        f"skipped; {found['seconds']:.0f} s of {found['budget_s']:.0f} s.",
    ]
    bad = [row for row in rows if row.status != OK]
    parts.append("\n".join(f"- {row.status}: {row.step}, {row.what}: {row.why}" for row in bad))
    for step, title in TITLES.items():
        own = [row for row in rows if row.step == step and row.values]
        if own:
            parts += [f"## {title}", table(own)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in NOTES)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Rows of one step as Markdown, with the columns that any of them has."""
    names = [name for name in COLUMNS if any(name in row.values for row in rows)]
    lines = [["", *(COLUMNS[name] for name in names), "holds"]]
    lines += [[row.what, *(_cell(name, row.values) for name in names), _holds(row)] for row in rows]
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rest])


def _holds(row: Row) -> str:
    return "yes" if row.status == OK else "**no**"


def _cell(name: str, values: dict[str, Any]) -> str:
    value = values.get(name)
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if name == "labels_equal":
        return f"{100 * value:.4f}"
    if name == "dice":
        return f"{value:.4f}"
    return str(value) if isinstance(value, int) else number(value)


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    card = machine["gpu"]
    lines = [
        "No GPU was used: this is the small check on the CPU."
        if card is None
        else f"{card['name']}, {card['memory_bytes'] / 2**30:.0f} GiB, compute capability {card['capability']}, CUDA "
        f"{card['cuda']}, cuDNN {card['cudnn']}; bfloat16 {'yes' if card['bfloat16'] else 'no'}; TF32 by default in "
        f"convolutions {'yes' if card['tf32_convolutions'] else 'no'}, in matrix products "
        f"{'yes' if card['tf32_products'] else 'no'}.",
        f"{machine['processor']}, {machine['cores']} cores; {machine['system']}.",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; commit {machine['revision'] or 'unknown'}; {found['created'][:10]}.",
    ]
    return "\n".join(f"- {line}" for line in lines)
