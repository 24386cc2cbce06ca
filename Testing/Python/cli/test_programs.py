"""`--version`, `--json` and `--quiet`, of both programs, before and after a command's name."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.main import get_command
from typer.models import OptionInfo
from typer.testing import CliRunner

from mob_training.cli import app as training_app
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.resources import INSTALLED_MODELS
from MoBUncertaintyLib.cli import app, programs
from MoBUncertaintyLib.regions.prediction import MAX_SAMPLES
from support import tiny
from support.command_line import run

SCREEN_LINES = 45  # of 100 columns
PROGRAMS = {"mob-uncertainty": app.app, "mob-training": training_app}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_command_has_them(name: str) -> None:
    program = PROGRAMS[name]
    assert re.fullmatch(rf"{name} \d+\.\d+\.\d+\n", CliRunner().invoke(program, ["--version"]).stdout)
    for command in ["", *(each.name or each.callback.__name__ for each in program.registered_commands)]:
        told = CliRunner().invoke(program, [*filter(None, [command]), "--help"])
        assert told.exit_code == 0
        assert "--json" in told.stdout and "--quiet" in told.stdout, command
        assert max(told.stdout) < "\U0001f000", f"{command}: rich takes a word between colons for an emoji's name"


def commands(name: str) -> Iterator[list[str]]:
    """The words of each command of a program, and those of the program itself, none."""
    waiting = [([], get_command(PROGRAMS[name]))]
    for words, command in waiting:
        yield words
        waiting += [([*words, name], own) for name, own in getattr(command, "commands", {}).items()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_fits_a_screen_and_help_all_leaves_nothing_out(name: str) -> None:
    short = 0
    for words in commands(name):
        told = [
            CliRunner().invoke(PROGRAMS[name], [*words, option], env={"COLUMNS": "100"}, terminal_width=100)
            for option in ("--help", "--help-all")
        ]
        assert [each.exit_code for each in told] == [0, 0], words
        lines, everything = (each.stdout for each in told)
        assert len(lines.splitlines()) <= SCREEN_LINES, words
        if "--help-all" not in lines:
            continue
        command = get_command(PROGRAMS[name])
        for word in words:
            command = command.commands[word]
        named = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert named <= set(re.findall(r"--[a-z-]+", everything)), words
        assert "Advanced" in everything and "Advanced" not in lines
        short += 1
    assert short >= 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_usual_options_exist(name: str) -> None:
    program = get_command(PROGRAMS[name])
    assert program.usual
    for command, usual in program.usual.items():
        assert usual <= {option.name for option in program.commands[command].params if not option.required}


def numbers(program: typer.Typer) -> Iterator[tuple[str, OptionInfo]]:
    """Name and option of every number that the commands of a program take."""
    for group in program.registered_groups:
        yield from numbers(group.typer_instance)
    for command in program.registered_commands:
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            kind, *described = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if {int, float} & {kind, *get_args(kind)} and name != "roi":  # places, which may lie anywhere
                yield f"{command.callback.__name__} {name}", described[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_number_has_a_range(name: str) -> None:
    found = list(numbers(PROGRAMS[name]))
    assert len(found) > 4
    assert not [option for option, info in found if info.min is None or info.max is None]


def test_too_many_samples_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """The command's range is that of the settings, which the panel and Python take, too."""
    ranges = {name: info.max for name, info in numbers(app.app)}
    assert ranges["predict samples"] == MAX_SAMPLES
    done = run("predict", tmp_path, "--model", "m", "--output", tmp_path / "o", "--samples", "100000000000000000000")
    assert done.exit_code == 2
    assert re.search(r"--samples.*10000", " ".join(done.stderr.split()))


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_json_is_all_that_stdout_holds(model: Path, ct: Path, tmp_path: Path, first: bool) -> None:
    arguments = ["predict", ct, "--model", model, "--output", tmp_path / "out", "--no-scene", "--overlap", "0"]
    done = run("--json", *arguments) if first else run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    case = json.loads(done.stdout)["case"]
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert case["volumes_ml"]["organ"] == pytest.approx(record["labels"][0]["volume_ml"], abs=1e-3)
    assert case["expected_error_ml"] == pytest.approx(record["expected_error_ml"], abs=1e-4)
    assert len(case["regions"]) == record["regions"]["count"]
    assert "doubtful regions" in done.stderr, "text for people is still there"
    assert json.loads(run("inspect", model, "--json").stdout)["card"]["name"] == "Tiny"
    plain = run("inspect", model)
    assert "Tiny" in plain.stdout and not plain.stdout.startswith("{"), "the option of an earlier run is forgotten"


def test_json_of_a_failure_is_its_sentence(tmp_path: Path) -> None:
    done = run("inspect", tmp_path / "nowhere", "--json")
    assert done.exit_code == 2
    assert f"Error: {json.loads(done.stdout)['error']}\n" == done.stderr


def test_quiet_shows_warnings_and_errors_alone(model: Path, ct: Path, tmp_path: Path) -> None:
    arguments = ["predict", ct, "--model", model, "--output", tmp_path / "out", "--no-scene", "--overlap", "0"]
    loud, quiet = run(*arguments), run(*arguments, "--overwrite", "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    warnings = [line for line in loud.stderr.splitlines() if line.startswith("Warning")]
    assert quiet.stderr.splitlines() == warnings and len(loud.stderr.splitlines()) > len(warnings)
    refused = run("--quiet", *arguments)
    assert refused.exit_code == 2 and "contains earlier results" in refused.stderr


def training(*arguments: object) -> Result:
    return CliRunner().invoke(training_app, list(map(str, arguments)))


def test_training_commands_too(tmp_path: Path) -> None:
    done = training("phantom", tmp_path / "one", "--cases", "1", "--json")
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "one"), "cases": [str(tmp_path / "one" / "s0001")]}
    assert "1/1 phantoms" in done.stderr
    done = training("--quiet", "phantom", tmp_path / "two", "--cases", "1")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    command = [
        sys.executable,
        "-m",
        "mob_training.cli",
        "compare",
        tmp_path / "nowhere",
        "--output",
        tmp_path,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert f"Error: {json.loads(done.stdout)['error']}\n" == done.stderr
    refused = training("workflow", "config.yaml", "--output", tmp_path / "out", "--json")
    assert isinstance(refused.exception, SettingsError)


def test_names_that_a_code_page_lacks_are_printed_all_the_same(tmp_path: Path) -> None:
    """Windows prints to pipes, and in old terminals, in a code page."""
    page, model = "cp850", tiny.make_model_folder(tmp_path / "Bäuche 臓 😀").path
    command = [sys.executable, "-m", "MoBUncertaintyLib.cli.app"]
    environment = os.environ | {"PYTHONIOENCODING": page, INSTALLED_MODELS: str(tmp_path)}
    listed = [*command, "models", "list", "--installed"]
    for words in ([*listed, "--json"], listed):
        done = subprocess.run(words, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr.decode(errors="replace").count("Traceback")) == (0, 0)
        if "--json" in words:
            assert str(model) in [each["path"] for each in json.loads(done.stdout.decode(page))["models"]]
        else:
            assert "\\u81d3 \\U0001f600  installed" in done.stdout.decode(page)


def test_numbers_that_json_cannot_hold_are_null() -> None:
    value = {"a": np.float32(0.5), 1: (float("nan"), np.arange(2)), "b": Path("x"), "c": None, "d": True}
    assert json.loads(programs.to_json(value)) == {"a": 0.5, "1": [None, [0, 1]], "b": "x", "c": None, "d": True}
