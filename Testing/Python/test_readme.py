"""What the README shows is true: its Python runs, its options and files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import tiny
from MoBUncertaintyLib import model as models
from MoBUncertaintyLib.cli import app
from MoBUncertaintyLib.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model_export import export

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CT, as the README's reader has, where the model it names is a tiny one."""
    raw = tiny.make_results_folder(tmp_path / "raw", covariance=CovarianceSpec(Covariance.DIAGONAL))
    export(raw, tmp_path / "models" / "PhantomPancreas", name="PhantomPancreas")
    sitk.WriteImage(tiny.make_ct(), tmp_path / "ct.nii.gz")
    monkeypatch.setattr(models.find_model, "__defaults__", (tmp_path / "models",))
    monkeypatch.setattr(models.list_models, "__defaults__", (tmp_path / "models",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_example_runs(reader: Path, capsys: pytest.CaptureFixture) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 1
    scope: dict = {}
    exec(compile(examples[0], "README.md", "exec"), scope)
    assert scope["prediction"].segmentation.GetSize() == scope["image"].GetSize()
    assert len(capsys.readouterr().out.splitlines()) == len(scope["regions"].regions)


def test_command_of_the_readme_writes_the_files_of_its_table(reader: Path) -> None:
    commands = re.findall(r"^mob-uncertainty (predict .*)$", README, re.MULTILINE)
    assert len(commands) == 1
    done = CliRunner().invoke(app, commands[0].split())
    assert done.exit_code == 0, done.output
    section = README.split("## What is written")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {path.name for path in (reader / "results").iterdir()} == named


def test_options_that_are_named_exist() -> None:
    shown = "".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output for name in ("predict",))
    section = README.split("## Command line")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `--")]
    named = {option for line in table for option in re.findall(r"`(--[a-z-]+)", line)}
    assert len(named) >= 12
    assert [option for option in named if option not in shown] == []
