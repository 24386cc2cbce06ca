"""Ways to change JSON and model files: by hand, as a forger would, and at random."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place; `change` gets its content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content) or content), encoding="utf-8")


def rehash(folder: Path) -> None:
    """Make the hashes in `model.json` those of the files, as a careful forger would."""
    edit(
        folder / "model.json",
        lambda content: content.update(
            files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
        ),
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any) -> list[tuple[Any, ...]]:
    """Where every entry of nested JSON is."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in entries for path in [(key,), *((key, *rest) for rest in paths(inner))]]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed
