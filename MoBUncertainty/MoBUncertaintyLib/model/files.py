"""Read each file of a model whole, once, so that what is checked and recorded is what is used. Needs no torch.

A file on disk can be replaced or changed between two reads. So its bytes are read into memory first, and both its
SHA-256 and its content come from there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT, JsonError, parse_object


@dataclass(frozen=True)
class ModelFile:
    """A file of a model.

    Attributes:
        name: Path in the model, such as `fold_0/weights.safetensors`.
        where: The model, as the user knows it, for messages.
        content: The file's bytes.
    """

    name: str
    where: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.name} in {self.where}"

    @classmethod
    def read(cls, root: Path, name: str, where: str, limit: int = SIZE_LIMIT) -> ModelFile:
        """Read a file.

        Args:
            root: The model's folder.
            name: Path of the file in it.
            where: The model, as the user knows it.
            limit: Maximum size in bytes.

        Raises:
            ModelError: It cannot be read, is too large, or is not a regular file (a named pipe, say).
        """
        path = root / name
        if path.exists() and not path.is_file():  # opening a named pipe would wait for its other end
            raise ModelError(f"{name} in {where} is not a regular file; export the model again.")
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > limit:
                    size = f"{limit >> 30} GB" if limit >> 30 else f"{limit >> 20} MB"
                    raise ModelError(f"{name} in {where} is larger than {size}; this is not a model file.")
                return cls(name, where, file.read())
        except OSError as error:
            raise ModelError(f"{name} in {where} cannot be read: {error.strerror}.") from error

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def json(self) -> dict[str, Any]:
        """Parse the content as a JSON object within the limits of `json_input`.

        Raises:
            ModelError: It is not such an object.
        """
        try:
            return parse_object(self.content)
        except JsonError as error:
            raise ModelError(f"{self} cannot be used: {error}; export the model again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that goes into a model.

    Raises:
        ModelError: The file cannot be read or is not such an object.
    """
    return ModelFile.read(path.parent, path.name, str(path.parent)).json()
