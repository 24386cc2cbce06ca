"""Draw the pages on speed from the results: tables and figures, and the reports of the runs.

    python Testing/Benchmarks/speed_page.py

Each block of a page between `<!-- NAME -->` and `<!-- end -->` is what the function of that name in `BLOCKS` makes
of the files in `results`.
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from inference.report import BEYOND_VOLUMES, mark_of, number, write_markdown
from inference.tasks import BenchmarkSettings, in_way, size_name, split_system, way_title

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGES = (ROOT / "MoBUncertainty" / "Documentation" / "speed.md", RESULTS / "speed.md")
"""What a user wants to know, and all of it."""
RUNS = ("small", "large")
"""Folders of runs, by their networks."""
ENGINES = {"torch": "PyTorch", "openvino": "OpenVINO"}
OPTIONS = {"engines": "engine", "precisions": "precision"}
"""Names of options that are not those of the settings."""

# --- blocks of the page


def compared(results: Path) -> str:
    """Seconds and memory beside stock nnU-Net, by CT and by what computes."""
    return _table(*_beside_stock(results))


def _beside_stock(results: Path) -> tuple[list[str], list[list[str]]]:
    heads = ["CT, voxels", "computed by", "stock, s", "ours, s", "ours / stock", "adaptive tiling / stock"]
    heads += ["30 samples, s", "memory, ours / stock, GB"]
    run, lines = _run(results, "small"), []
    for size in dict.fromkeys(tuple(row["size"]) for row in run["systems"]):
        of = {row["system"]: row for row in run["systems"] if tuple(row["size"]) == size and "failed" not in row}
        for system, row in of.items():
            letter, way = split_system(system)
            if letter != "e" or "a" not in of:
                continue
            stock, adaptive = of["a"], of.get(in_way("e-adaptive", way))
            lines.append(
                [
                    " x ".join(map(str, size)),
                    _way(row),
                    _seconds(stock),
                    _seconds(row),
                    f"{row['volumes_s'] / stock['volumes_s']:.2f}",
                    f"{adaptive['volumes_s'] / stock['volumes_s']:.2f}" if adaptive else "–",
                    _seconds(of.get(in_way("d", way))),
                    f"{row['peak_bytes'] / 1e9:.2f} / {stock['peak_bytes'] / 1e9:.2f}",
                ]
            )
    return heads, lines


def largest(results: Path) -> str:
    """The same of the largest CT alone."""
    heads, lines = _beside_stock(results)
    size = lines[-1][0]
    return f"{size} voxels:\n\n" + _table(heads[1:], [line[1:] for line in lines if line[0] == size])


def beside(results: Path) -> str:
    """What heads and moments, and all that is done beside the volumes, cost."""
    run = _run(results, "small")
    rows = [row for row in run["systems"] if "failed" not in row and split_system(row["system"])[0] == "e"]
    size = max((tuple(row["size"]) for row in rows), key=lambda size: size[0] * size[1] * size[2])
    rows = [row for row in rows if tuple(row["size"]) == size]
    added = [f"{100 * row['stages_s']['moments'] / row['stages_s']['backbone']:.1f} % ({_way(row)})" for row in rows]
    voxels = " x ".join(map(str, size))
    lines = [f"Heads and moments add to the backbone's time, with {voxels} voxels: {', '.join(added)}."]
    rows = [row for row in rows if row["stages_s"].get("scene")] or rows  # one system writes it
    extra = [sum(row["stages_s"].get(name, 0.0) for name in BEYOND_VOLUMES) for row in rows]
    scene = [row["stages_s"].get("scene", 0.0) for row in rows]
    more, most = (number(statistics.median(each)) for each in (extra, scene))
    lines.append(f"Regions, report and Slicer scene take {more} s more, {most} of them the scene.")
    waits = [
        f"{number(statistics.median(each['total'] for each in one['warm']))} s ({_way(one)})"
        for one in run["interactive"]
    ]
    if waits:
        lines.append(f"A region of interest of 128 x 128 x 128 voxels, the model loaded, takes {', '.join(waits)}.")
    return "\n".join(_prose(f"- {line}", "  ") for line in dict.fromkeys(lines))


def accuracy(results: Path) -> str:
    """Number formats and engines beside float32 on the CPU."""
    lines = [
        [
            row["what"],
            number(row["probability_change"]),
            number(row["variance_change"]),
            f"{100 * row['labels_equal']:.4f}",
            f"{row['dice']:.4f}",
        ]
        for row in _read(results / "number-formats.json")
    ]
    return _table(["computed by", "largest change of a probability", "of a variance", "labels equal, %", "Dice"], lines)


def large(results: Path) -> str:
    """The large network beside stock nnU-Net."""
    run = _run(results, "large")
    titles = {
        "a": "stock nnU-Net, no variance",
        "d": "30 samples",
        "e": "closed form",
        "e-adaptive": "closed form, adaptive tiling",
    }
    lines = []
    for row in run["systems"]:
        title = titles.get(split_system(row["system"])[0])
        if "failed" not in row and title:
            stages = row["stages_s"]
            share = f"{100 * stages['moments'] / stages['backbone']:.1f}" if "moments" in stages else "–"
            memory = f"{row['peak_bytes'] / 1e9:.2f}"
            lines.append([f"{title}, {_way(row)}", _seconds(row), number(stages["backbone"]), share, memory])
    heads = ["", "end to end, s", "backbone, s", "heads and moments, % of it", "peak memory, GB"]
    about = next(iter(run["networks"].values()))
    size = " x ".join(map(str, run["systems"][0]["size"]))
    said = f"{about['backbone_parameters'] / 1e6:.0f} million parameters, random weights; a CT of {size} voxels."
    return f"{said}\n\n" + _table(heads, lines)


def slicer(results: Path) -> str:
    """How long Slicer's own thread is busy."""
    shown = _read(results / "slicer.json")["shown"]
    heads = ["what happens", "without drawing, s", "in Slicer 5.13, s"]
    return _table(heads, [[one["what"], f"{one['host_s']:g}", f"{one['slicer_s']:g}"] for one in shown])


def click(results: Path) -> str:
    """How long Slicer's thread computes after a click."""
    clicks = _read(results / "slicer.json")["clicks"]
    times = [f"{one['median_s']:.2f} s with {one['ct']} ({one['max_s']:.2f} s at most)" for one in clicks]
    return _prose(
        "From a click in a slice view to the new outline, heat map and list, Slicer's thread computes for "
        f"{' and for '.join(times)}, in the median of {clicks[0]['clicks']} clicks."
    )


def runs(results: Path) -> str:
    """On what, with what and by which command each comparison was measured."""
    parts = []
    for name in RUNS:
        run = _run(results, name)
        machine = run["machine"]
        versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "nnunetv2"))
        page = f"[{name}]({name}/benchmark.md)"
        said = (
            f"{page}: {machine['processor']}, {machine['cores']} cores "
            f"({', '.join(machine['instructions']) or 'no AVX-512'}); {versions}; commit "
            f"{', '.join(run['revisions_measured'])}; {run['created'][:10]}; load of the computer at the end: "
            f"{machine['load']:.1f}."
        )
        parts.append(f"{_prose(said)}\n\n```sh\n{command_of(run['settings'])}\n```")
    return "\n\n".join(parts)


BLOCKS: dict[str, Callable[[Path], str]] = {
    block.__name__: block
    for block in (
        compared, largest, beside, accuracy, large, slicer, click, runs,
    )
}  # fmt: skip


# --- the page


def draw(page: str, results: Path = RESULTS) -> str:
    """Fill the blocks of a page.

    Raises:
        ValueError: A block has no function, or no end.
    """
    names = re.findall(r"^<!-- (\w+) -->$", page, re.MULTILINE)
    if not set(names[::2]) <= set(BLOCKS) or set(names[1::2]) != {"end"} or len(names) % 2:
        raise ValueError(f"the page has the blocks {names}, and there are functions for {list(BLOCKS)}")

    def fill(match: re.Match[str]) -> str:
        text = BLOCKS[match[1]](results)
        return f"<!-- {match[1]} -->\n\n{text}\n\n<!-- end -->" if text else f"<!-- {match[1]} -->\n<!-- end -->"

    return re.sub(r"^<!-- (?!end )(\w+) -->\n.*?^<!-- end -->$", fill, page, flags=re.MULTILINE | re.DOTALL)


def command_of(settings: dict[str, Any]) -> str:
    """The command of a run, from its settings: what is as usual is left out."""
    words = ["python Testing/Benchmarks/benchmark.py --output FOLDER"]
    for field in fields(BenchmarkSettings):
        value, usual = (_option(field.name, each) for each in (settings[field.name], field.default))
        if value != usual:
            words.append(f"--{OPTIONS.get(field.name, field.name)} {value}")
    return " \\\n    ".join(textwrap.wrap(" ".join(words), 114, break_long_words=False, break_on_hyphens=False))


def _option(name: str, value: Any) -> str:
    if name == "sizes":
        return ",".join(map(size_name, value))
    if isinstance(value, tuple | list):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _run(results: Path, name: str) -> dict[str, Any]:
    run: dict[str, Any] = _read(results / name / "benchmark.json")
    return run


def _way(row: dict[str, Any]) -> str:
    """What computed: as it was asked for, or as it was chosen; sampling is PyTorch's."""
    asked = way_title(row["system"]) if row.get("system") else ""
    return asked or f"{ENGINES[row.get('engine') or 'torch']} {row['precision']}"


def _seconds(row: dict[str, Any] | None) -> str:
    return "–" if row is None else number(row["volumes_s"]) + mark_of(row)


def _prose(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Of Markdown; columns without any entry are left out."""
    kept = [i for i in range(len(heads)) if i == 0 or any(line[i] != "–" for line in lines)]
    rows = [[line[i] for i in kept] for line in (heads, *lines)]
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(kept), *rest])


def main() -> None:
    """Draw the pages, and the reports of the runs."""
    for name in RUNS:
        write_markdown(_run(RESULTS, name), RESULTS / name)
    for page in PAGES:
        page.write_text(draw(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
