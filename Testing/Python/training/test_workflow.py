"""The workflow's config and what it comes to: data sets, runs, splits."""

import errno
import inspect
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest import mock

import pytest
import yaml
from typer.testing import CliRunner

from mob_training import cli, workflow
from mob_training.workflow import (
    DETERMINISTIC,
    check_config,
    option_line,
    planned_runs,
    provenance,
    region_line,
)
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from support.workflow_commands import CONFIGS, small

fcntl = pytest.importorskip("fcntl", reason="the workflow runs on Linux and macOS")


@pytest.mark.parametrize("path", CONFIGS.values(), ids=CONFIGS)
def test_configs_that_are_shipped_are_valid(path):
    assert planned_runs(workflow.read_config(path))


MOB = {"covariance": "mixture-of-bases"}
WRONG = {
    "no models": ({"models": None}, "the config"),
    "misspelt option": ({"finetune": {"epoch": 1}}, "finetune"),
    "word for a number": ({"train": {"epochs": "many"}}, "train.epochs"),
    "unknown covariance": ({"models": {"a": {"covariance": "full"}}}, "models.a.covariance"),
    "raters of another organ": (
        {"phantom": {"cases": 5, "raters": 2}, "datasets": {"Liver": {"id": 1, "organ": "liver"}}},
        "datasets.Liver",
    ),
    "model without covariance": ({"models": {"a": {}}}, "models.a"),
    "data and phantom": ({"data": "d"}, "the config: give either data"),
    "no data": ({"phantom": None}, "the config: give either data"),
    "organ and labels": ({"datasets": {"A": {"id": 1, "organ": "liver", "labels": ["liver=1"]}}}, "datasets.A"),
    "training without a length": ({"train": {"iterations": 3}}, "train: give either epochs or minutes"),
    "label without a value": ({"datasets": {"A": {"id": 1, "labels": ["liver"]}}}, "datasets.A.labels.0"),
    "labels of phantoms": ({"datasets": {"A": {"id": 1, "labels": ["liver=1"]}}}, "datasets.A"),
    "one id twice": ({"datasets": {"A": {"id": 1, "organ": "liver"}, "B": {"id": 1, "organ": "spleen"}}}, "datasets"),
    "name with a blank": ({"datasets": {"My organ": {"id": 1, "organ": "liver"}}}, "datasets: 'My organ'"),
    "too few phantoms": ({"phantom": {"cases": 3}, "split": {"test": 2}}, "phantom.cases"),
    "first stage as a model": ({"models": {"deterministic": MOB}}, "models: 'deterministic'"),
    "model named like a sweep": ({"models": {"mob-bases-2": MOB}}, "models: mob-bases-2"),
    "start from no model": ({"models": {"mob": MOB | {"start": "diagonal"}}}, "models.mob.start"),
    "start from itself": ({"models": {"mob": MOB | {"start": "mob"}}}, "models.mob.start"),
    "ensemble of no model": ({"ensembles": {"all": "low-rank"}}, "ensembles"),
    "ensemble of fewer backbones": (
        {"backbones": 1, "ensembles": {"all": "mob"}},
        "the config: an ensemble needs a backbone for each seed",
    ),
    "length of one number": ({"models": {"mob": MOB | {"length": "4"}}}, "models.mob.length"),
    "sweep of another model": ({"sweep": {"model": "diagonal", "datasets": ["Pancreas"], "bases": [1]}}, "sweep.model"),
    "sweep of no data set": ({"sweep": {"model": "mob", "datasets": ["Liver"], "bases": [1]}}, "sweep.datasets"),
    "seed twice": ({"seeds": [1, 1]}, "seeds"),
    "unknown plane": ({"overlays": {"cases": 1, "plane": "oblique"}}, "overlays.plane"),
}


@pytest.mark.parametrize(("changes", "place"), WRONG.values(), ids=WRONG)
def test_wrong_configs_are_refused_with_the_place(changes, place):
    check_config(small())
    with pytest.raises(SettingsError) as refused:
        check_config(small(**changes))
    assert str(refused.value).startswith(place)
    assert "\n" not in str(refused.value)


SCHEMA = workflow.schema()
DATASET = SCHEMA["properties"]["datasets"]["additionalProperties"]["properties"]
COMMANDS = {
    "finetune": SCHEMA["$defs"]["finetuning"]["properties"],
    "train": SCHEMA["$defs"]["schedule"]["properties"],
    "phantom": SCHEMA["properties"]["phantom"]["properties"],
    "totalsegmentator": {key: DATASET[key] for key in ("organ", "subjects", "validation", "test")},
    "labelled": {key: DATASET[key] for key in ("channel", "subjects", "absent_is_missing", "validation", "test")},
}
WORKFLOWS = {
    "results",
    "workspace",
    "name",
    "fold",
    "seed",
    "device",
    "resume",
    "prepare",
    "dataset_id",
    "plans",
    "start",
}
WORKFLOWS |= {"source", "output", "label"}
"""What the workflow itself gives to commands."""


@pytest.mark.parametrize(("name", "properties"), COMMANDS.items(), ids=COMMANDS)
def test_options_of_the_config_are_the_commands(name, properties):
    """Each option of a command is the config's to set, with the same values, or the workflow's to give."""
    command = next(each.callback for each in cli.app.registered_commands if each.name == name)
    assert properties.keys() - {"seed"} == inspect.signature(command).parameters.keys() - WORKFLOWS
    hints = get_type_hints(command)
    words = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}
    for key, entry in properties.items():
        kind = next(one for one in (*get_args(hints[key]), hints[key]) if one is not type(None))
        if issubclass(kind, Enum):
            assert entry["enum"] == [member.value for member in kind], key
        else:
            assert entry["type"] == words[kind], key


def test_schema_has_no_words_that_became_keys():
    """As those behind a comma do, in YAML's {braces}, if they are not quoted."""

    def empty(value: Any) -> bool:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return value is None or any(map(empty, inner))

    assert not empty(SCHEMA)


def test_options_become_a_command_line():
    options = {"head_learning_rate": 0.001, "heads_only": True, "scope": "tile"}
    assert option_line(options) == "--head-learning-rate 0.001 --heads-only --scope tile"
    assert option_line({"heads_only": False}) == "--no-heads-only"


def test_grid_is_every_model_of_every_data_set_and_seed_and_the_sweep():
    runs = planned_runs(workflow.read_config(CONFIGS["paper"]))
    assert len(runs) == len({one.folder for one in runs}) == 4 * 6 * 5 + 4 * 5
    swept = [one for one in runs if one.sweep]
    assert {(one.model, one.options["bases"]) for one in swept} == {
        (f"mixture-of-bases-bases-{bases}", bases) for bases in (1, 2, 4, 5)
    }
    assert {one.dataset for one in swept} == {"Pancreas"}
    assert all(not one.options for one in runs if one.model == DETERMINISTIC)
    (own,) = [one for one in planned_runs(small(seeds=[7])) if one.model == "mob"]
    assert own.options == {"epochs": 1, "covariance": "mixture-of-bases", "rank": 4}
    assert own.folder == "Pancreas/mob/seed_7"


def test_sizes_of_regions_reach_the_commands_and_the_origin():
    config = small(datasets={"Eye": {"id": 1, "organ": "eye", "regions": {"depth_mm": 0.5, "grow_mm": 1}}})
    workflow.check_config(config)
    (first, *_) = planned_runs(config)
    assert region_line(first) == "--region depth_mm=0.5 --region grow_mm=1"
    assert provenance(config, first)["regions"] == {"depth_mm": 0.5, "grow_mm": 1}
    assert region_line(planned_runs(small())[0]) == ""
    assert "regions" not in provenance(small(), planned_runs(small())[0])


def test_a_model_may_have_regions_of_its_own():
    own = {"covariance": "diagonal", "regions": {"variance_threshold": 0.003, "grow_mm": 2}}
    config = small(
        datasets={"Eye": {"id": 1, "organ": "eye", "regions": {"depth_mm": 0.5, "grow_mm": 1}}},
        models={"scaled": own, "usual": {"covariance": "diagonal"}},
    )
    workflow.check_config(config)
    runs = {run.model: run for run in planned_runs(config)}
    assert runs["scaled"].regions == {"depth_mm": 0.5, "grow_mm": 2, "variance_threshold": 0.003}
    assert runs["usual"].regions == runs[DETERMINISTIC].regions == {"depth_mm": 0.5, "grow_mm": 1}
    assert runs["scaled"].options == runs["usual"].options


def test_data_set_may_have_a_split_of_its_own():
    config = small(datasets={"A": {"id": 1, "organ": "a"}, "B": {"id": 2, "organ": "b", "test": 2}})
    assert workflow.split_of(config, "A") == {"validation": 1, "test": 1, "seed": 0}
    assert workflow.split_of(config, "B") == {"validation": 1, "test": 2, "seed": 0}
    assert workflow.split_of(small(split=None), "Pancreas") == {"seed": 0}


def test_evaluate_refuses_an_origin_that_is_no_json(tmp_path):
    done = CliRunner().invoke(cli.app, ["evaluate", "m", "d", "--output", str(tmp_path / "s"), "--provenance", "{"])
    assert isinstance(done.exception, SettingsError)
    assert str(done.exception).startswith("--provenance is not JSON")


def test_evaluate_sees_that_it_can_write_before_it_computes(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "scores"
    done = CliRunner().invoke(cli.app, ["evaluate", "no model", "no data", "--output", str(place)])
    assert isinstance(done.exception, OutputError)
    assert str(done.exception).startswith(f"{place} cannot be written (")


def test_evaluate_leaves_no_folder_where_it_fails(tmp_path):
    place = tmp_path / "new" / "scores"
    done = CliRunner().invoke(cli.app, ["evaluate", "no model", "no data", "--output", str(place)])
    assert isinstance(done.exception, SettingsError) and not place.parent.exists()


def test_what_the_system_refuses_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("mob_training.data.phantom.make_phantom", mock.Mock())  # takes seconds
    monkeypatch.setattr(sys, "argv", ["mob-training", "phantom", str(tmp_path / "file" / "cohort"), "--cases", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert re.fullmatch(r"Error: .*file.*: Not a directory; choose another place.*\n", capsys.readouterr().err)


def test_full_disk_is_one_sentence(monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")  # as writing to an open file raises it
    monkeypatch.setattr("mob_training.data.phantom.write_cohort", mock.Mock(side_effect=full))
    monkeypatch.setattr(sys, "argv", ["mob-training", "phantom", "cohort"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "Error: The disk is full; free some space, and run this again.\n"


REFUSED = {
    "no config": (["none.yaml"], "Cannot read the config none.yaml"),
    "no YAML": (["broken.yaml"], "The config broken.yaml is not valid YAML"),
    "wrong config": (["wrong.yaml"], "wrong.yaml: seeds"),
    "unknown profile": (["good.yaml", "--profile", "pbs"], "There is no profile pbs"),
    "output that is a file": (["good.yaml", "--output", "good.yaml"], "Cannot write to the folder"),
    "output that is held": (["good.yaml", "--output", "held"], "Another workflow is running in"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_start_is_refused_in_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("a: [", encoding="utf-8")
    for name, config in {"wrong": small(seeds=[]), "good": small()}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("held").mkdir()
    with Path("held/.workflow.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CliRunner().invoke(cli.app, ["workflow", "--output", "w", *arguments])
    assert isinstance(done.exception, SettingsError)
    assert str(done.exception).startswith(message)
    assert "\n" not in str(done.exception)


def test_a_model_starts_from_another_and_an_ensemble_is_of_all_seeds():
    head = MOB | {"scope": "local", "length": "4,4,4", "heads_only": True, "start": "diagonal"}
    config = small(models={"diagonal": {"covariance": "diagonal"}, "head": head}, ensembles={"all": "diagonal"})
    check_config(config)
    runs = {run.folder: run for run in planned_runs(config)}
    local = runs["Pancreas/head/seed_1"]
    assert local.start == "diagonal" and "start" not in local.options
    assert "--length 4,4,4 --heads-only" in option_line(local.options)
    assert provenance(config, local)["start"] == "diagonal"
    ensembles = [run for run in runs.values() if run.members]
    assert [(run.folder, run.members) for run in ensembles] == [("Pancreas/all/seed_0", "diagonal")]
    made = provenance(config, ensembles[0])
    assert made["seed"] == [0, 1] and made["finetune"]["covariance"] == "diagonal"
    assert "start" not in provenance(config, runs["Pancreas/diagonal/seed_0"])


def test_heads_take_the_backbones_in_turn():
    head = MOB | {"heads_only": True, "start": "diagonal"}
    models = {"diagonal": {"covariance": "diagonal"}, "head": head}
    sweep = {"model": "head", "datasets": ["Pancreas"], "bases": [1]}
    config = small(seeds=[4, 5, 6], backbones=2, models=models, sweep=sweep)
    check_config(config)
    runs = planned_runs(config)
    of = {model: [(run.seed, run.backbone) for run in runs if run.model == model] for model in ("diagonal", "head")}
    assert of == {"diagonal": [(4, 4), (5, 5)], "head": [(4, 4), (5, 5), (6, 4)]}
    assert [run.backbone for run in runs if run.sweep] == [4, 5, 4]
    assert [provenance(config, run).get("backbone") for run in runs if run.sweep] == [None, None, 4]
    assert {(run.seed, run.backbone) for run in planned_runs(small())} == {(0, 0), (1, 1)}
