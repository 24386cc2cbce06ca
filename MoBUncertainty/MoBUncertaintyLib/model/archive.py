"""Pack a model folder to one zip file, reproducibly, and read untrusted ones safely. Needs no torch.

A zip of nnU-Net's training folder, as `nnUNetv2_export_model_to_zip` makes it, is read too, and one of both stages of a
cascade: the first as a folder inside the second.
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from MoBUncertaintyLib.base import json_input
from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.card import MODEL_FILE
from MoBUncertaintyLib.model.nnunet.plans import first_stage_of

ENTRY_LIMIT = 1000
SIZE_LIMIT = 16 * 2**30  # bytes, unpacked
RATIO_LIMIT = 100  # times its own size to which a zip may unpack: texts reach 20, weights hardly shrink

TRAINING_FILE = re.compile(r"plans\.json|dataset\.json|fold_(0|[1-9][0-9]{0,2}|all)/checkpoint_[a-z]{1,20}\.pth")
"""Of a training folder, the files that are read."""

FIRST_STAGE = "first_stage"
"""Folder of a cascade's first stage inside that of the second, in a zip or in what was sent."""


def pack(folder: Path, names: Iterable[str], target: Path) -> None:
    """Write files of a folder to a zip; the same files give the same bytes. Raises `OSError`."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            # Weights do not compress.
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as packed:
                shutil.copyfileobj(source, packed, 2**20)


@contextmanager
def open_member(path: Path, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file of a zipped model, and tell its size in bytes; `ModelError` for damaged, huge or unsafe zips."""
    with _opened(path, str(path)) as (archive, members), archive.open(members[name]) as file:
        yield file, members[name].file_size


def list_files(path: Path) -> list[str]:
    """List the names that the files of a zipped model have in it; errors as for `open_member`."""
    with _opened(path, str(path)) as (_, members):
        return list(members)


def unpack_into(folder: Path, path: Path, where: str) -> None:
    """Unpack a zipped model, known as `where`, into an empty folder; errors as for `open_member`."""
    with _opened(path, where) as (archive, members):
        for name, entry in members.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("xb") as unpacked:
                shutil.copyfileobj(source, unpacked, 2**20)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Open a zipped model, and list its files by their names in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, where)
            # zipfile never reads more of an entry than the size that is added up here.
            needed = sum(entry.file_size for entry in members.values())
            if needed > SIZE_LIMIT:
                raise ModelError(f"{where} would unpack to more than {SIZE_LIMIT >> 20} MB; this is not a model.")
            if needed > RATIO_LIMIT * path.stat().st_size:
                raise ModelError(f"{where} would unpack to {RATIO_LIMIT} times its size; this is not a model.")
            yield archive, members
    except KeyError as error:
        raise ModelError(f"{where} lacks {error.args[0]}; copy or download the model again.") from error
    except json_input.JsonError as error:
        raise ModelError(f"plans.json in {where} cannot be used: {error}; export the model again.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise _damaged(where, error) from error


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """List the files of the model by their name in it."""
    entries = archive.infolist()
    if len(entries) > ENTRY_LIMIT:
        raise ModelError(f"{where} holds more than {ENTRY_LIMIT} files; this is not a model.")
    for entry in entries:
        _check_entry(entry, where)
    names = [PurePosixPath(entry.filename) for entry in entries]
    cards = [name for name in names if name.name == "model.json" and len(name.parts) <= 2]
    plans = [name for name in names if name.name == "plans.json" and name.with_name("dataset.json") in names]
    if not cards and not plans:
        raise ModelError(
            f"{where} holds no model; choose a zip of a training folder of nnU-Net, or one made by `mob-uncertainty "
            "export`."
        )
    roots = _stages(archive, [name.parent for name in cards or plans], where)
    files = MODEL_FILE if cards else TRAINING_FILE
    members: dict[str, zipfile.ZipInfo] = {}
    for (place, root), entry in itertools.product(roots.items(), entries):
        name = PurePosixPath(entry.filename)
        inside = name.relative_to(root).as_posix() if name.is_relative_to(root) else ""
        if not (cards and inside == "model.json") and not files.fullmatch(inside):
            continue
        if place + inside in members:
            raise ModelError(f"{where} holds {inside} twice; choose a zip made by `mob-uncertainty export`.")
        members[place + inside] = entry
    return members


def _stages(archive: zipfile.ZipFile, roots: Sequence[PurePosixPath], where: str) -> dict[str, PurePosixPath]:
    """Find the folder of the only model in a zip and, of a cascade, that of its first stage; each by its place."""
    if len(roots) == 1:
        return {"": roots[0]}
    for second, first in itertools.permutations(roots, 2) if len(roots) == 2 else ():
        if str(second / "plans.json") not in archive.namelist():
            continue
        with archive.open(str(second / "plans.json")) as file:
            plans = json_input.parse_object(file.read(json_input.SIZE_LIMIT + 1))
        if (name := first_stage_of(second.name, plans)) and first == second.with_name(name):
            return {"": second, f"{FIRST_STAGE}/": first}
    raise ModelError(f"{where} holds more than one model; unpack it, and choose the folder of one.")


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    name = entry.filename
    # zipfile turns a backslash into a slash on Windows and cuts names at a null byte; orig_filename keeps both.
    if re.search(r"^/|^[A-Za-z]:|\\|\0", entry.orig_filename) or ".." in PurePosixPath(name).parts:
        raise ModelError(f"{where} holds the unsafe file name {entry.orig_filename!r}; do not use this model.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ModelError(f"{where} holds the link {name!r} instead of a file; do not use this model.")
    if entry.flag_bits & 1:
        raise ModelError(f"{where} is password-protected; unpack it and choose the folder.")


def _damaged(where: str, error: Exception) -> ModelError:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"{where} cannot be unpacked ({error.strerror}); check disk space and permissions.")
    return ModelError(f"{where} is not a readable zip file ({error}); download it again.")
