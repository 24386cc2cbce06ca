"""A kind of folder, and what fills it."""

import json
from pathlib import Path

from MoBUncertaintyLib.base.integrity import make_manifest
from MoBUncertaintyLib.output.folders import FolderKind

KIND = FolderKind("results", "results", "earlier results", "segmentation.nii.gz", "prediction.json", "a schema")


def fill(folder: Path, content: str) -> Path:
    """Make a folder of the kind."""
    folder.mkdir(exist_ok=True)
    (folder / "map.nii.gz").write_text(content)
    record = {"schema": "a schema", "files": make_manifest(folder)}
    (folder / "prediction.json").write_text(json.dumps(record))
    return folder
