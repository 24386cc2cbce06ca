"""The extension as Slicer's build and the Extensions Index see it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

from support import ROOT
from support.repository import setting, tracked
from support.requirements import SLICERS_PACKAGES, requirements

NAME = "MoBUncertainty"
MODULE = ROOT / NAME
LIBRARY = MODULE / f"{NAME}Lib"
RESOURCES = MODULE / "Resources"
CATALOGUE = MODULE / "Documentation" / f"{NAME}.json"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SLICER_HAS = {"slicer", "vtk", "qt", "ctk", "SimpleITK", "numpy", "scipy"}
"""Python packages that come with Slicer 5.12 and 5.13, whatever else is installed."""


# Lists against the tree


def listed(variable: str) -> list[str]:
    """Files that a list of the module's CMakeLists.txt names."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", NAME)
    return re.search(rf"set\({variable}\s([^)]*)\)", text).group(1).split()


def in_tree(folder: Path, pattern: str) -> list[str]:
    return sorted(p.relative_to(MODULE).as_posix() for p in tracked(str(folder.relative_to(ROOT))) if p.match(pattern))


def test_every_script_is_listed() -> None:
    assert sorted(listed("MODULE_PYTHON_SCRIPTS")) == sorted([f"{NAME}.py", *in_tree(LIBRARY, "*.py")])


def test_every_resource_is_listed() -> None:
    """Screenshots are for the README and are not installed."""
    resources = [name for name in in_tree(RESOURCES, "*") if not name.startswith("Resources/Screenshots/")]
    assert sorted(listed("MODULE_PYTHON_RESOURCES")) == resources


def test_every_folder_of_the_library_is_a_package() -> None:
    """Else it would be missing where the library is installed."""
    assert {path.parent for path in LIBRARY.glob("**/*.py")} == {path.parent for path in LIBRARY.glob("**/__init__.py")}


def test_what_runs_inside_slicer_is_registered() -> None:
    folder = ROOT / "Testing" / "Python"
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    (script,) = re.findall(r"^slicer_add_python_unittest\(SCRIPT (\S+)\)", text, re.MULTILINE)
    tree = ast.parse((folder / script).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    tests = [node.name for node in classes[f"{NAME}Test"].body if isinstance(node, ast.FunctionDef)]
    assert any(name.startswith("test_") for name in tests)
    assert "runTest" in tests


SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
"""
SLICER_USE = """
include(CTest)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(BUILD "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${BUILD_SCRIPTS} ${BUILD_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent ${file}")
    endif()
  endforeach()
  message(STATUS "module ${BUILD_NAME} ${BUILD_UNPARSED_ARGUMENTS}")
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(TEST "" "SCRIPT" "" ${ARGN})
  message(STATUS "test ${TEST_SCRIPT} ${TEST_UNPARSED_ARGUMENTS}")
endmacro()
"""


@pytest.mark.skipif(not shutil.which("cmake"), reason="there is no CMake here")
def test_cmake_configures_the_extension(tmp_path: Path) -> None:
    (tmp_path / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
    (tmp_path / "use.cmake").write_text(SLICER_USE)
    (tmp_path / "nothing.cmake").write_text("")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={tmp_path}"]
    # No compiler is needed to see what is configured.
    command += [f"-DCMAKE_{language}_COMPILER_FORCED=TRUE" for language in ("C", "CXX")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if "No CMAKE_C_COMPILER could be found" in done.stderr:
        pytest.skip("there is no compiler here")
    assert done.returncode == 0, done.stderr
    said = [line.removeprefix("-- ").rstrip() for line in done.stdout.splitlines()]
    assert f"module {NAME}" in said
    assert [Path(line.removeprefix("test ")).name for line in said if line.startswith("test ")] == [f"{NAME}Test.py"]


# What the Extensions Index checks


@pytest.fixture(scope="module")
def entry() -> dict:
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))


def test_catalogue_entry_follows_the_schema(entry: dict) -> None:
    texts = dict.fromkeys(("$schema", "build_subdirectory", "category", "scm_revision", "scm_url"), str)
    assert {key: type(value) for key, value in entry.items()} == texts | {"build_dependencies": list, "tier": int}
    assert urlsplit(entry["$schema"]).path.endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json")
    assert entry["tier"] == 3
    assert entry["category"] == "Segmentation"
    assert entry["build_subdirectory"] == "."
    assert entry["build_dependencies"] == [] and setting("DEPENDS") == "NA"
    assert re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", CMAKE, re.IGNORECASE)[0] == CATALOGUE.stem == NAME
    assert not CATALOGUE.stem.lower().startswith("slicer")
    url = urlsplit(entry["scm_url"])
    assert url.scheme == "https" and Path(url.path).stem.startswith("Slicer")


def test_description_is_one_or_two_sentences_that_say_what_mob_means() -> None:
    description = setting("DESCRIPTION")
    assert 1 <= len(re.findall(r"\.(?:\s|$)", description)) <= 2
    assert "Mixture-of-Bases" in description


def picture_at(url: str, entry: dict) -> Path:
    """The file of this repository that an address of a raw file on GitHub leads to."""
    parts = urlsplit(url)
    assert parts.scheme == "https"
    assert parts.netloc == "raw.githubusercontent.com"
    owner, repository, revision, *path = parts.path.lstrip("/").split("/")
    assert f"/{owner}/{repository}.git" == urlsplit(entry["scm_url"]).path
    assert revision == entry["scm_revision"]
    return ROOT.joinpath(*path)


def test_icon_and_screenshots_are_there_and_have_their_size(entry: dict) -> None:
    path = picture_at(setting("ICONURL"), entry)
    assert path == RESOURCES / "Icons" / f"{NAME}.png"
    with Image.open(path) as icon:
        assert (icon.format, icon.size, icon.mode) == ("PNG", (128, 128), "RGBA")
    urls = setting("SCREENSHOTURLS").split(" ")
    assert len(urls) >= 3
    for url in urls:
        with Image.open(picture_at(url, entry)) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 400


def test_a_checkout_is_small() -> None:
    assert sum(path.stat().st_size for path in tracked()) < 25e6


def test_models_are_small() -> None:
    """Each of at most 6 MB, and all of at most 15."""
    models = (tracked(str(folder.relative_to(ROOT))) for folder in (RESOURCES / "Models").iterdir())
    sizes = [sum(path.stat().st_size for path in files) for files in models]
    assert len(sizes) == 3 and max(sizes) < 6e6 and sum(sizes) < 15e6


def packed(revision: bytes) -> int:
    """Count the bytes of what git sends of a revision, and of the index that it makes of the objects."""
    command = ["git", "pack-objects", "--revs", "--stdout", "-q"]
    pack = subprocess.run(command, cwd=ROOT, input=revision, capture_output=True, check=True).stdout
    return len(pack) + 28 * int.from_bytes(pack[8:12], "big")


@pytest.mark.slow
def test_a_clone_is_small() -> None:
    """The index counts the files and their history, of which the release publishes one commit."""
    assert sum(path.stat().st_size for path in tracked()) + packed(b"HEAD^{tree}") < 60 * 2**20  # of 100
    assert packed(b"HEAD") < 100 * 2**20


def test_lines_end_with_lf() -> None:
    text = ("*.py", "*.txt", "*.md", "*.json", "*.ui", "*.toml", "*.jinja", "Makefile")
    assert [path for path in tracked(*text) if b"\r" in path.read_bytes()] == []


def test_the_projects_address_is_one_and_stands_only_where_other_programs_read_it() -> None:
    """`make address` sets it."""
    address = urlsplit(PROJECT["urls"]["Source"]).path.strip("/")
    pattern = re.compile(rf"[\w.-]+/{address.split('/')[1]}\b".encode())
    found = {path.relative_to(ROOT).as_posix(): set(pattern.findall(path.read_bytes())) for path in tracked()}
    files = ("CITATION.cff", "CMakeLists.txt", f"{NAME}/Documentation/{NAME}.json", "pyproject.toml")
    assert {file: named for file, named in found.items() if named} == {file: {address.encode()} for file in files}


@cache
def every_import(path: Path, inner: bool = True) -> set[str]:
    """Full names of what a file imports; without `inner` only when it is imported itself, not in its functions."""
    found: set[str] = set()
    todo = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif inner or isinstance(node, ast.Try | ast.With):
            todo += ast.iter_child_nodes(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            todo += [*node.body, *node.orelse]
    return found


file_scope_imports = partial(every_import, inner=False)


def foreign(starts: list[Path], imports) -> set[str]:
    """Packages, neither of Python nor of this project, that these files import, directly or through the library."""
    seen, todo, found = set(), list(starts), set()
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in imports(path):
            first, *rest = name.split(".")
            if first == LIBRARY.name:
                todo += [LIBRARY.joinpath(*rest).with_suffix(".py"), LIBRARY.joinpath(*rest, "__init__.py")]
            elif first not in sys.stdlib_module_names:
                found.add(first)
    return found


def test_what_runs_in_slicer_imports_only_what_slicer_has() -> None:
    inside = [MODULE / f"{NAME}.py", *LIBRARY.glob("slicer_app/**/*.py")]
    assert foreign(inside, file_scope_imports) <= SLICER_HAS


# Packages


def dependencies() -> dict[str, str]:
    wanted = map(Requirement, (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]))
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in wanted}


def test_requirements_are_the_projects_without_torch_and_what_slicer_has() -> None:
    elsewhere = {"torch", "numpy", "scipy", "simpleitk"}  # PyTorchUtils', and Slicer's own
    terminal = {"rich", "typer"}  # of the command line only
    assert requirements() == {name: v for name, v in dependencies().items() if name not in elsewhere | terminal}


def test_requirements_pin_nothing() -> None:
    assert [text for text in requirements().values() if not re.fullmatch(r">=[\d.]+", text)] == []


def test_torch_is_the_one_of_the_project() -> None:
    text = (LIBRARY / "slicer_app" / "installation.py").read_text(encoding="utf-8")
    assert re.search(r'^TORCH = "torch(.*)"$', text, re.MULTILINE).group(1) == dependencies()["torch"]


def test_dicom_asks_for_packages_that_nothing_else_needs() -> None:
    assert list(requirements("-dicom")) == ["highdicom", "scikit-image"]
    packages = ("highdicom", "skimage")
    needing = [path for path in LIBRARY.glob("**/*.py") if any(n.startswith(packages) for n in every_import(path))]
    assert {path.parent.name for path in needing} == {"dicom", "images"}  # the panel has its CT from Slicer
    writers = [LIBRARY / "output" / name for name in ("review_export.py", "results_folder.py")]
    assert not {"highdicom", "skimage"} & foreign(writers, file_scope_imports)


@pytest.mark.skipif("SLICER_SOURCE" not in os.environ, reason="Slicer's sources say what it ships")
def test_at_apply_slicers_own_packages_stay_as_they_are() -> None:
    """What Slicer pins is new enough, but for DICOM."""
    files = Path(os.environ["SLICER_SOURCE"]).glob("SuperBuild/External_python*.cmake")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    shipped = {canonicalize_name(name): v for name, v in re.findall(r"^\s+([\w.-]+)==(\S+) --hash", text, re.MULTILINE)}
    assert shipped.keys() >= SLICERS_PACKAGES
    wanted = requirements("", "-export")
    assert {"pillow", "pydicom"} <= wanted.keys() & shipped.keys()
    assert [name for name in wanted.keys() & shipped.keys() if shipped[name] not in SpecifierSet(wanted[name])] == []


def test_everything_the_worker_may_import_is_required() -> None:
    """What its packages bring along, such as nnU-Net its acvl_utils, needs no line of its own."""
    owners = importlib.metadata.packages_distributions()
    brought = {canonicalize_name(Requirement(r).name) for r in importlib.metadata.requires("nnunetv2") or []}
    allowed = {*requirements(), *brought, "torch", "numpy", "scipy", "simpleitk"}
    needed = {
        canonicalize_name(owners[name][0])
        for name in foreign([LIBRARY / "worker" / "__main__.py"], every_import) - {"slicer"}
    }
    assert {"torch", "nnunetv2", "highdicom"} <= needed
    assert needed <= allowed


# Pictures


# The panel


PANEL = ElementTree.parse(RESOURCES / "UI" / f"{NAME}.ui").getroot()
SAYS_NOTHING = {"QWidget", "QLabel", "qMRMLWidget"}


def text_of(widget: ElementTree.Element, name: str) -> str:
    """A property of a widget, "" where it is not set."""
    return "".join(widget.findtext(f"property[@name='{name}']/{kind}", "") for kind in ("string", "cstring", "bool"))


def test_every_control_has_a_name_for_screen_readers() -> None:
    """Its own text, the caption whose buddy it is, or a name of its own."""
    widgets = {widget.get("name"): widget for widget in PANEL.iter("widget")}
    captioned = {text_of(widget, "buddy") for widget in widgets.values()} - {""}
    assert captioned <= widgets.keys()
    named = captioned | {
        name for name, widget in widgets.items() if text_of(widget, "text") or text_of(widget, "accessibleName")
    }
    assert {name for name, widget in widgets.items() if widget.get("class") not in SAYS_NOTHING} - named == set()


def test_every_caption_leads_to_its_control() -> None:
    captions = [widget for widget in PANEL.iter("widget") if widget.get("name").endswith("Caption")]
    assert captions
    assert [widget.get("name") for widget in captions if not text_of(widget, "buddy")] == []


def test_the_tab_key_leaves_each_table() -> None:
    tables = PANEL.findall(".//widget[@class='QTableWidget']")
    assert [text_of(table, "tabKeyNavigation") for table in tables] == ["false"] * 3


ABOUT_CT = ("the demo CT", "CT and MR", "CT or MR")
"""What may be said of CT whatever a model takes."""


def test_the_panel_calls_an_image_what_it_is_for_every_model() -> None:
    """A model may take MR; which image it takes is its channel's name, beside the selector."""
    said = [found.text or "" for found in PANEL.iter("string")]
    for path in (LIBRARY / "slicer_app").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        said += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs
        ]
    assert len(said) > 1000
    allowed = re.compile("|".join(ABOUT_CT), re.IGNORECASE)
    assert [text for text in said if text != "CT" and re.search(r"\bCTs?\b", allowed.sub("", text))] == []


def test_no_signal_calls_a_method_of_qt_with_its_own_arguments() -> None:
    """PythonQt calls `close(False)` for `clicked`, an error; PySide, which the tests use, drops the argument."""
    from PySide6 import QtWidgets

    known = {*dir(QtWidgets.QDialog), *dir(QtWidgets.QPushButton), *dir(QtWidgets.QLineEdit)} - {"emit"}
    found = []
    for path in sorted((LIBRARY / "slicer_app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="connect"), args=[ast.Attribute(attr=name, value=owner)]):
                    if name in known and ast.unparse(owner) != "self":
                        found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
