"""Models on their way to another computer, and those that it keeps.

A model is known by the SHA-256 of what its files are. Of those that were sent, each in a folder named by that
digest, the last `KEPT` that were used stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from MoBUncertaintyLib.base.errors import ModelError, OutputError
from MoBUncertaintyLib.base.integrity import file_digest, is_plain_name
from MoBUncertaintyLib.base.publishing import reserve, withdraw
from MoBUncertaintyLib.base.resources import installed_models, user_folder
from MoBUncertaintyLib.model import files as model_files
from MoBUncertaintyLib.model.archive import FIRST_STAGE, TRAINING_FILE
from MoBUncertaintyLib.model.card import MODEL_FILE
from MoBUncertaintyLib.model.folder import read_card
from MoBUncertaintyLib.model.listing import MODELS_FOLDER, find_model, list_models
from MoBUncertaintyLib.model.nnunet.plans import first_stage_of

KEPT = 20
"""Models that were sent and are kept."""

ZIP = "model.zip"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model."""

    name: str
    digests: Mapping[str, str]  # SHA-256 of each file by its name in the model, `model.zip` for a zip
    files: Mapping[str, Path]

    @classmethod
    def of(cls, path: Path) -> ModelFiles:
        """List the files of a model folder, a zip of one, or a training folder of nnU-Net.

        Raises `ModelError` if it cannot be read.
        """
        source = model_files.ModelFiles.of(path)
        path = source.path
        try:
            if path.is_file():
                return cls(path.name, {ZIP: file_digest(path)}, {ZIP: path})
            if source.trained:
                files = _training_files(path.absolute())
                return cls(path.name, {name: file_digest(file) for name, file in files.items()}, files)
            card = path / "model.json"
            digests = {card.name: file_digest(card), **read_card(path).files}
        except OSError as error:
            raise ModelError(f"The model {path} cannot be read ({error.strerror or error}).") from error
        return cls(path.name, digests, {name: path / name for name in digests})

    @property
    def digest(self) -> str:
        """SHA-256 of all that the model is."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()


def find(digest: str) -> Path | None:
    """Find a model of this computer by its digest: one that ships, is installed, or was sent."""
    for model in _folders():
        with suppress(ModelError):
            if ModelFiles.of(model).digest == digest:
                return model
    if not _DIGEST.fullmatch(digest):
        return None
    with suppress(OSError):
        os.utime(kept_models() / digest)  # the time of its last use
        return next(child for child in (kept_models() / digest).iterdir() if not child.name.startswith("."))
    return None


def located(name: str) -> Path:
    """Find a model by its name, its path or, if it was sent, its digest; raises `ModelError` if there is none."""
    if not _DIGEST.fullmatch(name):
        return Path(find_model(name))
    if (model := find(name)) is None:
        raise ModelError("The other computer no longer has the model; apply again to send it again.")
    return model


def keep(sent: ModelFiles) -> None:
    """Keep a model that was sent, if it is what it says; its files are moved.

    Raises `ModelError` if it is not. Raises `OutputError` if it cannot be kept.
    """
    if set(sent.files) != set(sent.digests) or not all(map(_is_model_file, sent.files)):
        raise ModelError("The files that were sent are not a model; choose another one.")
    for name, file in sent.files.items():
        if file_digest(file) != sent.digests[name]:
            raise ModelError(
                f"{name} of the model {sent.name} does not match the model's card (its SHA-256 differs); copy or "
                "download the model again."
            )
    target = kept_models() / sent.digest
    name = sent.name if is_plain_name(sent.name) and len(sent.name) < 100 and sent.name[0] != "." else "model"
    try:
        with reserve(target) as reserved:
            for inside, file in sent.files.items():
                path = reserved.partial / name if inside == ZIP else reserved.partial / name / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, path)
            if not target.exists():
                reserved.publish_new()
        _tidy()
    except OSError as error:
        raise OutputError(
            f"{target.parent} cannot hold the model ({error.strerror or error}); free some space."
        ) from error


def _tidy() -> None:
    """Remove the models beyond `KEPT`, those that were not used for longest."""
    used: list[tuple[float, Path]] = []
    for folder in kept_models().iterdir():
        if _DIGEST.fullmatch(folder.name):
            with suppress(OSError):  # another connection has removed it
                used.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(used)[:-KEPT]:
        with suppress(OSError, OutputError):
            withdraw(folder)


def kept_models() -> Path:
    """Find the folder of the models that were sent, beside that of those that the user has installed."""
    return user_folder() / "sent-models"


def _folders() -> Iterator[Path]:
    for folder in (MODELS_FOLDER, installed_models()):
        yield from (model.path for model in list_models(folder) if model.path.is_dir())


def _training_files(folder: Path) -> dict[str, Path]:
    """List the files of a training folder by their names in the model and, of a cascade, those of its first stage."""
    beside = first_stage_of(folder.name, model_files.content_of(folder, "plans.json"))
    stages = {"": folder, f"{FIRST_STAGE}/": folder.with_name(beside) if beside else folder / FIRST_STAGE}
    return {
        place + name: file
        for place, stage in stages.items()
        for file in sorted(stage.rglob("*"))
        if file.is_file() and TRAINING_FILE.fullmatch(name := file.relative_to(stage).as_posix())
    }


def _is_model_file(name: str) -> bool:
    plain = name.removeprefix(f"{FIRST_STAGE}/")
    return name in (ZIP, "model.json") or bool(MODEL_FILE.fullmatch(name) or TRAINING_FILE.fullmatch(plain))
