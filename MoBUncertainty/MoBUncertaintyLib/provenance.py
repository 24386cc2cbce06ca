"""Check what is stored of how a prediction was made, before a report is made of it.

It comes from a results folder's `prediction.json` or from a scene, so that anything may be in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from reprlib import repr as short
from typing import Any

from MoBUncertaintyLib.card import Label
from MoBUncertaintyLib.errors import ReviewError, SettingsError
from MoBUncertaintyLib.region_settings import RegionSettings

UNKNOWN_COLOUR = (128, 174, 128)  # Slicer's tissue; for results that do not tell


def check_provenance(info: Mapping[str, Any]) -> None:
    """Check all entries that reports use; each may be missing.

    Raises:
        ReviewError: One is not what it must be.
    """
    for path, is_right in _ENTRIES.items():
        value: Any = info
        for name in path.split("."):
            if not isinstance(value, Mapping):
                raise _damaged(f"{path!r} is not where it must be")
            if name not in value:
                break
            value = value[name]
        else:
            if not is_right(value):
                raise _damaged(f"{path!r} is {short(value)}")


def read_labels(organs: Any) -> tuple[Label, ...]:
    """The foreground classes as a results folder's `organs`, or a scene, states them.

    Raises:
        ReviewError: They are none, or two have one value or name.
    """
    try:
        labels = tuple(
            Label(organ["value"], organ["name"], organ.get("colour", UNKNOWN_COLOUR), organ["terminology"])
            for organ in organs
        )
        for names in ([label.value for label in labels], [label.name for label in labels]):
            if not names or len(set(names)) < len(names):
                raise ValueError("its labels are none, or not different")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(str(error)) from error
    return labels


def _damaged(problem: str) -> ReviewError:
    return ReviewError(f"What is stored of the prediction is damaged ({problem[:200]}); predict again.")


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(is_right, value))


def _is_moment(value: Any) -> bool:
    return _stands(datetime.fromisoformat, value)


def _is_bounds(value: Any) -> bool:
    return value is None or (isinstance(value, Iterable) and len(list(value)) == 6 and all(map(_is_number, value)))


def _stands(read: Callable[[Any], Any], value: Any) -> bool:
    try:
        read(value)
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError):
        return False
    return True


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "created": _is_moment,
    "warnings": _is_list_of(lambda value: isinstance(value, str)),
    "moments": _is_text,
    "device": _is_text,
    "precision": _is_text,
    "folds": _is_list_of(lambda value: isinstance(value, int | str)),
    "input.name": _is_text,
    "input.path": _is_text,
    "input.sha256": _is_text,
    "input.series": _is_text,
    "model.name": _is_text,
    "model.digest": _is_text,
    "settings.overlap": _is_number,
    "settings.tiling": _is_text,
    "settings.mirror": lambda value: isinstance(value, bool),
    "settings.region_of_interest": _is_bounds,
    "regions.settings": lambda value: _stands(RegionSettings.from_dict, value),
}
