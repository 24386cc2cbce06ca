"""The scores of trained models, and the scores folders that keep them.

A scores folder holds one run or many: `cases.csv.gz` has a row for each run and case, `pooled.csv.gz` a row for each
run, over the voxels of all its cases together, and `summary.json` says what each run is and was made from. Cells are
JSON, lists such as the points of a curve too. What is undefined is empty.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.base.publishing import absolute, write_file
from MoBUncertaintyLib.model.covariance import Covariance

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.folder import Model

SUMMARY, CASES, POOLED = "summary.json", "cases.csv.gz", "pooled.csv.gz"
FILES = (SUMMARY, CASES, POOLED)
KEY = ("dataset", "name", "seed")
"""Columns that identify a run."""
TEXT = ("case", "subject")
"""Columns that are not JSON."""
NAMES = {
    Covariance.DETERMINISTIC: "Deterministic",
    Covariance.DIAGONAL: "Diagonal",
    Covariance.LOW_RANK: "Diagonal + Low-rank",
    Covariance.SINGLE_BASIS: "Single-Basis",
    Covariance.MIXTURE_OF_BASES: "Mixture-of-Bases",
}
CONTROL = "Deterministic, fine-tuned"


@dataclass(frozen=True)
class Run:
    """The scores of one model and seed.

    Attributes:
        description: What was scored, as `describe_run` returns it.
        pooled: Scores over the voxels of all cases together by name, `volume.nll`; numbers, or lists of them.
        cases: Scores of each case in the same form, and its `subject`.
    """

    description: dict[str, Any]
    pooled: dict[str, Any]
    cases: dict[str, dict[str, Any]]

    @property
    def dataset(self) -> str:
        """Name of the data set; the folds of a cross-validation, such as HeartFold0, are one."""
        return re.sub(r"Fold\d+$", "", self.description["dataset"])

    @property
    def model(self) -> str:
        """The name that tables show."""
        return self.description["model"]

    @property
    def seed(self) -> int | None:
        """Seed of the training; None for a stock model."""
        return self.description["seed"]

    @property
    def backbone(self) -> tuple[str, int] | None:
        """Data set, with its fold, and seed of the deterministic stage, which several heads may share.

        None for an ensemble, which is of all seeds though its description has the seed of one.
        """
        if (self.description.get("provenance") or {}).get("ensemble"):
            return None
        seed = self.description.get("backbone", self.seed)
        return None if seed is None else (self.description["dataset"], seed)

    @property
    def bases(self) -> int | None:
        """M of a Mixture-of-Bases."""
        return self.description["bases"]

    @property
    def sweep(self) -> bool:
        """Whether the run is part of a sweep over the number of bases."""
        return self.description["sweep"]

    @property
    def path(self) -> str:
        """DATASET/NAME/seed_N, unique in a comparison."""
        return "{}/{}/seed_{}".format(*(self.description[name] for name in KEY))

    def per_case(self, key: str) -> dict[str, Any]:
        """Return the score of each case, a number or a list of numbers, where it is defined."""
        values = {case: scores.get(key) for case, scores in self.cases.items() if self._has(key)}
        return {case: value for case, value in values.items() if value is not None}

    def mean(self, key: str) -> float | None:
        """Average a score over the cases; None if it is undefined in all."""
        values = list(self.per_case(key).values())
        return float(np.mean(values)) if values else None

    def over_voxels(self, key: str) -> Any:
        """Return a pooled score, a number or a list of numbers; None if it is undefined."""
        return self.pooled.get(key) if self._has(key) else None

    def _has(self, key: str) -> bool:
        """Exclude the variance of a deterministic model: it is the disagreement of its tiles."""
        return self.description["covariance"] != Covariance.DETERMINISTIC or not key.startswith("variance.")


def describe_run(model: Model, dataset: Path, name: str | None = None) -> dict[str, Any]:
    """Describe a model for the tables: data set, name, covariance, number of bases, seed.

    A fine-tuning's own name is in its plans: a run called as its covariance model is that of the paper, another one,
    say `mixture-of-bases-tile`, is "Mixture-of-Bases (tile)". Names that end in `-bases-M` belong to a sweep.
    """
    card = model.card
    finetuning = card.training.get("finetuning") or {}
    run_name = str(model.plans.get("plans_name", "")).partition("-")[2]
    own, sweep = re.subn(r"-bases-\d+$", "", run_name)
    if card.covariance.kind is Covariance.DETERMINISTIC:
        shown, plain = (CONTROL, {"deterministic", "deterministic-fine-tuned", "control"}) if run_name else ("", set())
        shown = shown or NAMES[Covariance.DETERMINISTIC]
    else:
        shown, plain = NAMES[card.covariance.kind], {card.covariance.kind.value}
    if own and own not in plain:
        shown += f" ({own.removeprefix(card.covariance.kind.value).strip('-')})"
    lengths = ("schedule", "budget", "deterministic_schedule", "deterministic_budget")
    backbone = next((model.plans[name].get("seed") for name in lengths if model.plans.get(name)), None)
    seed = finetuning.get("seed", backbone)
    return {
        "dataset": re.sub(r"^Dataset\d+_", "", dataset.resolve().name),
        "name": name or run_name or Covariance.DETERMINISTIC.value,
        "model": name or shown,
        "covariance": card.covariance.kind.value,
        "scope": card.covariance.scope.value,
        "likelihood": finetuning.get("likelihood"),
        "bases": card.covariance.bases if card.covariance.kind is Covariance.MIXTURE_OF_BASES else None,
        "temperature": card.training.get("temperature"),
        "sweep": bool(sweep),
        "seed": seed,
        "backbone": seed if backbone is None else backbone,
        "labels": [label.name for label in card.labels],
        "digest": model.digest,
    }


def flatten(scores: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested scores to names such as `volume.nll`. Undefined scores are left out, or None in a list."""
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{place}{key}.")
        elif isinstance(value, list):
            yield place + key, [None if _undefined(one) else one for one in value]
        elif not _undefined(value):
            yield place + key, value


def _undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def summarise(run: Run) -> dict[str, Any]:
    """Compute mean, median, min and max over the cases of every score, nested as on a model's card."""
    summary: dict[str, Any] = {}
    for key in dict.fromkeys(key for scores in run.cases.values() for key in scores):
        values = [scores[key] for scores in run.cases.values() if isinstance(scores.get(key), int | float)]
        if values:
            *outer, last = key.split(".")
            place = summary
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = {"mean": mean(values), "median": median(values), "min": min(values), "max": max(values)}
    return summary


def card_scores(run: Run) -> dict[str, Any]:
    """Return what a card states of a run: no curves, which `POOLED` has, and no volumes of calibration cases."""
    summary = {name: scores for name, scores in summarise(run).items() if name != "intervals"}
    pooled = {name: score for name, score in run.pooled.items() if not isinstance(score, list)}
    return {"held_out_cases": len(run.cases), **summary, "pooled": pooled}


def rounded(scores: Any) -> Any:
    """Return scores as they are stored: plain JSON, six digits."""
    return json.loads(json.dumps(scores), parse_float=lambda text: float(f"{float(text):.6g}"))


def check_folder(folder: Path) -> None:
    """Check that a folder can be written, or made, before a long computation; make nothing.

    Raises:
        OutputError: It cannot be written.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        TemporaryFile(dir=existing).close()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def write_runs(runs: Sequence[Run], folder: Path) -> None:
    """Write a scores folder; the same runs give the same bytes.

    Raises:
        OutputError: It cannot be written there.
    """
    cases = [_key(run) | {"case": case} | scores for run in runs for case, scores in run.cases.items()]
    write_content(_table(cases), folder / CASES)
    write_content(_table([_key(run) | run.pooled for run in runs]), folder / POOLED)
    described = ",\n".join(json.dumps(rounded(run.description)) for run in runs)
    write_content(f'{{"runs": [\n{described}\n]}}\n'.encode(), folder / SUMMARY)


def write_json(content: Any, path: Path) -> None:
    """Write JSON, `rounded`, completely or not at all.

    Raises:
        OutputError: It cannot be written there.
    """
    write_content((json.dumps(rounded(content), indent=1) + "\n").encode(), path)


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read scores folders.

    Raises:
        SettingsError: One is missing or no scores folder, or there is a run twice.
    """
    runs: dict[str, Run] = {}
    for folder in map(Path, folders):
        for run in _read(folder):
            if run.path in runs:
                raise SettingsError(
                    f"{folder}: there are two runs {run.path}; give one another name (evaluate --name)."
                )
            runs[run.path] = run
    return list(runs.values())


def _read(folder: Path) -> list[Run]:
    runs = []
    try:
        cases, pooled = (_rows(folder / name) for name in (CASES, POOLED))
        for description in json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["runs"]:
            key = tuple(_cell(description[name]) for name in KEY)
            (voxels,) = pooled[key]
            runs.append(Run(description, voxels, {row.pop("case"): row for row in cases[key]}))
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error, gzip.BadGzipFile):
        raise SettingsError(f"{folder} holds no scores of `mob-training evaluate`; evaluate the model again.") from None
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}.") from None
    return runs


def _key(run: Run) -> dict[str, Any]:
    return {name: run.description[name] for name in KEY}


def _table(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Make a gzipped CSV table, in the row order that compresses best."""
    rows = [{name: _cell(value) for name, value in row.items()} for row in rows]
    rows.sort(key=lambda row: [row.get(name, "") for name in ("dataset", "case", "seed", "name")])
    file = io.StringIO()
    writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row), "", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(file.getvalue().encode(), mtime=0)


def _rows(path: Path) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Read the rows of a table, by run."""
    runs = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row.pop(name) for name in KEY)
            runs[key].append({name: cell if name in TEXT else json.loads(cell) for name, cell in row.items() if cell})
    return dict(runs)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(rounded(value), separators=(",", ":"))


def write_content(content: bytes, path: Path) -> None:
    """Write a file completely or not at all.

    Raises:
        OutputError: It cannot be written there.
    """
    try:
        write_file(absolute(path), lambda partial: partial.write_bytes(content))
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place for it.") from error
