"""Which cases train, validate and test: a split from a seed that keeps the cases of a subject together."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from MoBUncertaintyLib.errors import SettingsError

PARTS = ("train", "val", "calibrate", "test")
SHIPPED = Path(__file__).parents[2] / "workflow" / "config"


@dataclass(frozen=True)
class Split:
    """How many cases train, validate and test, in an order that comes from the seed alone.

    Cases of one subject stay together. Where a part has no room for all of a subject's, the next subject has its turn,
    so a part may have fewer cases than it should.

    Attributes:
        train: At least 1; None: what the others leave.
        validation: At least 1; None: a fifth of the cases that are not tested, rounded up (paper, section 4).
        test: None: a fifth of all, rounded up.
        seed: Of the order.
        groups: The group of each case, where it is known: each part takes its cases from all groups in turn.
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    seed: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)

    def assign(self, names: Sequence[str], subjects: Mapping[str, str] | None = None) -> dict[str, list[str]]:
        """Assign names to `train`, `val` and `test`, independently of their order.

        Args:
            names: Of the cases.
            subjects: The subject of each case, where it is known; a case without one has a subject of its own.

        Raises:
            SettingsError: There are too few cases.
        """
        together: dict[str, list[str]] = {}
        for name in sorted(names):
            together.setdefault((subjects or {}).get(name, name), []).append(name)
        several = list(together.values())
        waiting = self._in_turn([several[i] for i in np.random.default_rng(self.seed).permutation(len(several))])
        total = len(names)
        test = math.ceil(total / 5) if self.test is None else self.test
        validation = math.ceil((total - test) / 5) if self.validation is None else self.validation
        train = total - validation - test if self.train is None else self.train
        if min(train, validation) < 1 or test < 0 or train + validation + test > total:
            self._refuse(total, train, validation, test)
        tested, waiting = _fill(test, waiting)
        validating, waiting = _fill(validation, waiting)
        training, _ = _fill(total if self.train is None else train, waiting)
        if not validating or not training or (test and not tested):
            self._refuse(total, train, validation, test)
        return {"train": sorted(training), "val": sorted(validating), "test": sorted(tested)}

    def _in_turn(self, subjects: list[list[str]]) -> list[list[str]]:
        """Order subjects so that the groups take turns; without groups the order stays."""
        taken: Counter[str] = Counter()
        turns = []
        for cases in subjects:
            group = self.groups.get(cases[0], "")
            turns.append(taken[group])
            taken[group] += 1
        order = range(len(subjects)) if not self.groups else np.argsort(turns, kind="stable")
        return [subjects[i] for i in order]

    def _refuse(self, total: int, train: int, validation: int, test: int) -> None:
        wanted = f"train {max(train, 1)}, validate {max(validation, 1)} and test {max(test, 0)}"
        raise SettingsError(f"{total} cases are too few to {wanted}; add cases or change the split.")


@dataclass(frozen=True)
class StatedSplit:
    """A split that was written down: the part of each case, `train`, `val`, `calibrate`, `test`."""

    parts: Mapping[str, str]

    def assign(self, names: Sequence[str], _subjects: Mapping[str, str] | None = None) -> dict[str, list[str]]:
        """Return the cases of each part; a case that the split does not name is not used.

        Raises:
            SettingsError: None is there to train or to validate.
        """
        assigned = {part: sorted(name for name in names if self.parts.get(name) == part) for part in PARTS}
        if not assigned["train"] or not assigned["val"]:
            raise SettingsError("The table of the split has no case of this data set to train, or none to validate.")
        return assigned


def stratified(labels: Mapping[str, Collection[str]], sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    """Divide cases into parts that have their fraction of each label's cases (iterative stratification).

    The cases of the label with the fewest cases left go first, each to the part that lacks most of them (Sechidis et
    al. 2011, On the stratification of multi-label data).

    Args:
        labels: Names of the labels of each case.
        sizes: How many cases each part has; together all.
        seed: Of the order of the cases.

    Returns:
        The part of each case.
    """
    names = sorted(labels)
    left = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    counts = Counter(label for name in left for label in labels[name])
    room = dict(sizes)
    wanted = {(part, label): counts[label] * size / len(left) for part, size in sizes.items() for label in counts}
    parts: dict[str, str] = {}
    while left:
        waiting = Counter(label for name in left for label in labels[name])
        rarest = min(waiting, key=lambda label: (waiting[label], label), default=None)
        for name in [name for name in left if rarest is None or rarest in labels[name]]:
            part = max(
                (part for part in sizes if room[part]), key=lambda part: (wanted.get((part, rarest), 0), room[part])
            )
            parts[name] = part
            room[part] -= 1
            for label in labels[name]:
                wanted[part, label] -= 1
        left = [name for name in left if name not in parts]
    return dict(sorted(parts.items()))


def _fill(size: int, groups: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Take whole groups in order while they fit; return what was taken, and the groups left."""
    taken: list[str] = []
    left = []
    for group in groups:
        if len(taken) + len(group) <= size:
            taken += group
        else:
            left.append(group)
    return taken, left


def read_subjects(path: Path, column: str = "subject") -> dict[str, str]:
    """Read the subject of each case from a CSV file with the columns `case` and `subject`.

    Args:
        path: The file, or the name of one that lies beside the workflow's configs.
        column: `group` reads the groups instead; a table without that column has none. `part` reads a split.

    Raises:
        SettingsError: It cannot be read, or has no such columns.
    """
    shipped, path = SHIPPED / path, Path(path)
    if shipped.is_file() and not path.exists():
        path = shipped
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if column == "group" and column not in (rows.fieldnames or ()):
                return {}
            return {row["case"]: row[column] for row in rows if row[column]}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    except (KeyError, ValueError, csv.Error):
        raise SettingsError(f"{path} is no table of subjects; give a CSV file with the columns case,subject.") from None


def subjects_of(names: Sequence[str], known: Mapping[str, str] | None, report: Callable[[str], None]) -> dict[str, str]:
    """Return the subject of each case; an unknown case is a subject of its own."""
    known = known or {}
    unknown = [name for name in names if name not in known]
    if known and names and len(unknown) == len(names):
        raise SettingsError(
            f"The table of subjects names none of the cases: it has {next(iter(known))}, a case is {names[0]}; "
            "write their names as here."
        )
    if known and unknown:
        report(
            f"{len(unknown)} of {len(names)} cases are not in the table of subjects ({unknown[0]} for one): "
            "each counts as a subject of its own"
        )
    return {name: known.get(name, name) for name in names}
