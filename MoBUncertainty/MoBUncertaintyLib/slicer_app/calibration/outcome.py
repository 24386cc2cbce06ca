"""What the user is asked once a model is recalibrated."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _


def question(result: dict[str, Any]) -> str:
    """Say what became better or worse, which cases were not used, and ask whether the new model is to be kept.

    Args:
        result: `name`, `calibration` (as the card has it) and `refused`, of the worker.
    """
    told = result["calibration"]
    text = _("{cases}, temperature {temperature}, p = {p}. Before and after, by leaving out one at a time:")
    counts = {"reviews": _("{n} reviews"), "labelled cases": _("{n} labelled cases")}
    cases = ", ".join(words.format(n=told[name]) for name, words in counts.items() if name in told)
    lines = [text.format(cases=cases, temperature=f"{told['temperature']:.3g}", p=f"{told['p_value']:.2g}")]
    names = {"nll": _("negative log-likelihood"), "ece": _("calibration error")}
    pairs = {names.get(name, name): value for name, value in told.items() if isinstance(value, list)}
    for name, pair in pairs.items():
        first, second = (_("not stated") if value is None else f"{value:.4g}" for value in pair)
        lines.append(f"  {name}: {first} → {second}")
    lines += result["refused"]
    lines.append(_("Press OK to install {model}; the old model stays as it is.").format(model=result["name"]))
    return "\n".join(lines)
