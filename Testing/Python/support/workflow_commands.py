"""The workflow as a user runs it, and a small config."""

import copy
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from mob_training.workflow import FOLDER
from support.forks import child

CONFIGS = {path.stem: path for path in sorted((FOLDER / "config").glob("*.yaml"))}
SMALL: dict[str, Any] = {
    "phantom": {"cases": 5},
    "datasets": {"Pancreas": {"id": 1, "organ": "pancreas"}},
    "split": {"validation": 1, "test": 1},
    "seeds": [0, 1],
    "train": {"epochs": 3},
    "finetune": {"epochs": 1},
    "models": {"diagonal": {"covariance": "diagonal"}, "mob": {"covariance": "mixture-of-bases", "rank": 4}},
}


def small(**changes: Any) -> dict[str, Any]:
    """A config; a change of None takes an entry away."""
    config = copy.deepcopy(SMALL) | changes
    return {key: value for key, value in config.items() if value is not None}


def command(config: Path, output: Path, *arguments: object) -> list[str]:
    words = [sys.executable, "-m", "mob_training.cli", "workflow", config, "--output", output, *arguments]
    return [str(word) for word in words]


def run(config: Path, output: Path, *arguments: object) -> str:
    """`mob-training workflow`; returns what it printed.

    Raises:
        AssertionError: It failed; with the end of its log.
    """
    import snakemake.cli  # noqa: F401 - once, for all forks

    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        words = command(config, output, *arguments)
        code = child()(words, env=dict(os.environ), stdout=file, stderr=subprocess.STDOUT).wait()
        file.seek(0)
        printed = file.read()
    assert code == 0, printed[-3000:]
    return printed


def dry_run(config: Path, output: Path, *arguments: object) -> str:
    """The same with `--dry-run`."""
    return run(config, output, "--dry-run", *arguments)


def jobs(config: Path, output: Path, *arguments: object) -> dict[str, int]:
    """How many jobs of each rule a dry run counts."""
    printed = dry_run(config, output, *arguments)
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE)}


def written(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
