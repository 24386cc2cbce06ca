"""The command `review` on a folder of the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from click.testing import Result

from support import command_line

HEAD = {"schema": "mob-uncertainty review", "schema_version": 2}


def decisions(folder: Path, content: Any) -> Path:
    path = folder / "decisions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entries(*regions: dict, **more) -> dict:
    return HEAD | {"regions": list(regions)} | more


def run(place: Path, content: Any, *options: str) -> Result:
    return review(place, decisions(place, content), *options)


def review(place: Path, file: Path, *options: str | Path) -> Result:
    arguments = ["review", place / "results", "--decisions", file, *options]
    return command_line.run(*arguments)


def labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


BOTH = entries(
    {"rank": 1, "verdict": "include", "label": "kidney_left", "comment": "köstlich"},
    {"rank": 2, "verdict": "exclude"},
    signature={"name": "Ada Müller", "time": "2026-05-31T14:30:00+02:00"},
)
