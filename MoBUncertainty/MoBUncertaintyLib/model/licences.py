"""Licences of models: which are permissive, and to which others the user has agreed, once for each model.

A permissive licence allows every use, and leaves open under which licence one passes on what one makes from the model.
CC BY-SA does not, so it is agreed to, as are licences that are not in the list. Where none is stated, there is nothing
to agree to. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import OutputError, reason_of
from MoBUncertaintyLib.base.json_input import JsonError, read_object
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import reserve
from MoBUncertaintyLib.base.resources import user_folder
from MoBUncertaintyLib.model.archive import TRAINING_FILE
from MoBUncertaintyLib.model.card import NOT_STATED
from MoBUncertaintyLib.model.files import ModelFiles
from MoBUncertaintyLib.model.listing import ListedModel

PERMISSIVE = ("Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "MIT")
"""Names in SPDX's spelling; of others, such as "Apache License, Version 2.0", only letters and digits count."""

CONDITIONS = {
    "nc": "for non-commercial use only",
    "nd": "not to be passed on if changed",
    "sa": "what is made from the model must have the same licence",
}
"""What the parts of a Creative Commons licence's name mean."""


@dataclass(frozen=True)
class Terms:
    """What the user agrees to.

    Attributes:
        model: Name of the model.
        licence: Of its weights.
        digest: SHA-256 of `model.json`, which holds that of every other file, or of all that nnU-Net's training folder
            is read from. A zip has that of its folder.
        citation: What its authors want to be cited, as the card has it under `training`; or "".
    """

    model: str
    licence: str
    digest: str
    citation: str = ""

    @classmethod
    def of(cls, path: Path) -> Terms | None:
        """Read the terms of a model, if there is anything to agree to.

        Raises:
            ModelError: There is no model, or it cannot be read.
        """
        files = ModelFiles.of(path)
        model = ListedModel.of(files.path)
        if not is_binding(model.licence):
            return None
        names = filter(TRAINING_FILE.fullmatch, files.names) if files.trained else ["model.json"]
        digests = {name: files.digest_of(name) for name in sorted(names)}
        digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest() if files.trained else digests["model.json"]
        citation = model.card.training.get("citation") if model.card else None
        return cls(printable(model.name), model.licence, digest, printable(str(citation or "")))

    @property
    def lines(self) -> list[str]:
        """Lines that name the model, its licence with what that means, and what is to be cited."""
        cited = [f"To be cited: {self.citation}"] if self.citation else []
        return [self.model, f"Licence: {with_meaning(self.licence)}", *cited]


def is_binding(licence: str) -> bool:
    """Whether a licence is to be agreed to: it is stated, and not permissive."""
    return _plain(licence) not in {"", *map(_plain, (NOT_STATED, *PERMISSIVE))}


def with_meaning(licence: str) -> str:
    """Name a licence, with what a Creative Commons licence asks for beyond the naming of its authors."""
    words = re.findall("[a-z]+", licence.casefold())
    meanings = [meaning for part, meaning in CONDITIONS.items() if words[:1] == ["cc"] and part in words]
    return f"{licence} ({', '.join(meanings)})" if meanings else licence


def agree(
    models: Iterable[Path], ask: Callable[[Terms], None], warn: Callable[[str], None] = lambda _sentence: None
) -> None:
    """Let the user agree to the licences of models, unless they have before; remember that on this computer.

    Args:
        models: Paths of the models.
        ask: Called with the terms of each model; raises an error if the user does not agree, and nothing is remembered.
        warn: Called with one sentence if earlier agreements cannot be read, or these not be written.

    Raises:
        ModelError: A model cannot be read.
    """
    needed = [terms for model in models if (terms := Terms.of(model))]
    agreed = _read(warn) if needed else {}
    new = {terms.digest: terms for terms in needed if agreed.get(terms.digest, {}).get("licence") != terms.licence}
    for terms in new.values():
        ask(terms)
    if new:
        _add({digest: {"model": terms.model, "licence": terms.licence} for digest, terms in new.items()}, warn)


def _file() -> Path:
    return user_folder() / "licences.json"


def _read(warn: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Read model and licence of each agreement, by the model's digest; none where they cannot be read."""
    try:
        agreed = read_object(_file()) if _file().exists() else {}
        if all(isinstance(entry, dict) for entry in agreed.values()):
            return agreed
        reason = "it holds no agreements"
    except (OSError, JsonError) as error:
        reason = reason_of(error)
    warn(f"{_file()} cannot be read ({reason}), so you have to agree to licences again.")
    return {}


def _add(agreements: dict[str, dict[str, Any]], warn: Callable[[str], None]) -> None:
    """Add agreements to the file; another process may have added some while the user was asked."""
    try:
        with reserve(_file()) as reservation:
            agreed = _read(lambda _sentence: None) | agreements
            text = json.dumps(agreed, indent=2, ensure_ascii=False) + "\n"
            reservation.partial.write_text(text, encoding="utf-8")
            reservation.replace()
    except (OSError, OutputError) as error:
        warn(f"Your agreement cannot be written to {_file()} ({reason_of(error)}); check disk space and permissions.")


def _plain(licence: str) -> str:
    """Reduce a licence's name to what tells it from others: "apache20" of "Apache License, Version 2.0"."""
    return re.sub(r"\b(the|licen[cs]e|version)\b|\bv(?=\d)|[\W_]", "", licence.casefold())
