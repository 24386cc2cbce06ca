"""What the README shows is true: its Python runs, its options, files, buttons, keys and messages are there."""

from __future__ import annotations

import ast
import errno
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import SimpleITK as sitk
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import tiny
from MoBUncertaintyLib import model as models
from MoBUncertaintyLib.cli import app
from MoBUncertaintyLib.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.folders import FolderKind
from MoBUncertaintyLib.model_export import export
from MoBUncertaintyLib.review_files import read_decisions
from test_extension import SLICERS_PACKAGES, requirements

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULE = ROOT / "MoBUncertainty"
LIBRARY = MODULE / "MoBUncertaintyLib"


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    return re.split(r"^## ", README.split(f"\n## {title}")[1], maxsplit=1, flags=re.MULTILINE)[0]


def texts() -> set[str]:
    """Every text in the code, with … for what is put in."""
    found = set()
    for path in [MODULE / "MoBUncertainty.py", *LIBRARY.glob("**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"\{\w*\}", "…", node.value))
    return found


def on_the_panel() -> set[str]:
    """Every text of the .ui file."""
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "MoBUncertainty.ui")
    return {re.sub("<[^>]+>", "", string.text or "").strip().rstrip(":") for string in tree.iter("string")}


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
    rows = [line.split("|")[1] for line in section("What is written").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {path.name for path in (reader / "results").iterdir()} == named


def test_options_that_are_named_exist() -> None:
    shown = "".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output for name in ("predict",))
    table = [line for line in section("Command line").splitlines() if line.startswith("| `--")]
    named = {option for line in table for option in re.findall(r"`(--[a-z-]+)", line)}
    assert len(named) >= 12
    assert [option for option in named if option not in shown] == []


def test_decisions_of_the_example_are_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "decisions.json").write_text(example, encoding="utf-8")
    read = read_decisions(tmp_path / "decisions.json")
    assert [entry.verdict.value for entry in read.entries] == ["include", "exclude", "accept"]
    shown = CliRunner().invoke(app, ["review", "--help"], env={"COLUMNS": "200"}).output
    commands = re.findall(r"^mob-uncertainty review (.*)$", README, re.MULTILINE)
    named = {option for line in [*commands, section("Command line")] for option in re.findall(r"(--\w+)", line)}
    assert {"--decisions", "--format", "--ct"} <= {option for option in named if option in shown}


def test_messages_of_the_troubleshooting_are_the_codes_own() -> None:
    rows = [line for line in section("Troubleshooting").splitlines() if line.startswith("| `")]
    quoted = {re.match(r"\| `([^`]+)` \|", row).group(1) for row in rows}
    assert len(quoted) == len(rows) >= 12
    assert quoted - texts() == set()


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_that_cannot_be_written_to_gives_a_sentence_of_the_table(tmp_path, monkeypatch, missing) -> None:
    """What is missing cannot be made in a place that is gone; what is there may belong to somebody else."""
    kind = FolderKind("export", "an export", "an earlier export", "report.html", "report.json", "a schema")
    if missing:
        gone = FileNotFoundError(errno.ENOENT, "No such file or directory")
        message = str(kind.error(tmp_path / "stick" / "export", gone))
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(OutputError) as caught:
            kind.check(tmp_path / "export")
        message = str(caught.value)
    patterns = [re.escape(row).replace("…", ".+") for row in re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)]
    assert sum(bool(re.fullmatch(pattern, message)) for pattern in patterns) == 1


def test_what_the_tutorial_names_is_on_the_panel() -> None:
    tutorial = section("Tutorial").split("For your own CT")[0]
    named = set(re.findall(r"\*{1,2}([^*]+)\*{1,2}", re.sub(r"!\[[^]]*\]|\s+", " ", tutorial)))
    elsewhere = {"Segmentation > MoB Uncertainty", "Sample Data", "MoB Uncertainty", "PhantomCT", "PhantomPancreas"}
    elsewhere.add("expected error")  # emphasis
    assert {"Apply", "Accept", "Include", "Exclude", "Sign off", "Export", "the demo CT"} <= named
    panel = on_the_panel()
    seen = {name for name in named if name in panel or any(name in text for text in panel if "\n" not in text)}
    assert named - seen - elsewhere - texts() == set()


def test_keys_are_those_of_the_panel() -> None:
    """The buttons' tips name their keys, and the code reacts to them."""
    tips = [re.search(r"\(((?:\w+\+)*[A-Z])\)\.$", text) for text in on_the_panel()]
    keys = {tip.group(1) for tip in tips if tip}
    table = [line for line in section("Tutorial").splitlines() if line.startswith("| `")]
    assert keys == {key for row in table for key in re.findall(r"`((?:\w+\+)*[A-Z])`", row)}
    code = (LIBRARY / "app" / "sections" / "review.py").read_text(encoding="utf-8")
    assert [key for key in keys if f'"{key}"' not in code] == []
    assert len(keys) >= 8


def test_files_of_an_export_are_the_ones_that_are_written() -> None:
    named = set(re.findall(r"`(\w+(?:\.\w+)+)`", section("Tutorial"))) - {
        "training/README.md",
        "model.json",
        "plans.json",
    }
    written = "\n".join((LIBRARY / f"{room}.py").read_text(encoding="utf-8") for room in ("export", "dicom_export"))
    assert len(named) >= 7
    assert [name for name in named if name not in written] == []


def test_places_of_the_privacy_section_are_the_codes_own() -> None:
    privacy = section("Privacy")
    assert 'make_private_folder("MoBUncertainty"' in (LIBRARY / "app" / "worker_process.py").read_text(encoding="utf-8")
    assert "`MoBUncertainty-…`" in privacy
    sources = [MODULE / "MoBUncertainty.py", *LIBRARY.glob("**/*.py"), MODULE / "Resources/UI/MoBUncertainty.ui"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    kept = set(re.findall(r"""["'>](MoBUncertainty/\w+)["'<]""", code))
    assert "MoBUncertainty/Models" in kept
    assert set(re.findall(r"`(MoBUncertainty/\w+)`", privacy)) == kept  # what Slicer's settings remember, all of it
    assert set(re.findall(r'userSettings\(\)\.remove\("([^"]+)"\)', privacy)) <= kept


def test_packages_that_can_be_removed_are_this_modules_and_not_slicers() -> None:
    (listed,) = re.findall(r'pip_uninstall\("([^"]+)"\)', section("Privacy"))
    packages = {canonicalize_name(name) for name in listed.split()}
    assert packages <= requirements("", "-export").keys()
    assert packages & SLICERS_PACKAGES == set()


def test_every_benchmark_is_named() -> None:
    benchmarks = {path.name for path in (ROOT / "Testing" / "Benchmarks").glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", section("Development"))) == benchmarks


def test_nothing_is_promised_for_the_clinic() -> None:
    assert "**Not for clinical use.**" in README.split("\n## ")[0]
    assert "not for clinical use" in section("Limits")
