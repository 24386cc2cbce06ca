"""What all documents name is there: commands, options, links, paths, pictures."""

import importlib.util
import json
import pkgutil
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from click import Command
from packaging.version import Version
from typer.main import get_command

import MoBUncertaintyLib
from mob_training.cli import app as training_app
from MoBUncertaintyLib.cli.app import app
from support import MODULE_FOLDER, ROOT
from support.documents import DOCUMENTS, PAGES, README, section, shell_commands
from support.repository import setting, tracked

PROGRAMS = {"mob-uncertainty": get_command(app), "mob-training": get_command(training_app)}


def options_of(command: Command) -> set[str]:
    return {name for option in command.params for name in [*option.opts, *option.secondary_opts]}


def test_commands_and_options_exist() -> None:
    checked = 0
    for document, text in DOCUMENTS.items():
        quoted = re.findall(r"`((?:mob-uncertainty|mob-training) [^`]*)`", re.sub(r"\s+", " ", text))
        for command in [*shell_commands(text), *quoted]:
            program, *words = command.split()
            if program in PROGRAMS and re.fullmatch(r"[a-z][a-z0-9-]*", (words or [""])[0]):
                found = PROGRAMS[program].commands[words[0]]
                found = getattr(found, "commands", {}).get((*words, "")[1], found)
                given = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
                known = found.context_settings.get("ignore_unknown_options") or given <= options_of(found)
                assert known, f"{document}: {command}"
                checked += 1
    assert checked >= 20


def test_names_that_python_examples_import_exist() -> None:
    """Examples of results cannot run in the tests, which have no such scores."""
    imports = [
        (document, module, name)
        for document, text in DOCUMENTS.items()
        for module, names in re.findall(
            r"^ *from ((?:mob_training|MoBUncertaintyLib)\S*) import (.+)$", text, re.MULTILINE
        )
        for name in names.split(", ")
    ]
    assert len(imports) >= 5
    for document, module, name in imports:
        source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")  # Slicer's need Qt to run
        assert re.search(rf"\b{name}\b", source), f"{document}: {module} has no {name}"


def test_options_of_the_table_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", section(PAGES["command-line"], "Predict")))
    assert len(named) >= 12
    assert named <= options_of(PROGRAMS["mob-uncertainty"].commands["predict"])


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", "\n".join(DOCUMENTS.values()), re.MULTILINE))
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
    kept = ("Models", "Catalogue", "Computer", "ComputersAllowed", "ExportDirectory")
    settings = {f"MoBUncertainty/{name}" for name in kept}  # of Slicer's settings
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
    names = set(re.findall(r"\b(?:MoBUncertaintyLib|mob_training)(?:\.\w+)+", "\n".join(DOCUMENTS.values())))
    assert names
    for name in names:
        if ".slicer_app." in name:  # modules, which only Slicer can import
            assert importlib.util.find_spec(name), name
        else:
            pkgutil.resolve_name(name)


def test_every_picture_is_shown() -> None:
    shown = {link.split("/")[-1] for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", "\n".join(DOCUMENTS.values()))}
    pictures = {path.name for path in (MODULE_FOLDER / "Resources" / "Screenshots").iterdir()}
    assert pictures == pictures & shown


def test_the_tutorial_lists_every_export_of_the_panel() -> None:
    panel = ElementTree.parse(MODULE_FOLDER / "Resources" / "UI" / "MoBUncertainty.ui")
    texts = ".//layout[@name='exportBoxesLayout']//widget[@class='QCheckBox']/property[@name='text']/string"
    offered = {str(box.text) for box in panel.iterfind(texts)} - {"Name the patient in the report"}
    tutorial = (MODULE_FOLDER / "Documentation" / "tutorial.md").read_text(encoding="utf-8")
    rows = [row for row in section(tutorial, "What an export writes").splitlines() if row.startswith("|")]
    assert {row.split("|")[1].strip() for row in rows[2:]} == offered


def test_citation_is_of_this_version_and_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == MoBUncertaintyLib.__version__
    assert cited["authors"] == [{"name": setting("CONTRIBUTORS")}]
    assert cited["repository-code"] == setting("HOMEPAGE")
    words = " ".join(section(README, "Citation").replace("*", " ").lower().split())
    assert all(reference["title"].split(":")[-1].strip().lower() in words for reference in cited["references"][:2])


def test_archives_of_releases_cite_the_same() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    archived = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert [archived[key] for key in ("title", "upload_type", "license", "creators", "keywords")] == [
        cited[key] for key in ("title", "type", "license", "authors", "keywords")
    ]
    others = {reference.get("doi", reference.get("url")) for reference in cited["references"]}
    assert {entry["identifier"] for entry in archived["related_identifiers"]} <= others


def test_changelog_has_an_entry_for_what_comes_next() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", MoBUncertaintyLib.__version__]
    assert versions[1:] == sorted(versions[1:], key=Version, reverse=True)


def test_the_site_lists_every_page() -> None:
    order = runpy.run_path(str(MODULE_FOLDER / "Documentation" / "conf.py"))["ORDER"]
    listed = {f"{page}.md" for pages in order.values() for page in pages}
    folders = {MODULE_FOLDER / "Documentation", ROOT / "training"}
    assert listed <= {"Try it <self>.md", *DOCUMENTS}
    assert {page for page in DOCUMENTS if (ROOT / page).parent in folders} <= listed


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110


def test_no_host_of_a_package_index_is_named() -> None:
    hosts = re.compile(r"\b(?:pypi\.(?:org|python)|pythonhosted\.|download\.pytorch\.|conda\.anaconda\.|test\.pypi)")
    text = [path for path in tracked() if path.suffix in {"", ".md", ".py", ".toml", ".txt", ".yaml", ".json", ".ui"}]
    assert [path for path in text if path != Path(__file__) and hosts.search(path.read_text(encoding="utf-8"))] == []


def test_nothing_is_promised_for_the_clinic() -> None:
    assert "**Not for clinical use.**" in README.split("\n## ")[0]
    assert "not for clinical use" in section(PAGES["science"], "Limits")
