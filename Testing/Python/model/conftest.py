"""A model folder to read."""

from pathlib import Path

import pytest

from support.tiny import make_model_folder


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two folds. Tests that change it copy it."""
    folder = tmp_path_factory.mktemp("models") / "Tiny"
    make_model_folder(folder)
    return folder
