"""Find the weights that TotalSegmentator's own installer has left on this computer; nothing is downloaded.

They lie as nnU-Net's results do. TotalSegmentator turns every image to RAS before nnU-Net sees it, which no file says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.files import is_training_folder

PREFIX = "totalsegmentator:"  # of the name of a model, before the data set's number
ORIENTATION = "RAS"

OPEN, RESTRICTED = "Apache-2.0", "TotalSegmentator's own, free for non-commercial use with a licence number"
_BY_LICENCE = {
    OPEN: (
        8, 113, 115, 117, 150, 258, 260, *range(291, 296), 297, 298, 299, 300, 305, 315, 343, 351, 527, 552, 570, 576,
        589, 591, 597, 598, 756, *range(775, 780), 789, 803, *range(850, 854), 913, 952,
    ),
    RESTRICTED: (301, 303, 304, 409, 481, 485, 507, 509, 514, 710, 713, 716, 855, 856, 857, 920, 925),
    "CC BY-NC 4.0": (615,),
}  # fmt: skip
LICENCES = {number: licence for licence, numbers in _BY_LICENCE.items() for number in numbers}
"""Of the weights of each data set, by its number, as TotalSegmentator's list of tasks states them."""


def weights_folder() -> Path:
    """Return where TotalSegmentator keeps its weights, by its own environment variables."""
    if chosen := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(chosen).absolute()
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator").absolute() / "nnunet" / "results"


def installed_weights() -> dict[str, Path]:
    """Return the training folders there are by the names of their models, in the order of the data sets' numbers."""
    folder, models = weights_folder(), {}
    numbered = {child: number for child in _children(folder) if (number := _number(child)) is not None}
    for data_set in sorted(numbered, key=lambda child: (numbered[child], child.name)):
        trained = [child for child in _children(data_set) if is_training_folder(child)]
        for child in trained:
            more = f":{child.name}" if len(trained) > 1 else ""
            models[f"{PREFIX}{numbered[data_set]}{more}"] = child
    return models


def find_weights(name: str) -> Path:
    """Find a training folder by its data set's number, or what `installed_weights` calls it; raises `ModelError`."""
    weights = installed_weights()
    if path := weights.get(f"{PREFIX}{name.strip()}"):
        return path
    listed = ", ".join(f"{model.removeprefix(PREFIX)} {path.parent.name}" for model, path in weights.items()) or "none"
    raise ModelError(
        f"TotalSegmentator has no weights '{name}' in {weights_folder()} (there are: {listed}); let TotalSegmentator "
        "download them, or set TOTALSEG_WEIGHTS_PATH."
    )


def name_of(folder: Path) -> str | None:
    """Return the name of the model whose training folder this is, if it is TotalSegmentator's."""
    if number_of(folder) is None:
        return None
    return next((name for name, path in installed_weights().items() if path == folder), None)


def number_of(folder: Path) -> int | None:
    """Return the number of the data set of a training folder of TotalSegmentator's, or None for others."""
    folder = folder.absolute()
    return _number(folder.parent) if folder.parent.parent == weights_folder() else None


def _number(data_set: Path) -> int | None:
    named = re.match(r"Dataset(\d{3,5})_", data_set.name)
    return int(named[1]) if named else None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return []
