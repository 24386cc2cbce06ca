"""Modules that only a process with Slicer has, by names that the process that collects the tests may have, too."""

import importlib
from types import ModuleType
from typing import Any


class Late:
    """A module that is imported once something of it is used.

    Args:
        name: Of the module; those in it are found as in any package.
    """

    __slots__ = ("_name",)  # without a dictionary of its own, in which monkeypatch would look for what it replaces

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") and attribute != "_":  # the translation
            raise AttributeError(attribute)  # pytest looks for such names in all that a file has
        module, name = importlib.import_module(self._name), f"{self._name}.{attribute}"
        if hasattr(module, attribute):
            value = getattr(module, attribute)
            return Late(name) if isinstance(value, ModuleType) and value.__name__ == name else value
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise AttributeError(attribute) from None
        return Late(name)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(importlib.import_module(self._name), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(importlib.import_module(self._name), attribute)


ctk, qt, slicer, vtk, QtTest = map(Late, ("ctk", "qt", "slicer", "vtk", "PySide6.QtTest"))
slicer_app = Late("MoBUncertaintyLib.slicer_app")
