"""The project's own rules: licence, version, and what it is made of."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import MoBUncertaintyLib
from support import ROOT

CORE = ROOT / "MoBUncertainty" / "MoBUncertaintyLib"
TRAINING = ROOT / "training" / "mob_training"

# Rooms that Slicer's own process, or a program that only looks at results, may import.
WITHOUT_TORCH = ["regions.finder", "regions.agreement", "model.folder", "model.card", "images.reader", "cli.app"]
WITHOUT_TORCH += ["model.listing", "cli.console", "output.results_folder", "output.pictures.overlay", "output.report"]
WITHOUT_TORCH += ["output.review_export", "pipeline.catalogue.publish", "pipeline.catalogue.install"]
WITHOUT_TORCH += ["output.review_files", "review.review", "worker.__main__", "worker.predictions", "worker.arrays"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Names of the packages that a file imports, the first part only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_dataclasses_that_hold_arrays_compare_by_identity():
    """An array has no single truth value: equality would raise, or not, by the version of Python."""
    compared = []
    for path in (*CORE.rglob("*.py"), *TRAINING.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                made = [ast.unparse(each) for each in node.decorator_list]
                types = [ast.unparse(each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
                equal = any(each.startswith("dataclass") and "eq=False" not in each for each in made)
                if equal and any(re.search(r"\b(ndarray|Tensor|Array)\b", each) for each in types):
                    compared.append(f"{name(path)}: {node.name}")
    assert not compared


def test_installed_version_is_the_one_the_code_states() -> None:
    assert importlib.metadata.version("mob-uncertainty") == MoBUncertaintyLib.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", MoBUncertaintyLib.__version__)


def test_rooms_that_need_no_torch_do_not_load_it() -> None:
    program = f"""
import importlib, sys
for room in {WITHOUT_TORCH}:
    importlib.import_module(f"MoBUncertaintyLib.{{room}}")
    if sys.modules.keys() & {{"torch", "nnunetv2"}}:
        sys.exit(room)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


POSIX = re.compile(r"\b(mkfifo|symlink_to|killpg|getuid|AF_UNIX|SIGKILL|SIGHUP|RLIMIT_\w+)\b|/dev/full|#!/bin/sh")


def test_tests_that_need_posix_say_so() -> None:
    """By a mark of their own or of their file, or by asking which system this is."""
    for path in sorted((ROOT / "Testing" / "Python").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if not POSIX.search(text) or re.search(r"^pytestmark = .*(skipif|needs_)", text, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(text)):
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if is_test and POSIX.search(ast.unparse(node)):
                assert re.search(r"needs_|skipif|os\.name", ast.unparse(node)), f"{name(path)}: {node.name}"


def test_no_test_imports_another() -> None:
    """What several tests share lies in `support` or in a conftest."""
    for path in sorted((ROOT / "Testing" / "Python").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not re.search(r"(^|[ .])(test_|conftest)", " ".join(found)), f"{name(path)} imports {found}"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ON_PYTORCH = ("network", "commands.py", "devices.py", "draws.py", "folder.py", "moments.py", "partitions.py")
OPTIONAL = {key: ["gpu"] for key in (*ON_PYTORCH, "resampling.py", "torch_engine.py", "weights.py")}
"""What imports PyTorch or nnU-Net; where others import it in turn, only in functions."""


def declared(*extras: str) -> list[Requirement]:
    """What `pyproject.toml` itself names, without what that requires in turn."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in lines]


@cache
def distributions() -> dict[str, set[str]]:
    """Which distributions each installed package comes from."""
    found = importlib.metadata.packages_distributions()
    return {module: set(map(canonicalize_name, origins)) for module, origins in found.items()}


def third_party(path: Path) -> dict[str, set[str]]:
    """The packages of others that a file imports, and the distributions that each may come from."""
    modules = imported(path) - set(sys.stdlib_module_names)
    return {module: distributions()[module] for module in modules if module in distributions()}


@pytest.mark.parametrize(
    ("extras", "folder"),
    [((), CORE), (("training", "gpu"), TRAINING), (tuple(EXTRAS), ROOT / "Testing")],
    ids=["core", "training", "tests"],
)
def test_what_the_code_imports_is_declared(extras: tuple[str, ...], folder: Path) -> None:
    """What only comes with another package may go with its next version."""
    for path in sorted(folder.glob("**/*.py")):
        if "slicer_app" not in path.relative_to(folder).parts:  # what runs inside Slicer has what Slicer has
            wanted = declared(*extras, *OPTIONAL.get(path.name, OPTIONAL.get(path.parent.name, ())))
            known = {canonicalize_name(requirement.name) for requirement in wanted} | {"mob-uncertainty"}
            missing = {module for module, origins in third_party(path).items() if not origins & known}
            assert not missing, name(path)


def test_constraints_hold_a_version_of_each_dependency_that_its_range_allows() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    stated = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [one.name for one in stated] == sorted({canonicalize_name(one.name) for one in stated})
    pinned = {}
    for one in stated:
        (specifier,) = one.specifier
        # What has builds for each kind of GPU is not to be had in one version everywhere.
        assert specifier.operator == ("<=" if one.name.startswith("torch") and one.name != "torchmetrics" else "==")
        assert not one.url and "+" not in specifier.version
        pinned[one.name] = specifier.version
    for requirement in declared(*EXTRAS):
        distribution = canonicalize_name(requirement.name)
        if distribution != "mob-uncertainty":
            assert requirement.specifier.contains(pinned.get(distribution, "0")), requirement


HIDDEN_FIRST = {"data/datasets.py", "training/attachment.py"}
"""What writes a folder under a hidden name, or makes it anew unless an earlier run has finished it."""


def is_file_written(call: ast.Call) -> bool:
    """Whether a call writes a file by a name that is no variable `file` of something in memory."""
    name = ast.unparse(call.func)
    if name.endswith("open"):
        return any(re.fullmatch("[wax].*", str(getattr(each, "value", ""))) for each in call.args)
    if name in {"torch.save", "shutil.copy", "shutil.copyfile"} or name.endswith((".write_text", ".write_bytes")):
        return True
    return name.endswith(".savefig") and ast.unparse(call.args[0]) != "file"


def test_the_training_writes_files_whole_or_not_at_all() -> None:
    """A full disk or a killed run leaves the earlier file: what writes one is handed to `write_file`."""
    for path in sorted(TRAINING.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        safe = [each for call in calls if ast.unparse(call.func) == "write_file" for each in ast.walk(call)]
        bare = [ast.unparse(call) for call in calls if is_file_written(call) and call not in safe]
        assert not bare or path.relative_to(TRAINING).as_posix() in HIDDEN_FIRST, f"{name(path)}: {bare}"


def test_percent_is_written_by_one_function() -> None:
    """So that one text does not say 90 % and the next 6%."""
    for path in [*CORE.rglob("*.py"), *TRAINING.rglob("*.py")]:
        assert not re.search(r":[.\d]*%\}|:\.0f\} ?%", path.read_text("utf-8")) or path.name == "wording.py", path
