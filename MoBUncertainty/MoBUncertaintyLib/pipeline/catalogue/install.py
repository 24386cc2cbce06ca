"""Install models of a catalogue, complete or not at all, and remove them.

An installed model is a model folder in the user's folder of models, where `find_model` finds it by its name.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path, PurePath

from MoBUncertaintyLib.base.errors import Cancelled, CatalogueError, OutputError, reason_of
from MoBUncertaintyLib.base.names import is_system_file, printable
from MoBUncertaintyLib.base.publishing import absolute, content_of, reserve, withdraw
from MoBUncertaintyLib.base.resources import installed_models
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.card import MODEL_FILE
from MoBUncertaintyLib.model.files import ModelFiles
from MoBUncertaintyLib.model.folder import load_folder
from MoBUncertaintyLib.model.licences import agree
from MoBUncertaintyLib.model.listing import MODELS_FOLDER, ListedModel, list_models
from MoBUncertaintyLib.pipeline.catalogue.place import CHUNK, Entry, Place
from MoBUncertaintyLib.regions.prediction import Progress

TELL_EVERY_S = 0.2
MEGABYTE = 1_000_000


class Status(StrEnum):
    """What is known of a model that a catalogue offers."""

    AVAILABLE = "available"
    INSTALLED = "installed"
    OTHER_VERSION = "another version is installed"
    SHIPPED = "comes with the program"
    TOO_NEW = "needs a newer version"


def status(entry: Entry, folder: Path | None = None) -> Status:
    """Tell whether a model can be installed in a folder, or is there already. Default: the user's."""
    if (MODELS_FOLDER / entry.name).exists():
        return Status.SHIPPED
    if card := content_of(target_of(entry, folder) / "model.json"):
        same = hashlib.sha256(card).hexdigest() == entry.digest
        return Status.INSTALLED if same else Status.OTHER_VERSION
    return Status.TOO_NEW if entry.is_too_new else Status.AVAILABLE


def why_not(entry: Entry, folder: Path | None = None) -> str | None:
    """Say in one sentence why a model cannot be installed in a folder, if so. Default: the user's."""
    return {
        Status.INSTALLED: f"{entry.name} is installed already.",
        Status.OTHER_VERSION: f"Another version of {entry.name} is installed; remove that first.",
        Status.SHIPPED: f"{entry.name} comes with the program; there is nothing to install.",
        Status.TOO_NEW: f"{entry.name} needs MoB Uncertainty {entry.minimum_version}; update MoB Uncertainty.",
    }.get(status(entry, folder))


def target_of(entry: Entry, folder: Path | None = None) -> Path:
    """Return the model folder that installing makes in a folder. Default: the user's."""
    return absolute((folder or installed_models()) / entry.name)


def install(
    place: Place,
    entry: Entry,
    progress: Callable[[Progress], None] = lambda _step: None,
    cancelled: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
) -> Path:
    """Download a model whose licence the user has agreed to, check it, and install it; return its folder.

    Args:
        place, entry: The catalogue, and its entry; what is downloaded must be what that says.
        progress: Called with each step; the stage `download` counts megabytes.
        cancelled: Asked between pieces of the download; raises `Cancelled` if it says so.
        folder: Where models are installed. Default: the user's.

    Raises:
        CatalogueError: It cannot be downloaded, or is not what the catalogue says.
        ModelError, OutputError: It is no valid model, or cannot be written.
    """
    if reason := why_not(entry, folder):
        raise CatalogueError(reason)
    target = target_of(entry, folder)
    with _writing(target), reserve(target) as reservation:
        needed = 2 * entry.size  # packed and unpacked
        if needed > shutil.disk_usage(target.parent).free:
            megabytes = f"{needed // MEGABYTE + 1:,} MB"
            raise OutputError(
                f"There is no space for {entry.name} in {target.parent} ({megabytes} are needed); free some."
            )
        reservation.partial.mkdir()
        packed, unpacked = reservation.partial / "download.zip", reservation.partial / "model"
        _download(place, entry, packed, progress, cancelled)
        progress(Progress("install", 0, 1))
        unpacked.mkdir()
        archive.unpack_into(unpacked, packed, place.address(entry.file))
        model = load_folder(ModelFiles(target, unpacked, trained=False))
        if model.digest != entry.digest or model.card.licence != entry.licence:
            raise CatalogueError(
                f"{place.address(entry.file)} contains another model, or another licence, than the catalogue says; "
                "tell whoever hosts it."
            )
        reservation.publish_new(unpacked.name)
        progress(Progress("install", 1, 1, 0.0))
    agree([target], lambda _terms: None)
    return target


def remove(name: str) -> Path:
    """Remove an installed model; return where it was. Raises `CatalogueError` for one that was not installed so."""
    folder = installed_models()
    listed = list_models(folder)
    for model in listed:
        if model.is_called(name):
            _check_own(model)
            with _writing(model.path):
                withdraw(absolute(folder) / model.path.name)
            return model.path
    if any(model.is_called(name) for model in list_models(MODELS_FOLDER)):
        raise CatalogueError(f"{name} comes with the program and cannot be removed.")
    there_are = ", ".join(model.path.stem for model in listed) or "none"
    raise CatalogueError(f"There is no installed model '{name}' (installed: {there_are}).")


def _check_own(model: ListedModel) -> None:
    """Refuse to remove what was not installed."""
    if not model.path.is_dir():
        raise CatalogueError(f"{model.path} was not installed from a catalogue; delete it where it is.")
    names = (path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if not path.is_dir())
    for name in sorted(name for name in names if not is_system_file(PurePath(name).name)):
        if name != "model.json" and not (name in model.card.files if model.card else MODEL_FILE.fullmatch(name)):
            raise CatalogueError(
                f"{model.path} also contains {printable(name)}, which does not belong to the model and would be lost; "
                "move it and try again."
            )


def _download(
    place: Place, entry: Entry, target: Path, progress: Callable[[Progress], None], cancelled: Callable[[], bool]
) -> None:
    """Write a model's zip to a file, no more bytes than the catalogue says, and check its SHA-256."""
    where, digest, done = place.address(entry.file), hashlib.sha256(), 0
    total = -(-entry.size // MEGABYTE)
    began = reported = time.monotonic()
    progress(Progress("download", 0, total))
    with place.open(entry.file) as read, target.open("wb") as file:
        while chunk := read(CHUNK):
            if cancelled():
                raise Cancelled(f"The download of {entry.name} was cancelled; its files were deleted.")
            done += len(chunk)
            if done > entry.size:
                break
            digest.update(chunk)
            file.write(chunk)
            if (now := time.monotonic()) > reported + TELL_EVERY_S:
                reported = now
                left = (now - began) * (entry.size - done) / done
                progress(Progress("download", done // MEGABYTE, total, left))
    if done < entry.size:
        raise CatalogueError(f"{where} ended after {done:,} of {entry.size:,} bytes; try again.")
    if done > entry.size or digest.hexdigest() != entry.sha256:
        raise CatalogueError(
            f"{where} does not have the SHA-256 or the size in the catalogue; try again, and if that does not help, "
            "tell whoever hosts it."
        )
    progress(Progress("download", total, total, 0.0))


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"The folder {target} cannot be changed ({reason_of(error)}); check disk space and permissions."
        ) from error
