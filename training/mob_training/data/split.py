"""Which cases train, validate and test: a split from a seed that keeps the cases of a subject together."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError

PARTS = ("train", "val", "calibrate", "test")
SHIPPED = Path(__file__).parents[2] / "workflow" / "config"


@dataclass(frozen=True)
class Split:
    """How many cases validate and test, in an order that comes from the seed alone; the rest trains.

    Cases of one subject stay together; a case that is not named has a subject of its own. Where a part has no room for
    all of a subject's, the next subject has its turn, so a part may have fewer cases than it should. With groups each
    part takes its cases from all of them in turn. In a cross-validation each fold tests the cases that come next in the
    order, so that five folds of a fifth test each case once.

    Default: a fifth of all cases tests, and a fifth of the others validates, rounded up (paper, section 4).
    """

    validation: int | None = None
    test: int | None = None
    seed: int = 0
    subjects: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    fold: int = 0

    def assign(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Assign names of cases to `train`, `val` and `test`, independently of their order.

        Raises:
            SettingsError: There are too few cases.
        """
        together: dict[str, list[str]] = {}
        for name in sorted(names):
            together.setdefault(self.subjects.get(name, name), []).append(name)
        cases = list(together.values())
        waiting = self._in_turn([cases[i] for i in np.random.default_rng(self.seed).permutation(len(cases))])
        total = len(names)
        test = math.ceil(total / 5) if self.test is None else self.test
        validation = math.ceil((total - test) / 5) if self.validation is None else self.validation
        rest = waiting
        for _ in range(self.fold + 1):
            tested, rest = _fill(test, rest)
        waiting = rest + [cases for cases in waiting if cases not in rest and cases[0] not in tested]
        validating, waiting = _fill(validation, waiting)
        training = [name for subject in waiting for name in subject]
        if min(validation, total - validation - test) < 1 or not validating or not training or (test and not tested):
            wanted = f"train, to validate {max(validation, 1)} and to test {max(test, 0)}"
            raise SettingsError(f"{total} cases are too few to {wanted}; add cases or change the split.")
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


@dataclass(frozen=True)
class StatedSplit:
    """A split that was written down: the part of each case, `train`, `val`, `calibrate`, `test`."""

    parts: Mapping[str, str]
    subjects: Mapping[str, str] = field(default_factory=dict)

    def assign(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the cases of each part; a case that the split does not name is not used.

        Raises:
            SettingsError: None is there to train or to validate.
        """
        assigned = {part: sorted(name for name in names if self.parts.get(name) == part) for part in PARTS}
        if not assigned["train"] or not assigned["val"]:
            raise SettingsError("The table of the split has no case of this data set to train, or none to validate.")
        return assigned


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

    The file may also be named as one that lies beside the workflow's configs. The column `group` has the groups
    instead; a table without it has none. `part` has a split.

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
        raise SettingsError(
            f"{path} is not a table of subjects; give a CSV file with the columns case,subject."
        ) from None


def check_subjects(names: Sequence[str], subjects: Mapping[str, str]) -> None:
    """Check a table of subjects, where there is one, against the names of the cases; print how many it lacks.

    Raises:
        SettingsError: It names none of them.
    """
    unknown = [name for name in names if name not in subjects]
    if not subjects or not unknown:
        return
    if len(unknown) == len(names):
        raise SettingsError(
            f"The table of subjects names none of the cases: it has {next(iter(subjects))}, a case is {names[0]}; "
            "write their names as here."
        )
    print(
        f"{len(unknown)} of {len(names)} cases are not in the table of subjects ({unknown[0]} for one): "
        "each counts as a subject of its own"
    )
