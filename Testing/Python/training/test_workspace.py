"""The folder that holds nnU-Net's three: it is there, or it is named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.training.workspace import FOLDERS
from MoBUncertaintyLib.base.errors import SettingsError


@pytest.mark.parametrize("command", ["plan", "train", "finetune"])
def test_a_workspace_that_is_not_there_is_named_and_not_made(tmp_path, command, monkeypatch):
    for variable in FOLDERS:
        monkeypatch.setenv(variable, "")  # as it was before, afterwards
    options = {
        "plan": ["--dataset-id", "1"],
        "train": ["--dataset-id", "1", "--epochs", "1"],
        "finetune": [str(tmp_path)],
    }
    done = CliRunner().invoke(app, [command, *options[command], "--workspace", str(tmp_path / "typo")])
    assert isinstance(done.exception, SettingsError)
    assert "typo is no workspace: it holds none of the folders raw, preprocessed and results" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "typo" / "raw").mkdir(parents=True)
    done = CliRunner().invoke(app, ["plan", "--dataset-id", "1", "--workspace", str(tmp_path / "typo")])
    assert "There is no data set 1 in" in str(done.exception)
