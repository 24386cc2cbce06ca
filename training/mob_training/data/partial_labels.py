"""Data sets whose cases are not all labelled alike: which labels each case has, in `labelled.json`.

The file lies beside `images` and `labels`, or beside nnU-Net's `splits_final.json`, which names cases as well:
`dataset.json` goes into models, where the names of cases have no place. It maps the name of a case to the names of its
labels. A case that it does not name has all labels; a label that a case has may still be absent from its image.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.json_input import JsonError, read_object
from MoBUncertaintyLib.base.publishing import write_file

FILE = "labelled.json"

Missing = Mapping[str, frozenset[int]]
"""The values of the labels that a case lacks, by its name; a case that has all labels need not be there."""


def read_missing(
    folder: Path, labels: Sequence[str], cases: Collection[str] | None = None
) -> dict[str, frozenset[int]]:
    """Read which labels the cases of a data set lack; none without the file.

    Labels are the names of the values 1, 2, ...; names of cases are checked where they are given.

    Raises:
        SettingsError: It is no such file, names a case or a label that the data set does not have, or no label for a
            case.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    try:
        content = read_object(path)
    except JsonError as error:
        raise SettingsError(f"{path} cannot be used: {error}.") from None
    values = {name: value for value, name in enumerate(labels, start=1)}
    missing = {}
    for case, names in content.items():
        if cases is not None and case not in cases:
            raise SettingsError(f"{path} names the case {case}, which the data set does not have.")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise SettingsError(f"{path} must list the names of the labels of {case}, at least one.")
        if unknown := [name for name in names if name not in values]:
            raise SettingsError(f"{path} gives {case} the label {unknown[0]}; the labels are {', '.join(labels)}.")
        missing[case] = frozenset(values.values()) - {values[name] for name in names}
    return {case: lacked for case, lacked in missing.items() if lacked}


def write_labelled(folder: Path, labels: Sequence[str], missing: Missing) -> None:
    """Write which labels the cases have that lack some; nothing if there are none."""
    labelled = {
        case: [name for value, name in enumerate(labels, start=1) if value not in lacked]
        for case, lacked in sorted(missing.items())
        if lacked
    }
    if labelled:
        text = json.dumps(labelled, indent=1) + "\n"
        write_file(Path(folder, FILE), lambda partial: partial.write_text(text, encoding="utf-8"))
