"""Makes the rows of `test_bad_input`'s table on disk, for those who cannot import torch: `python bad_inputs.py FOLDER`.

Prints JSON: for each row the `source`, the `model`, the `output` and the `sentence` that the user is to read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import test_bad_input as table


def make(folder: Path) -> dict[str, dict[str, str]]:
    (folder / "good").mkdir()
    good = table.make_good(folder / "good")
    rows = {}
    for name, (change, sentence) in ({"good": (lambda run: run, "")} | table.REFUSED | table.WORKED_AROUND).items():
        scratch = folder / name.replace(" ", "-").replace(".", "-")
        scratch.mkdir(exist_ok=name == "good")
        run = change(table.make_start(good, scratch) if name != "good" else good)
        paths = {"source": str(run.source), "model": str(run.model), "output": str(run.output)}
        rows[name] = paths | {"sentence": sentence}
    return rows


if __name__ == "__main__":
    print(json.dumps(make(Path(sys.argv[1]))))
