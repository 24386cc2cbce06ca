"""Settings that were stored as JSON, perhaps by an earlier version that had fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

_EARLIER = "earlier"


def later_setting(default: Any, earlier: Any) -> Any:
    """Declare a dataclass field that earlier versions had not, and that is now other than what they did.

    Args:
        default: Its value, where nothing is said.
        earlier: The value with which this version does what they did.
    """
    return field(default=default, metadata={_EARLIER: earlier})


def completed(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Add to what JSON made of `dataclasses.asdict`, in any version, the settings that version had not.

    Args:
        cls: Dataclass of the settings; what a version has not and no `later_setting` declares is the default.
        stored: The settings; lists become tuples. None at all say nothing of a version, and all are as usual.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    earlier = {each.name: each.metadata[_EARLIER] for each in fields(cls) if _EARLIER in each.metadata}
    return {**earlier, **values} if values else {}
