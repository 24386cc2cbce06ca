"""Files of scores: written whole or not at all, rounded to what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.errors import OutputError


def make_room(path: Path) -> None:
    """Make the folder of a file that is to be written after a long computation.

    Raises:
        OutputError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place for it.") from error


def rounded(scores: Any) -> Any:
    """Scores as their files have them: plain JSON, six digits."""
    return json.loads(json.dumps(scores), parse_float=lambda text: float(f"{float(text):.6g}"))


def write_scores(scores: dict | list, path: Path) -> None:
    """Write scores as JSON, `rounded`; whole or not at all.

    Raises:
        OutputError: They cannot be written there.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(rounded(scores), indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place for it.") from error


def write_evaluation(scores: dict, path: Path) -> None:
    """Write what `evaluate` returns: `RUN_cases.json`, then `RUN.json`, for tables and a model's card.

    Raises:
        OutputError: They cannot be written there.
    """
    head = {"run": scores["run"], "held_out_cases": len(scores["cases"])}
    write_scores(scores["cases"], path.with_name(f"{path.stem}_cases.json"))
    write_scores(head | scores["summary"] | {"pooled": scores["pooled"]}, path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
