"""What the documents say is true: examples run, and options, files, buttons, keys, messages and numbers are ours."""

from __future__ import annotations

import ast
import builtins
import errno
import json
import os
import pkgutil
import re
import textwrap
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
import typer
import yaml
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.main import get_command
from typer.testing import CliRunner

import MoBUncertaintyLib
from mob_training.cli import app as training_app
from MoBUncertaintyLib.cli import app as cli_app
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.app import app
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.images.reader import digest
from MoBUncertaintyLib.model import folder as models
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network import heads
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.output.folders import FolderKind
from MoBUncertaintyLib.output.results_folder import write_results
from MoBUncertaintyLib.regions.blocks import LONGEST_MM
from MoBUncertaintyLib.regions.settings import DEFAULT_THRESHOLD, Measure, RegionSettings
from support import ROOT, tiny
from support.fake_case import Case, fake_case
from support.repository import setting, tracked
from support.requirements import SLICERS_PACKAGES, requirements

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULE = ROOT / "MoBUncertainty"
LIBRARY = MODULE / "MoBUncertaintyLib"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((MODULE / "Documentation").glob("*.md"))}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMAND_LINE, TUTORIAL, PRIVACY = PAGES["command-line"], PAGES["tutorial"], PAGES["privacy"]


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def steps(text: str) -> str:
    """Return a numbered list, which ends where something else stands at the start of a line."""
    return re.search(r"^1\. .*?(?=^[^\s\d])", text, re.MULTILINE | re.DOTALL)[0]


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
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["python"], re.DOTALL)
    scope: dict = {}
    exec(compile(example, "python.md", "exec"), scope)
    assert scope["prediction"].segmentation.GetSize() == scope["image"].GetSize()
    assert len(capsys.readouterr().out.splitlines()) == len(scope["regions"].regions)


def run(command: str) -> Result:
    done = CliRunner().invoke(app, [str(Path(word).expanduser()) for word in command.split()[1:]])
    assert done.exit_code == 0, done.output
    return done


def test_predict_as_shown_writes_the_files_of_the_table(reader: Path) -> None:
    (command,) = shell_commands(section(COMMAND_LINE, "Predict"))
    run(command)
    rows = [line.split("|")[1] for line in section(COMMAND_LINE, "Results folder").splitlines() if line[:3] == "| `"]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {path.name for path in (reader / "results").iterdir()} == named


def write_case(folder: Path) -> Case:
    """Write a CT and its results, without a network."""
    case = fake_case()
    sitk.WriteImage(case.image, folder / "ct.nii.gz")
    source = {"source": folder / "ct.nii.gz", "sha256": digest(folder / "ct.nii.gz")}
    write_results(folder / "results", case.image, case.prediction, case.regions, case.card, scene=False, **source)
    return case


def test_review_and_signature_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    decisions, signature = re.findall(r"```json\n(.*?)```", section(COMMAND_LINE, "Review"), re.DOTALL)
    (tmp_path / "decisions.json").write_text(decisions, encoding="utf-8")
    (review,) = shell_commands(section(COMMAND_LINE, "Review"))
    run(review)
    assert not json.loads((tmp_path / "results" / "review" / "report.json").read_text())["review"]["signature"]
    signed = json.loads(decisions) | json.loads("{" + signature + "}")
    (tmp_path / "decisions.json").write_text(json.dumps(signed), encoding="utf-8")
    key = Ed25519PrivateKey.generate()
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    (tmp_path / "colleagues.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    sign, verify = shell_commands(section(COMMAND_LINE, "Sign and verify"))
    run(sign)
    assert (tmp_path / "results" / "review" / "report.sig").is_file()
    assert "SHA256:" in run(verify).stdout  # the key's fingerprint


def test_model_commands_as_shown(reader: Path) -> None:
    inspect, export_model = shell_commands(section(COMMAND_LINE, "Models"))
    assert "PhantomPancreas" in run(inspect).stdout
    run(export_model.replace("TRAINING_FOLDER", "raw").replace("MODEL", "model"))
    card = section(COMMAND_LINE, "Models").split("**model folder**")[1].split("The card")[0]
    assert {path.relative_to(reader / "model").as_posix() for path in (reader / "model").rglob("*.*")} == {
        name.replace("fold_K", "fold_0") for name in re.findall(r"`(\w[\w/]*\.\w+)`", card)
    }


def test_exit_codes_are_the_programs() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section(COMMAND_LINE, "Exit codes"), re.MULTILINE)}
    assert codes == {0, console.UNEXPECTED, console.BAD_INPUT, console.CANCELLED}


def test_messages_of_the_troubleshooting_are_the_codes_own() -> None:
    rows = [line for line in PAGES["troubleshooting"].splitlines() if line.startswith("| `")]
    quoted = {re.match(r"\| `([^`]+)` \|", row).group(1) for row in rows}
    assert len(quoted) == len(rows) >= 24
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
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGES["troubleshooting"], re.MULTILINE)
    patterns = [re.escape(row).replace("…", ".+") for row in quoted]
    assert sum(bool(re.fullmatch(pattern, message)) for pattern in patterns) == 1


@pytest.mark.parametrize("text", [TUTORIAL, section(README, "First result in Slicer")], ids=["tutorial", "README"])
def test_what_the_steps_name_is_on_the_panel(text: str) -> None:
    named = set(re.findall(r"\*{1,2}([^*]+)\*{1,2}", re.sub(r"!\[[^]]*\]|\s+", " ", steps(text))))
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
    table = [line for line in section(TUTORIAL, "Keys").splitlines() if line.startswith("| `")]
    assert keys == {key for row in table for key in re.findall(r"`((?:\w+\+)*[A-Z])`", row)}
    code = (LIBRARY / "slicer_app" / "panel" / "review.py").read_text(encoding="utf-8")
    assert [key for key in keys if f'"{key}"' not in code] == []
    assert len(keys) >= 8


def test_files_of_an_export_are_the_ones_that_are_written() -> None:
    named = set(re.findall(r"`(\w+(?:\.\w+)+)`", section(TUTORIAL, "What an export writes")))
    written = "\n".join(path.read_text(encoding="utf-8") for path in LIBRARY.glob("output/**/*.py"))
    assert len(named) >= 7
    assert [name for name in named if name not in written] == []


def test_places_of_the_privacy_page_are_the_codes_own() -> None:
    assert 'make_private_folder("MoBUncertainty"' in (LIBRARY / "slicer_app" / "worker" / "process.py").read_text(
        encoding="utf-8"
    )
    assert "`MoBUncertainty-…`" in PRIVACY
    sources = [MODULE / "MoBUncertainty.py", *LIBRARY.glob("**/*.py"), MODULE / "Resources/UI/MoBUncertainty.ui"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    kept = set(re.findall(r"""["'>](MoBUncertainty/\w+)["'<]""", code))
    assert "MoBUncertainty/Models" in kept
    assert set(re.findall(r"`(MoBUncertainty/\w+)`", PRIVACY)) == kept  # what Slicer's settings remember, all of it
    assert set(re.findall(r'userSettings\(\)\.remove\("([^"]+)"\)', PRIVACY)) <= kept


def test_packages_that_can_be_removed_are_this_modules_and_not_slicers() -> None:
    (listed,) = re.findall(r'pip_uninstall\("([^"]+)"\)', PRIVACY)
    packages = {canonicalize_name(name) for name in listed.split()}
    assert packages <= requirements("", "-export").keys()
    assert packages & SLICERS_PACKAGES == set()


def test_every_benchmark_is_named() -> None:
    benchmarks = {path.name for path in (ROOT / "Testing" / "Benchmarks").glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", section(CONTRIBUTING, "Benchmarks"))) == benchmarks


def test_nothing_is_promised_for_the_clinic() -> None:
    assert "**Not for clinical use.**" in README.split("\n## ")[0]
    assert "not for clinical use" in section(PAGES["science"], "Limits")


# Numbers


def states(text: str, number: float) -> bool:
    """Tell whether a text is the number, to as many digits as it has."""
    written = re.match(r"\d+(?:\.(\d+))?", text)
    return abs(float(written[0]) - number) <= 0.501 * 10.0 ** -len(written[1] or "")


@pytest.mark.parametrize(
    ("title", "results", "systems"),
    [("Compared with stock nnU-Net", "small", "abe"), ("With bfloat16", "small-bfloat16", "ae")],
    ids=["float32", "bfloat16"],
)
def test_tables_of_the_speed_page_hold_the_benchmarks_numbers(title: str, results: str, systems: str) -> None:
    measured = read_benchmark(results)["systems"]
    rows = [line.strip("| ").split(" | ") for line in section(PAGES["speed"], title).splitlines() if line[:3] > "| -"]
    rows = [row for row in rows if row[0][0].isdigit()]
    assert len(rows) == len({tuple(one["size"]) for one in measured})
    for size, *numbers in rows:
        of = {one["system"]: one for one in measured if " x ".join(map(str, one["size"])) == size}
        seconds = [of[system]["volumes_s"] for system in systems]
        memory = [of[system]["peak_bytes"] / 1e9 for system in "ea"]
        expected = [*seconds, seconds[-1] / seconds[0], *memory]
        stated = [*numbers[:-1], *numbers[-1].split(" / ")]
        assert len(stated) == len(expected)
        assert [text for text, number in zip(stated, expected, strict=True) if not states(text, number)] == []


def test_other_numbers_of_the_speed_page_are_the_benchmarks() -> None:
    text = " ".join(PAGES["speed"].split())
    small, large = read_benchmark("small"), read_benchmark("large")
    (one,) = small["sampling"]
    assert states(re.search(r"moments add ([\d.]+) % to", text)[1], heads_percent(small["targets"], "512 x 512 x 300"))
    assert states(re.search(r"takes 1/(\d+) of the time of 30", text)[1], one["c_s"]["30"] / one["e_s"])
    seconds = {one["system"]: one["volumes_s"] for one in large["systems"]}
    said = re.search(r"nnU-Net takes ([\d.]+) s, our closed form ([\d.]+) s, our 30 samples ([\d.]+) s", text).groups()
    assert [states(each, seconds[system]) for each, system in zip(said, "aed", strict=True)] == [True] * 3
    assert states(
        re.search(r"samples [\d.]+ s; heads and moments add ([\d.]+) %", text)[1], heads_percent(large["targets"])
    )
    adaptive = [t["value"] for t in read_benchmark("small-bfloat16")["targets"] if t["what"].startswith("(a) / (e-ad")]
    said = re.search(r"the ratios are ([\d.]+), ([\d.]+) and ([\d.]+)\.", text).groups()
    assert [states(each, 1 / value) for each, value in zip(said, adaptive, strict=True)] == [True] * 3


def heads_percent(targets: list[dict], size: str = "") -> float:
    """Return the time of heads and moments in percent of the backbone's."""
    (found,) = (one for one in targets if "heads and moments / backbone" in one["what"] and size in one["where"])
    return 100 * found["value"]


def read_benchmark(name: str) -> dict:
    path = ROOT / "Testing" / "Benchmarks" / "results" / name / "benchmark.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_numbers_about_regions_are_the_settings() -> None:
    text = " ".join(section(PAGES["science"], "How doubtful regions are found").split())
    usual = RegionSettings()
    thresholds = re.search(
        r"([\d.]+) for the variance, ([\d.]+) for p \(1 - p\), ([\d.]+) for the entropy", text
    ).groups()
    assert [float(number) for number in thresholds] == [DEFAULT_THRESHOLD[measure] for measure in Measure]
    assert f"grown by {usual.grow_mm:g} mm" in text
    assert f"longer than {usual.length_mm:g} mm" in text
    assert f"at most {LONGEST_MM:g} mm" in text
    card = load_model(MODULE / "Resources" / "Models" / "HippocampusAnterior").card
    own = card.region_settings
    assert f"threshold of {own.level:g}, grows by {own.grow_mm:g} mm, and cuts at {own.length_mm:g} mm" in text
    row = next(line for line in README.splitlines() if line.startswith("| HippocampusAnterior"))
    dice, cases = re.search(r"Dice ([\d.]+) on (\d+) held-out", row).groups()
    assert states(dice, card.scores["dice"]["mean"])
    assert int(cases) == card.scores["held_out_cases"]


# CONTRIBUTING.md


def test_packages_are_listed_in_the_order_that_imports_follow() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == ["MoBUncertaintyLib"])
    expected = [{name.strip(" ()") for name in layer.split("|")} for layer in layers]
    expected = [{name for name in layer if list(LIBRARY.glob(f"{name}*"))} for layer in expected]
    table = section(CONTRIBUTING, "Where things are").split("| package of")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [set(re.findall(r"`(\w+)", row)) for row in rows] == [layer for layer in expected if layer]


# Its worked examples


EXAMPLES = [section(CONTRIBUTING, f"Add a {what}") for what in ("covariance model", "map", "command")]


def python_blocks(text: str) -> list[str]:
    return [
        textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=["covariance", "map", "command"])
def test_every_step_names_what_its_files_hold(example: str) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in tracked("*.py", "*.yaml")}
    named: list[str] = []
    checked = 0
    for step in re.split(r"^(?=\d+\. )", example, flags=re.MULTILINE):
        prose = re.sub(r"^ *```.*?^ *```", "", step, flags=re.MULTILINE | re.DOTALL)
        found = re.findall(r"`([\w/]+\.(?:py|yaml))`", prose)
        named = found if "same file" not in prose else [*named, *found]
        text = "\n".join(source for path, source in sources.items() if path.as_posix().endswith(tuple(named)))
        for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)?)`", prose) if named else ():
            assert re.search(rf"\b{name.split('.')[-1]}\b", text), f"{name} is not in {', '.join(named)}"
            checked += 1
        for block in python_blocks(step):
            assert names_used_in(block) <= {*names_in(text), *dir(builtins), "kind", "values"}, block
    assert checked >= 2


def names_used_in(block: str) -> set[str]:
    """Return the names that a piece of code takes from elsewhere; entries of a dict and returns are pieces, too."""
    try:
        tree = ast.parse(block)
    except SyntaxError:
        tree = ast.parse("{" + block + "}")
    nodes = list(ast.walk(tree))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {node.id for node in nodes if isinstance(node, ast.Name)} - bound


def names_in(source: str) -> set[str]:
    return set(re.findall(r"\w+", source))


def test_head_of_the_example_has_the_covariance_that_it_states() -> None:
    (example,) = python_blocks(EXAMPLES[0])
    scope = dict(vars(heads))
    exec(compile(example, "CONTRIBUTING.md", "exec"), scope)
    head = scope["TriangularHead"](CovarianceSpec(), features=5, classes=3)
    features = torch.randn(2, 5, 4, 3, 2)
    gaussian = head(features, torch.zeros(2, 3, 4, 3, 2))
    triangle = torch.zeros(2, 3, 3, 4, 3, 2)
    triangle[:, [0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]] = head.triangle(features)
    expected = torch.einsum("bcr...,bdr...->bcd...", triangle, triangle) + torch.eye(3)[None, :, :, None, None, None]
    torch.testing.assert_close(gaussian.marginal_covariance(), expected)


def test_command_of_the_example_lists_the_regions(tmp_path: Path) -> None:
    (example,) = python_blocks(EXAMPLES[2])
    case = write_case(tmp_path)
    program = typer.Typer()
    program.callback()(lambda: None)
    exec(compile(example, "CONTRIBUTING.md", "exec"), dict(vars(cli_app)) | {"app": program})
    lines = CliRunner().invoke(program, ["regions", str(tmp_path / "results")]).stdout.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[str(r.rank), r.location] for r in case.regions.regions]


# Commands and links


def shell_commands(text: str) -> list[str]:
    """Return the commands of the `sh` blocks, each in one line and without its comment."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines if (command := re.sub(r"\s+# .*", "", line).strip())]


DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in tracked("*.md")}
PROGRAMS = {"mob-uncertainty": app, "mob-training": training_app}


def test_commands_and_options_exist() -> None:
    checked = 0
    for document, text in DOCUMENTS.items():
        quoted = re.findall(r"`((?:mob-uncertainty|mob-training) [^`]*)`", re.sub(r"\s+", " ", text))
        for command in [*shell_commands(text), *quoted]:
            program, *words = command.split()
            if program in PROGRAMS and re.fullmatch(r"[a-z][a-z0-9-]*", (words or [""])[0]):
                found = get_command(PROGRAMS[program]).commands[words[0]]
                options = {name for option in found.params for name in [*option.opts, *option.secondary_opts]}
                given = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
                assert found.context_settings.get("ignore_unknown_options") or given <= options, (
                    f"{document}: {command}"
                )
                checked += 1
    assert checked >= 20


def test_options_of_the_table_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", section(COMMAND_LINE, "Predict")))
    predict = get_command(app).commands["predict"]
    assert len(named) >= 12
    assert named <= {name for option in predict.params for name in [*option.opts, *option.secondary_opts]}


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    named = {
        target for text in DOCUMENTS.values() for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)
    }
    assert {"demo", "test", "lint"} <= named <= targets


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    for link in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", DOCUMENTS[document]):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_files_that_are_named_exist() -> None:
    """Paths from the root of the repository, and Python files by the end of their path."""
    files = [path.relative_to(ROOT).as_posix() for path in tracked()]
    tops = {file.split("/")[0] for file in files}
    settings = {f"MoBUncertainty/{name}" for name in ("Models", "ExportDirectory")}  # of Slicer's settings
    checked = 0
    for document, text in DOCUMENTS.items():
        for word in re.findall(
            r"(?<![\w./-])[\w.-]+(?:/[\w.-]+)+|\b\w+\.py\b", re.sub(r"\]\([^)]*\)|https?://\S+", "", text)
        ):
            name = word.rstrip(".")
            if name.split("/")[0] in tops and name not in settings:
                assert (ROOT / name).exists(), f"{document}: {name}"
                checked += 1
            elif name.endswith(".py"):
                assert any(f"/{file}".endswith(f"/{name}") for file in files), f"{document}: {name}"
                checked += 1
    assert checked >= 10


def test_names_of_the_library_that_are_written_exist() -> None:
    names = {
        name
        for text in DOCUMENTS.values()
        for name in re.findall(r"\b(?:MoBUncertaintyLib|mob_training)(?:\.\w+)+", text)
    }
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def test_every_picture_is_shown() -> None:
    shown = {link.split("/")[-1] for text in DOCUMENTS.values() for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)}
    pictures = {path.name for path in (MODULE / "Resources" / "Screenshots").iterdir()}
    assert pictures == pictures & shown


def test_citation_is_of_this_version_and_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == MoBUncertaintyLib.__version__
    assert cited["authors"] == [{"name": setting("CONTRIBUTORS")}]
    assert cited["repository-code"] == setting("HOMEPAGE")
    words = " ".join(section(README, "Citation").replace("*", " ").lower().split())
    assert all(reference["title"].split(":")[-1].strip().lower() in words for reference in cited["references"][:2])


def test_changelog_has_an_entry_for_what_comes_next() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1:] == sorted(versions[1:], key=Version, reverse=True)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_no_host_of_a_package_index_is_named() -> None:
    hosts = re.compile(r"\b(?:pypi\.(?:org|python)|pythonhosted\.|download\.pytorch\.|conda\.anaconda\.|test\.pypi)")
    text = [path for path in tracked() if path.suffix in {"", ".md", ".py", ".toml", ".txt", ".yaml", ".json", ".ui"}]
    assert [path for path in text if path != Path(__file__) and hosts.search(path.read_text(encoding="utf-8"))] == []
