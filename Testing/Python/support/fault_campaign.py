"""The fault campaign: all kinds of faults, counted.

`python -m support.fault_campaign [--output FOLDER] [--share 1.0]` runs all of it, prints its figures as a table and
writes `faults.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.fault_kinds import make_kinds
from support.faults import SEED, Figures

ABOUT = """# Faults

What came of faults that were put in on purpose, by `python -m support.fault_campaign` (in Testing/Python).

- *killed*: what is there at once is looked at; then the command runs again, without `--overwrite`. What was there must
  be refused and whole, what was not there must be made, and nothing hidden may be left in the end.
- *flipped*: one bit of a file. In a stream with a checksum, and in a file whose SHA-256 is recorded, it must be refused
  unless nothing depends on it. Other images are read twice, and compared with what SimpleITK or pydicom reads. Of
  `model.json` only the form is checked.
- *mutants*: one to three changes. They are taken, or refused in one sentence.

A traceback, a crash, a sentence too long, more than 60 s, a difference between two readings, anything lost: failures.
"""


def table(all_figures: Sequence[Figures]) -> str:
    """Markdown."""
    lines = ["| fault | number | what came of it | slowest, s | failures |", "| --- | ---: | --- | ---: | ---: |"]
    for each in all_figures:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in each.outcomes.most_common())
        lines.append(f"| {each.name} | {each.count} | {outcomes} | {each.slowest_s:.1f} | {len(each.failures)} |")
    total = sum(each.count for each in all_figures)
    lines.append(f"| all | {total} | | | {sum(len(each.failures) for each in all_figures)} |")
    return "\n".join(lines)


def write(folder: Path, found: Sequence[Figures]) -> None:
    """Write `faults.json` and, with the table, `faults.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"seed": SEED, "faults": [vars(each) for each in found]}
    (folder / "faults.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "faults.md").write_text(f"{ABOUT}\n{table(found)}\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put in faults and count what came of them.")
    parser.add_argument("--output", type=Path, help="folder for faults.json and faults.md")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults, from 0 to 1")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        kinds = make_kinds(Path(folder), options.share)
        found = []
        for name, measure in kinds.items():
            if options.only in name:
                found.append(measure())
                print(f"{found[-1].name}: {dict(found[-1].outcomes)}", *found[-1].failures[:3], sep="\n  ", flush=True)
    print(table(found))
    if options.output:
        write(options.output, found)
    return int(any(each.failures for each in found))


if __name__ == "__main__":
    sys.exit(main())
