"""CONTRIBUTING.md: the packages are those of the code, and the worked examples work."""

from __future__ import annotations  # the examples are compiled as if they began so

import ast
import builtins
import re
import sys
import textwrap
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from MoBUncertaintyLib.cli import app as cli_app
from MoBUncertaintyLib.gaussian import tile
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.network import heads
from MoBUncertaintyLib.output import review_export
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.regions import finder
from MoBUncertaintyLib.regions.region import Regions
from support import MODULE_FOLDER, ROOT
from support.documents import CONTRIBUTING, python_blocks, section
from support.fake_case import write_case
from support.fake_review import fake_review
from support.probability_images import ball
from support.repository import tracked
from support.slicer_process import in_slicer

TITLES = re.findall(r"^## (Add an? .*)", CONTRIBUTING, re.MULTILINE)
EXAMPLES = {title: section(CONTRIBUTING, title) for title in TITLES}


def test_packages_are_listed_in_the_order_that_imports_follow() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in settings["contracts"] if one.get("containers") == ["MoBUncertaintyLib"])
    library = MODULE_FOLDER / "MoBUncertaintyLib"
    names = [[name.strip(" ()") for name in layer.split("|")] for layer in layers]
    expected = [{name for name in layer if list(library.glob(f"{name}*"))} for layer in names]
    table = section(CONTRIBUTING, "Where things are").split("| package of")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [set(re.findall(r"`(\w+)", row)) for row in rows] == [layer for layer in expected if layer]


def test_checks_of_what_the_extensions_index_wants_exist() -> None:
    rows = re.findall(r"^\| (\d) \| .* \| (.*) \|$", section(CONTRIBUTING, "Release"), re.MULTILINE)
    assert {tier for tier, _ in rows} == {"1", "3", "5"}
    tests = "\n".join(path.read_text(encoding="utf-8") for path in tracked("Testing/Python/*.py"))
    for name in re.findall(r"`(test_\w+)`", " ".join(how for _, how in rows)):
        assert f"def {name}(" in tests


def test_every_benchmark_is_named() -> None:
    folder = ROOT / "Testing" / "Benchmarks"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+\.py)`", page)) == {path.name for path in folder.glob("*.py")}


@pytest.mark.parametrize("title", TITLES)
def test_every_step_names_what_its_files_hold(title: str) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in tracked("*.py", "*.yaml")}
    named: list[str] = []
    checked = 0
    for step in re.split(r"^(?=\d+\. )", EXAMPLES[title], flags=re.MULTILINE):
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
    bound |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {node.id for node in nodes if isinstance(node, ast.Name)} - bound


def names_in(source: str) -> set[str]:
    return set(re.findall(r"\w+", source))


def test_head_and_loading_of_the_example_give_the_covariance_that_it_states() -> None:
    _shapes, head_code, loading_code = python_blocks(EXAMPLES["Add a covariance model"])
    scope = dict(vars(heads))
    exec(compile(head_code, "CONTRIBUTING.md", "exec"), scope)
    head = scope["TriangularHead"](CovarianceSpec(), features=5, classes=3)
    log_variance, predicted = head.tensors(torch.randn(2, 5, 4, 3, 2))
    spec = SimpleNamespace(kind="triangular")
    scope = vars(tile) | {"spec": spec, "Covariance": SimpleNamespace(TRIANGULAR=spec.kind)}
    code = "def loading(predicted, classes):\n" + textwrap.indent(loading_code, "    ")
    exec(compile(code, "CONTRIBUTING.md", "exec"), scope)
    loading = scope["loading"]([predicted], 3)
    triangle = torch.zeros(2, 3, 3, 4, 3, 2)
    triangle[:, [0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]] = predicted
    expected = torch.einsum("bcr...,bdr...->bcd...", triangle, triangle) + torch.eye(3)[None, :, :, None, None, None]
    gaussian = LogitGaussian(torch.zeros(2, 3, 4, 3, 2), log_variance, loading)
    torch.testing.assert_close(gaussian.marginal_covariance(), expected)
    assert np.array_equal(scope["loading"]([predicted.detach().numpy()], 3).dense(), triangle.detach())


def test_command_of_the_example_lists_the_regions(tmp_path: Path) -> None:
    (example,) = python_blocks(EXAMPLES["Add a command"])
    write_case(tmp_path)
    program = typer.Typer()
    program.callback()(lambda: None)
    exec(compile(example, "CONTRIBUTING.md", "exec"), dict(vars(cli_app)) | {"app": program})
    lines = CliRunner().invoke(program, ["regions", str(tmp_path / "results")]).stdout.splitlines()
    regions = read_results(tmp_path / "results").regions.ranked
    assert [line.split("  ")[:2] for line in lines] == [[str(each.rank), each.location] for each in regions]


def test_rule_of_the_example_leaves_out_regions_with_little_expected_error() -> None:
    (example,) = python_blocks(EXAMPLES["Add a region rule"])
    source = Path(finder.__file__).read_text(encoding="utf-8")
    before = "        described.sort("
    assert source.count(before) == 1
    changed: dict = {"__name__": "changed_finder"}
    sys.modules["changed_finder"] = ModuleType("changed_finder")  # where dataclasses look for their names
    try:
        exec(compile(source.replace(before, textwrap.indent(example, " " * 8) + before), "finder.py", "exec"), changed)
    finally:
        del sys.modules["changed_finder"]
    usual, prediction = RegionSettings(measure=Measure.BERNOULLI), ball(zones=((-28.0, 0, 0), (0, 28.5, 0)))
    errors = [region.expected_error_mm3 for region in finder.find_regions(prediction, usual).ranked]
    assert errors[0] > errors[1]

    @dataclass(frozen=True)
    class Settings(RegionSettings):
        minimum_error_mm3: float = 0.0

    def found(limit: float) -> Regions:
        return changed["find_regions"](prediction, Settings(**asdict(usual), minimum_error_mm3=limit))

    every, one = found(0), found(errors[0])
    assert [region.expected_error_mm3 for region in every.ranked] == errors
    assert [region.expected_error_mm3 for region in one.ranked] == errors[:1]
    assert one.coverage.dropped_mm3 == pytest.approx(every.coverage.dropped_mm3 + sum(errors[1:]), rel=1e-3)


def test_file_of_the_examples_format_is_read_by_slicer(tmp_path: Path) -> None:
    (example,) = python_blocks(EXAMPLES["Add an export format"])
    scope = dict(vars(review_export))
    exec(compile(example, "CONTRIBUTING.md", "exec"), scope)
    case = fake_review()
    scope["_write_markups"](tmp_path, case, case.review.corrected())
    points, _ = in_slicer("points", str(tmp_path / "regions.mrk.json"))
    regions = [region.region for region in case.review.regions]
    assert [label for label, _ in points] == [str(region.rank) for region in regions]
    assert np.allclose([place for _, place in points], [region.centroid_ras for region in regions])
