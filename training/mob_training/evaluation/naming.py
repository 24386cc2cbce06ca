"""Names and descriptions of trained models for tables and figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.model.covariance import Covariance

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.folder import Model

NAMES = {
    Covariance.DETERMINISTIC: "Deterministic",
    Covariance.DIAGONAL: "Diagonal",
    Covariance.LOW_RANK: "Diagonal + Low-rank",
    Covariance.SINGLE_BASIS: "Single-Basis",
    Covariance.MIXTURE_OF_BASES: "Mixture-of-Bases",
}
CONTROL = "Deterministic, fine-tuned"


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
    seed = finetuning.get("seed", (model.plans.get("schedule") or model.plans.get("budget") or {}).get("seed"))
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
        "labels": [label.name for label in card.labels],
        "digest": model.digest,
    }
