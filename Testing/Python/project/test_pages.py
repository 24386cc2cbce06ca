"""What README and pages show is true: examples run; files, buttons, keys and messages are the product's."""

import ast
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import SimpleITK as sitk
from click.testing import Result
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.app import app
from MoBUncertaintyLib.model import listing as models
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.pipeline.demo import DemoScores
from support import MODULE_FOLDER, tiny
from support.documents import PAGES, README, section, shell_commands
from support.fake_case import write_case
from support.requirements import SLICERS_PACKAGES, requirements

LIBRARY = MODULE_FOLDER / "MoBUncertaintyLib"
COMMAND_LINE, TUTORIAL, PRIVACY = PAGES["command-line"], PAGES["tutorial"], PAGES["privacy"]


def steps(text: str) -> str:
    """Return a numbered list, which ends where something else stands at the start of a line."""
    return re.search(r"^1\. .*?(?=^[^\s\d])", text, re.MULTILINE | re.DOTALL)[0]


@cache
def texts() -> set[str]:
    """Every text in the code, with … for what is put in."""
    found = set()
    for path in [MODULE_FOLDER / "MoBUncertainty.py", *LIBRARY.glob("**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"\{\w*\}", "…", node.value))
    return found


@cache
def on_the_panel() -> set[str]:
    """Every text of the .ui files."""
    trees = map(ElementTree.parse, (MODULE_FOLDER / "Resources" / "UI").glob("*.ui"))
    strings = (string.text or "" for tree in trees for string in tree.iter("string"))
    return {re.sub("<[^>]+>", "", text).strip().rstrip(":") for text in strings}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CT, as the README's reader has, where the model it names is a tiny one."""
    raw = tiny.make_results_folder(tmp_path / "raw", covariance=CovarianceSpec(Covariance.DIAGONAL))
    export(raw, tmp_path / "models" / "HeadNeckOrgans", name="HeadNeckOrgans")
    sitk.WriteImage(tiny.make_ct(), tmp_path / "ct.nii.gz")
    monkeypatch.setattr(models.find_model, "__defaults__", (tmp_path / "models",))
    monkeypatch.setattr(models.list_models, "__defaults__", (tmp_path / "models",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_example_runs(reader: Path, capsys: pytest.CaptureFixture) -> None:
    example, review = re.findall(r"```python\n(.*?)```", PAGES["python"], re.DOTALL)
    scope: dict = {}
    exec(compile(example, "python.md", "exec"), scope)
    assert scope["prediction"].shape == sitk.ReadImage("ct.nii.gz").GetSize()[::-1]
    rows = [line.split("|")[1] for line in PAGES["python"].splitlines() if line.startswith("| `")]
    attributes = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"segmentation", "probability", "variance"} <= attributes
    assert [name for name in attributes if not hasattr(scope["prediction"], name)] == []
    lines = len(scope["prediction"].labels) + len(scope["regions"].ranked)
    assert len(capsys.readouterr().out.splitlines()) == lines
    settings = RegionSettings(Measure.BERNOULLI, threshold=0.01, excess=0.5, depth_mm=0.0, minimum_mm3=0.0)
    scope["regions"] = scope["find_regions"](scope["prediction"], settings)  # the tiny model hardly doubts
    exec(compile(review, "python.md", "exec"), scope)
    assert scope["suggestion"]
    assert scope["review"].expected_error_mm3[1] != scope["review"].expected_error_mm3[0]
    assert scope["corrected"].shape == scope["prediction"].shape


def run(command: str) -> Result:
    done = CliRunner().invoke(app, [str(Path(word).expanduser()) for word in command.split()[1:]])
    assert done.exit_code == 0, done.output
    return done


def test_predict_as_shown_writes_the_files_of_the_table(reader: Path) -> None:
    (command,) = shell_commands(section(COMMAND_LINE, "Predict"))
    shown = " ".join(run(command).stdout.replace("│", " ").split())
    (sample,) = re.findall(r"```text\n(.*?)```", section(COMMAND_LINE, "Predict"), re.DOTALL)
    facts = sample[sample.index("doubtful") :].splitlines()  # below the volumes
    assert [name for line in facts if (name := line.split("  ")[0]) not in shown] == []
    rows = [line.split("|")[1] for line in section(COMMAND_LINE, "Results folder").splitlines() if line[:3] == "| `"]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {path.name for path in (reader / "results").iterdir()} == named


def test_review_and_signature_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    decisions, signature = re.findall(r"```json\n(.*?)```", section(COMMAND_LINE, "Review"), re.DOTALL)
    (tmp_path / "decisions.json").write_text(decisions, encoding="utf-8")
    serve, review = shell_commands(section(COMMAND_LINE, "Review"))
    assert serve == "mob-uncertainty review results --serve"  # run in `cli/test_review_server.py`
    run(review)
    report = json.loads((tmp_path / "results" / "review" / "report.json").read_text())
    assert not report["review"]["signature"]
    assert [click["label"] for click in report["clicks"]] == ["pancreas", "background", "pancreas"]
    assert report["clicks"][-1]["extent"] == "outline" and report["labels"][0]["locked"]
    assert any(click["changed_mm3"] for click in report["clicks"])
    assert [click["region"] is not None for click in report["clicks"]] == [True, True, False]
    signed = json.loads(decisions) | json.loads("{" + signature + "}")
    (tmp_path / "decisions.json").write_text(json.dumps(signed), encoding="utf-8")
    run(f"{review} --overwrite")
    (verify,) = [c for c in shell_commands(section(COMMAND_LINE, "Sign and verify")) if c.startswith("mob-uncertainty")]
    assert "A. Reader" in run(verify).stdout


def test_model_commands_as_shown(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOB_UNCERTAINTY_ENGINE")  # without OpenVINO there is no graph
    inspect, export_model = shell_commands(section(COMMAND_LINE, "Models"))
    assert "HeadNeckOrgans" in run(inspect).stdout
    run(export_model.replace("TRAINING_FOLDER", "raw").replace("MODEL", "model"))
    card = section(COMMAND_LINE, "Models").split("**model folder**")[1].split("The card")[0]
    named = {name.replace("fold_K", "fold_0") for name in re.findall(r"`(\w[\w/]*\.\w+)`", card)}
    assert {path.relative_to(reader / "model").as_posix() for path in (reader / "model").rglob("*.*")} == named


def test_scores_of_the_demo_are_those_that_it_writes() -> None:
    text = section(README, "Without Slicer").split("`demo.json` holds the scores")[1]
    assert re.findall(r"`(\w+)`", text) == [field.name for field in fields(DemoScores)]


def test_exit_codes_are_the_programs() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section(COMMAND_LINE, "Exit codes"), re.MULTILINE)}
    assert codes == {0, console.UNEXPECTED, console.BAD_INPUT, console.CANCELLED}


def test_messages_of_the_troubleshooting_are_the_codes_own() -> None:
    rows = [line for line in PAGES["troubleshooting"].splitlines() if line.startswith("| `")]
    quoted = {re.match(r"\| `([^`]+)` \|", row).group(1) for row in rows}
    assert len(quoted) == len(rows) > 0
    assert quoted - texts() == set()


OF_SLICER = {
    *("Edit", "Application Settings", "Modules", "Additional module paths", "Cache", "Clear cache", "View"),
    *("Extensions Manager", "Install", "Segmentation", "Sample Data", "PyTorch", "PyTorch Utils", "Reload"),
    *("Crop Volume", "Data", "Resample Scalar Volume", "Segment Editor", "Volumes", "Volume Information"),
    *("File", "Save Data", "Create new ROI", "Show Details..."),
}
NO_NAMES = {"MoB", "Mixture-of-Bases", "expected error", "phantoms", "highdicom", "Nothing leaves your computer."}
NO_NAMES |= {"where the segmentation may be wrong", "Not for clinical use.", "not for clinical use"}


@pytest.mark.parametrize("text", [TUTORIAL, section(README, "First result in Slicer")], ids=["tutorial", "README"])
def test_steps_name_the_buttons(text: str) -> None:
    assert {"Apply", "Accept", "Include", "Exclude", "Sign off", "Export", "the demo CT"} <= emphasised(steps(text))


@pytest.mark.parametrize("page", ["README", "tutorial", "troubleshooting", "privacy"])
def test_names_in_slicer_are_those_of_the_panel(page: str) -> None:
    text = README.split("\n## Citation")[0] if page == "README" else PAGES[page]
    named = {part for name in emphasised(text) for part in name.split(" > ")} - NO_NAMES - OF_SLICER
    lines = {text for text in on_the_panel() | texts() if "\n" not in text}
    assert len(named) >= 3
    shown = {name for name in named if any(name in line for line in lines)}
    if "uncertainty …" in lines:  # of the nodes that hold a document
        shown |= {name for name in named if name.startswith("uncertainty ")}
    assert named - shown - {"MoB Uncertainty", "HeadNeckCT", "HeadNeckCT contours", "HeadNeckOrgans"} == set()


def emphasised(text: str) -> set[str]:
    """Return what is set in italics or bold, which names of the user interface are."""
    plain = re.sub(r"!\[[^]]*\]|`[^`]*`|\s+", " ", text)
    return set(re.findall(r"\*{1,2}([^*]+)\*{1,2}", plain))


def test_keys_are_those_of_the_panel() -> None:
    """The buttons' tips name their keys, and the code reacts to them."""
    tips = [re.search(r"\(((?:\w+\+)*[A-Z])\)\.$", text) for text in on_the_panel()]
    keys = {tip.group(1) for tip in tips if tip}
    table = [line for line in section(TUTORIAL, "Keys").splitlines() if line.startswith("| `")]
    assert keys == {key for row in table for key in re.findall(r"`((?:\w+\+)*[A-Z])`", row)}
    files = (LIBRARY / "slicer_app" / "sections" / "review.py", LIBRARY / "slicer_app" / "clicks" / "devices.py")
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [key for key in keys if f'"{key}"' not in code] == []
    assert len(keys) >= 11


def test_review_page_has_the_panels_keys() -> None:
    page = (MODULE_FOLDER / "Resources" / "Report" / "review.html.jinja").read_text(encoding="utf-8")
    on_page = {name.lower(): key for name, key in re.findall(r">([A-Z][a-z ]+)<kbd>(\w+)</kbd>", page)}
    row = re.compile(r"`(\w)` \| ([^|]+?) \|")
    named = row.findall(section(TUTORIAL, "Keys"))
    on_panel = {name.removesuffix(" region").removesuffix(" undecided"): key for key, name in named}
    both = on_page.keys() & on_panel.keys()
    assert both == {"organ here", "not organ here", "lasso", "box", "accept", "include", "exclude", "next"}
    assert {name: on_page[name] for name in both} == {name: on_panel[name] for name in both}
    others = {key for name, key in on_page.items() if name not in both}
    assert others & set(on_panel.values()) == set()


def test_files_of_an_export_are_the_ones_that_are_written() -> None:
    named = set(re.findall(r"`(\w+(?:\.\w+)+)`", section(TUTORIAL, "What an export writes")))
    written = "\n".join(path.read_text(encoding="utf-8") for path in LIBRARY.glob("output/**/*.py"))
    assert len(named) >= 7
    assert [name for name in named if name not in written] == []


def test_places_of_the_privacy_page_are_the_codes_own() -> None:
    sources = [MODULE_FOLDER / name for name in ("MoBUncertainty.py", "Resources/UI/MoBUncertainty.ui")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*sources, *LIBRARY.glob("**/*.py")])
    assert "`MoBUncertainty-…`" in PRIVACY and 'make_private_folder("MoBUncertainty"' in code
    kept = set(re.findall(r"""["'>](MoBUncertainty/\w+)["'<]""", code))
    assert "MoBUncertainty/Models" in kept
    assert set(re.findall(r"`(MoBUncertainty/\w+)`", PRIVACY)) == kept  # what Slicer's settings remember, all of it
    assert set(re.findall(r'userSettings\(\)\.remove\("([^"]+)"\)', PRIVACY)) <= kept


def test_packages_that_can_be_removed_are_this_modules_and_not_slicers() -> None:
    (listed,) = re.findall(r'pip_uninstall\("([^"]+)"\)', PRIVACY)
    packages = {canonicalize_name(name) for name in listed.split()}
    assert packages <= requirements("", "-export", "-openvino", "-pytorch").keys()
    assert packages & SLICERS_PACKAGES == set()
