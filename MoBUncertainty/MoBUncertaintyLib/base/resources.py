"""Find what ships beside the code (models, templates, terminology, demo CT), and the models that are installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PLACES = [folder / "Resources" for folder in Path(__file__).parents[1:3]]
RESOURCES = next(filter(Path.is_dir, _PLACES), _PLACES[1])
"""Inside the library where pip has installed it; beside it in a checkout and in Slicer."""

INSTALLED_MODELS = "MOB_UNCERTAINTY_MODELS"  # environment variable with the folder of the models that users install


def installed_models() -> Path:
    """Find the folder of the models that the user installs, the same for all programs."""
    chosen = os.environ.get(INSTALLED_MODELS)
    return Path(chosen).expanduser().absolute() if chosen else user_folder() / "models"


def user_folder() -> Path:
    """Find the folder of the program where the user or the system wants data to be."""
    if chosen := os.environ.get("XDG_DATA_HOME"):
        base = Path(chosen)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path.home() / ".local" / "share"
    return base / "mob-uncertainty"
