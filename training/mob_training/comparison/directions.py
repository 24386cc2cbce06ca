"""Along which directions of the classes neighbouring voxels share errors, and how much of each model's noise they have.

Errors are summed over the backbones, noise over the seeds of a model; bases are in the order of their noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mob_training.comparison.tables import Table
from mob_training.evaluation.metrics.directions import fractions_along, principal_directions
from mob_training.evaluation.score_files import Run
from MoBUncertaintyLib.model.card import readable

NEEDED = "shared.errors"
"""The pooled score without which a run has no directions."""
ERRORS, DIAGONAL = "errors", "diagonal"
NAMED = 0.3
"""Size from which the entry of a class is in the name of a direction."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The principal directions of the errors that neighbours share, and what lies along them.

    Attributes:
        classes: Names of the C classes.
        vectors: Unit vectors, (C - 1, C), that with most of the errors first.
        parts: Fraction along each direction, (C - 1,): of the errors, and of the noise of each model, by part.
    """

    classes: list[str]
    vectors: np.ndarray
    parts: dict[str, dict[str, np.ndarray]]

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[Run]]) -> Directions | None:
        """Find the directions of the runs of some models; None if no run has any."""
        scored = {model: [run for run in runs if run.over_voxels(NEEDED)] for model, runs in groups.items()}
        runs = [run for own in scored.values() for run in own]
        if not runs:
            return None
        errors = np.sum([*{run.backbone: _shared(run, "errors") for run in runs}.values()], axis=0)
        vectors = principal_directions(errors[0])
        parts = {ERRORS: {ERRORS: fractions_along(vectors, errors)[:, 0]}}
        for model, own in scored.items():
            noise = np.sum([_noise(run) for run in own], axis=0)
            if np.any(noise):
                titles = [f"columns, basis {n}" if n > 1 else "columns" for n in range(1, len(noise))]
                parts[model] = dict(zip([*titles, DIAGONAL], fractions_along(vectors, noise).T, strict=True))
        return cls([readable(name) for name in ("background", *runs[0].description["labels"])], vectors, parts)

    def names(self) -> list[str]:
        """Name each direction by the classes that it sets against each other: organ + wall - background."""
        names = []
        for vector in self.vectors:
            large = [at for at in (-np.abs(vector)).argsort() if abs(vector[at]) >= NAMED]
            sides = [[self.classes[at] for at in large if sign * vector[at] > 0] for sign in (1, -1)]
            names.append(" − ".join(" + ".join(side) for side in sides if side))
        return names

    def table(self, dataset: str) -> Table:
        """Tabulate what lies along each direction, in percent."""
        rows = []
        for row, parts in self.parts.items():
            for part, fractions in parts.items():
                cells = tuple(f"{100 * fraction:.1f}" for fraction in (*fractions, fractions.sum()))
                rows.append((row if row == part else f"{row}: {part}", cells))
        title = f"{dataset}: % of the errors and the noise that neighbours share along each direction of the classes"
        return Table(title, "Part", (*self.names(), "all"), tuple(rows))


def _shared(run: Run, part: str) -> np.ndarray:
    """Return a part of what neighbours share (`evaluation.directions`), (P, C, C)."""
    number = 1 + len(run.description["labels"])
    return np.reshape(run.over_voxels(f"shared.{part}"), (-1, number, number))


def _noise(run: Run) -> np.ndarray:
    """Return the noise of the columns of each basis, that with most first, and of the diagonal, (P, C, C)."""
    columns = _shared(run, "columns")
    order = np.trace(columns, axis1=1, axis2=2).argsort()[::-1]
    return np.concatenate((columns[order], _shared(run, "diagonal")))
