"""Find the files of a model, and read each whole, so that what is checked and recorded is what is used. Needs no torch.

What is read again must be the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT, JsonError, parse_object
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.click_trees import TREES_FILE
from MoBUncertaintyLib.model.nnunet.plans import beside, first_stage_of

DESCRIPTIONS = ("plans.json", "dataset.json")  # nnU-Net's files that say what was trained


@dataclass(frozen=True)
class ModelFile:
    """A file of a model."""

    name: str  # path in the model, such as `fold_0/weights.safetensors`
    where: str  # the model, as the user knows it, for messages
    content: bytes

    def __str__(self) -> str:
        return f"{self.name} in {self.where}"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def json(self) -> dict[str, Any]:
        """Parse the content as a JSON object within the limits of `json_input`; raises `ModelError`."""
        try:
            return parse_object(self.content)
        except JsonError as error:
            raise ModelError(f"{self} cannot be used: {error}; export the model again.") from error


@dataclass(eq=False)
class ModelFiles:
    """The files of a model folder, of nnU-Net's training folder, or of a zip of either, which is read where it is."""

    path: Path  # of the folder or zip, as the user knows it
    root: Path  # the folder or zip itself
    trained: bool  # whether it is a training folder, else a model folder
    inside: str = ""  # prefix of its names in a zip: both stages of a cascade share one
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of each file that was read, by its name

    @classmethod
    def of(cls, path: Path | str) -> ModelFiles:
        """Find the model that a path means: that of a file in it, or the only one in a folder of nnU-Net's results.

        A cascade's second stage stands for both. Raises `ModelError` for none.
        """
        path = Path(path)
        with _reading(path):
            if path.is_file() and path.name in ("model.json", *DESCRIPTIONS):
                path = path.parent
            elif path.is_file() and path.suffix in (".pth", ".safetensors") and path.parent.name.startswith("fold_"):
                path = path.parent.parent
            if path.is_file():
                return cls(path, path, "model.json" not in archive.list_files(path))
            if (path / "model.json").is_file():
                return cls(path, path, trained=False)
            if not is_training_folder(path):
                path = _trained_in(path)
            return cls(path, path, trained=True)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of its files."""
        if self.root.is_file():
            names = archive.list_files(self.root)
            return tuple(name.removeprefix(self.inside) for name in names if name.startswith(self.inside))
        files = (file for pattern in ("*.json", TREES_FILE, "fold_*/*") for file in self.root.glob(pattern))
        return tuple(file.relative_to(self.root).as_posix() for file in files if file.is_file())

    @cached_property
    def plans(self) -> dict[str, Any]:
        """Content of `plans.json`, unchecked; errors as for `read`."""
        return self.read("plans.json").json()

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """Content of `dataset.json`, unchecked; errors as for `read`."""
        return self.read("dataset.json").json()

    def read(self, name: str, limit: int = SIZE_LIMIT) -> ModelFile:
        """Read a file of at most `limit` bytes; raises `ModelError`, also if it has changed since it was first read."""
        with self._open(name) as (stream, size):
            if size > limit:
                text = f"{limit >> 30} GB" if limit >> 30 else f"{limit >> 20} MB"
                raise ModelError(f"{name} in {self.path} is larger than {text}; this is not a model file.")
            file = ModelFile(name, str(self.path), stream.read())
        if self.digests.setdefault(name, file.sha256) != file.sha256:
            raise ModelError(f"{file} changed while it was in use; load the model again.")
        return file

    def digest_of(self, name: str) -> str:
        """Return the SHA-256 of a file, as it was when it was first read; raises `ModelError`."""
        if name not in self.digests:
            with self._open(name) as (stream, _):
                self.digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        return self.digests[name]

    def first_stage(self, configuration: str) -> ModelFiles:
        """Find the training folder of a cascade's first stage, inside or beside that of the second; or `ModelError`."""
        inside, prefix = self.path / archive.FIRST_STAGE, f"{archive.FIRST_STAGE}/"
        if self.root.is_file():
            if any(name.startswith(prefix) for name in self.names):
                return ModelFiles(inside, self.root, trained=True, inside=prefix)
            raise ModelError(
                f"{self.path} contains only the second stage of a cascade, not the first one, {configuration}; put "
                "both training folders into one zip, or unpack it and put them side by side."
            )
        own = self.path.absolute()
        outside = own.with_name(beside(own.name, configuration))
        with _reading(self.path):
            if folder := next(filter(is_training_folder, (inside, outside)), None):
                return ModelFiles(folder, folder, trained=True)
        raise ModelError(
            f"{self.path} is the second stage of a cascade, but the first stage is missing; put its training folder "
            f"{outside.name} beside it."
        )

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """Open a file, and tell its size in bytes."""
        if self.root.is_file():
            with archive.open_member(self.root, self.inside + name) as opened:
                yield opened
            return
        path = self.root / name
        try:
            if path.exists() and not path.is_file():  # opening a named pipe would wait for its other end
                raise ModelError(f"{name} in {self.path} is not a regular file; export the model again.")
            with path.open("rb") as file:
                yield file, os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ModelError(f"{name} in {self.path} cannot be read: {error.strerror}.") from error


def read_file(path: Path, limit: int = SIZE_LIMIT) -> ModelFile:
    """Read a file that is, or goes into, a model; errors as for `ModelFiles.read`."""
    return ModelFiles(path.parent, path.parent, trained=False).read(path.name, limit)


def is_training_folder(folder: Path) -> bool:
    """Whether a folder has nnU-Net's `plans.json`, `dataset.json` and a `fold_*`, and no weights of a model folder."""
    has_plans = all((folder / name).is_file() for name in DESCRIPTIONS)
    return has_plans and any(folder.glob("fold_*")) and not any(folder.glob("fold_*/weights.safetensors"))


def content_of(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a model, unchecked, and nothing else of it; empty where that cannot be read."""
    with suppress(ModelError):
        return ModelFiles.of(path).read(name).json()
    return {}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report what the system says about reading a model."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror or error}.") from error


def _trained_in(path: Path) -> Path:
    """Return the only training folder in a folder of nnU-Net's results, of a cascade that of its second stage."""
    trained = sorted(filter(is_training_folder, path.iterdir())) if path.is_dir() else []
    if len(trained) > 1:
        stages = {first_stage_of(folder.name, content_of(folder, "plans.json")) for folder in trained}
        seconds = [folder for folder in trained if folder.name not in stages]
        if len(trained) != 2 or len(seconds) != 1:
            raise ModelError(f"{path} holds {', '.join(folder.name for folder in trained)}; choose one of them.")
        return seconds[0]
    if trained:
        return trained[0]
    if not path.exists():
        raise ModelError(f"There is no model at {path}; check the path.")
    lacking = [name for name in DESCRIPTIONS if not (path / name).is_file()]
    if lacking and any(path.glob("fold_*/checkpoint_*.pth")):
        raise ModelError(
            f"{path} is an nnU-Net training folder without {' and '.join(lacking)}; copy the complete folder."
        )
    raise ModelError(
        f"{path.absolute()} has no model.json; choose a model folder or zip made by `mob-uncertainty export`, "
        "or a training folder of nnU-Net."
    )
