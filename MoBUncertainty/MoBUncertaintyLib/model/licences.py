"""Licences of models: which are permissive, and to which others the user has agreed, once for each model.

A permissive one allows every use, and any licence for what is made from the model, unlike CC BY-SA. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from MoBUncertaintyLib.base.errors import OutputError, reason_of
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import content_of, write_file
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
    """What the user agrees to."""

    model: str  # name
    licence: str  # of its weights
    digest: str  # SHA-256 of `model.json`, or of all that a training folder is read from; a zip has that of its folder
    citation: str = ""  # what its authors want to be cited, as the card has it under `training`

    @classmethod
    def of(cls, path: Path) -> Terms | None:
        """Read the terms of a model, if there is anything to agree to; raises `ModelError`."""
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

    @property
    def file(self) -> Path:
        """File that is there once the user has agreed."""
        return user_folder() / "licences" / f"{self.digest}.txt"

    @property
    def agreement(self) -> bytes:
        """What it says."""
        return f"{self.model}\n{self.licence}\n".encode()


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

    `ask` is called with the terms of each model; if it raises an error, nothing is remembered. `warn` is called with a
    sentence for each agreement that cannot be written. Raises `ModelError` if a model cannot be read.
    """
    needed = {terms.digest: terms for model in models if (terms := Terms.of(model))}
    new = [terms for terms in needed.values() if content_of(terms.file) != terms.agreement]
    for terms in new:
        ask(terms)
    for terms in new:
        try:
            write_file(terms.file, partial(Path.write_bytes, data=terms.agreement))
        except (OSError, OutputError) as error:
            reason = reason_of(error)
            warn(f"Your agreement cannot be written to {terms.file} ({reason}); check disk space and permissions.")


def _plain(licence: str) -> str:
    """Reduce a licence's name to what tells it from others: "apache20" of "Apache License, Version 2.0"."""
    return re.sub(r"\b(the|licen[cs]e|version)\b|\bv(?=\d)|[\W_]", "", licence.casefold())
