"""What Snakemake does with the workflow: dry runs of the paper, profiles, GPUs and, slowly, the way to tables."""

import csv
import importlib.util
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from mob_training.comparison.runs import ORDER
from mob_training.workflow import FOLDER, raw_folder_name
from support.marks import needs_posix
from support.workflow_commands import CONFIGS, command, dry_run, jobs, run, small, written

pytestmark = needs_posix

PROFILES = {path.parent.name: path for path in sorted((FOLDER / "profiles").glob("*/config.yaml"))}
PAPER_JOBS = {"convert": 4, "plan": 4, "table1": 1, "train": 20, "finetune": 120, "evaluate": 140}
PAPER_JOBS |= {"overlay": 4, "compare": 1, "all": 1, "total": 295}


@pytest.fixture
def papers_folder(tmp_path: Path) -> Path:
    """A workflow's folder with the paper's data set, fake and empty."""
    (tmp_path / "Totalsegmentator_dataset_v201").mkdir()
    return tmp_path


def test_dry_run_of_the_paper(papers_folder):
    assert jobs(CONFIGS["paper"], papers_folder) == PAPER_JOBS


def test_seeds_of_the_command_line_replace_those_of_the_config(tmp_path):
    config = written(tmp_path, small(seeds=[0]))
    assert jobs(config, tmp_path / "w", "--config", "seeds=[3, 4]")["evaluate"] == 2 * 3


def test_targets_may_stand_behind_a_config_entry(tmp_path):
    config = written(tmp_path, small())
    planned = jobs(config, tmp_path / "w", "--config", "seeds=[3]", "models")
    assert planned["models"] == 1 and planned["finetune"] == 2
    assert "compare" not in planned


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("snakemake_executor_plugin_slurm"), reason="pip install -e .[cluster]")
def test_dry_run_of_the_paper_on_slurm(papers_folder):
    assert jobs(CONFIGS["paper"], papers_folder, "--profile", "slurm") == PAPER_JOBS


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_name_options_that_snakemake_has(name):
    from snakemake.cli import get_argument_parser

    options = {word for action in get_argument_parser()._actions for word in action.option_strings}
    profile = yaml.safe_load(PROFILES[name].read_text())
    executor = profile.get("executor")
    if executor and not importlib.util.find_spec(f"snakemake_executor_plugin_{executor}"):
        profile = {key: value for key, value in profile.items() if not key.startswith(f"{executor}-")}
        del profile["executor"]
    assert {f"--{key}" for key in profile} <= options
    # A run that was killed goes on, and a change of the Snakefile's text trains nothing anew.
    assert profile["rerun-incomplete"] is True
    assert profile["rerun-triggers"] == ["mtime", "params", "input"]


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here")
def test_each_job_takes_a_gpu_of_its_own(tmp_path):
    """Of those that the machine has, or of those that the user has chosen; a cluster's choice is left alone."""
    (text,) = re.findall(r'^TAKE_GPU = """\n(.*?)"""', (FOLDER / "Snakefile").read_text(), re.DOTALL | re.MULTILINE)
    script = "set -euo pipefail\n" + text.replace("{{", "{").replace("}}", "}")
    script += 'echo "${CUDA_VISIBLE_DEVICES:-none}"\nread -r line\n'

    def taken(gpus: int, *chosen: str | None) -> list[str]:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nseq 0 {gpus - 1}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        known = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        known |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        running, seen = [], []
        for choice in chosen:  # all at once: each has taken its own before the next begins
            environment = known if choice is None else known | {"CUDA_VISIBLE_DEVICES": choice}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
            running.append(subprocess.Popen(["bash", "-c", script], env=environment, **pipes))
            seen.append(running[-1].stdout.readline().strip())
        for process in running:
            process.communicate("\n")
        return seen

    assert taken(3, None, None, None) == ["0", "1", "2"]
    assert taken(3, None) == ["0"]  # it was given back
    assert taken(8, "4,6", "4,6") == ["4", "6"]
    assert taken(3, "2", "2") == ["2", "2"]
    assert taken(1, None) == taken(0, None) == ["none"]
    lock = tmp_path / "mob-training-gpu-0.lock"
    lock.unlink()
    lock.mkdir()  # cannot be opened, like that of another user
    assert taken(3, None) == ["1"]


def test_a_training_starts_on_a_file_system_without_locks(tmp_path):
    (line,) = re.findall(r"^ *(! command -v flock.*)$", (FOLDER / "Snakefile").read_text(), re.MULTILINE)
    (tmp_path / "flock").write_text("#!/bin/sh\nexit 71\n")
    (tmp_path / "flock").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = f"set -euo pipefail\nexec 8> {tmp_path}/.lock\n{line}\necho it starts"
    assert subprocess.check_output(["bash", "-c", script], env=os.environ | {"PATH": path}) == b"it starts\n"


def test_a_folder_of_data_may_have_a_space_in_its_name(tmp_path):
    (tmp_path / "my cts").mkdir()
    config = written(tmp_path, small(phantom=None, data=str(tmp_path / "my cts")))
    printed = dry_run(config, tmp_path / "w", "--printshellcmds")
    assert re.search(f"totalsegmentator --organ pancreas .* '{tmp_path}/my cts' --name", printed)


def test_what_is_joint_is_scored_unless_the_config_says_no(tmp_path):
    for folder, joint in (("default", {}), ("no", {"joint": False})):
        (tmp_path / folder).mkdir()
        config = small(**joint, phantom={**small()["phantom"], "raters": 2})
        printed = dry_run(written(tmp_path / folder, config), tmp_path / folder / "w", "--printshellcmds")
        assert ("--no-joint" in printed) == bool(joint) and "mob_training.cli evaluate" in printed
        assert ("--raters cohort" in printed) != bool(joint)


def test_another_date_of_the_data_is_no_reason_to_train_anew(tmp_path):
    config = written(tmp_path, small(phantom=None, data=str(tmp_path / "cts")))
    converted = f"data/raw/{raw_folder_name(small(), 'Pancreas')}"
    (tmp_path / "cts").mkdir()
    (tmp_path / "w" / converted).mkdir(parents=True)
    later = time.time() + 60
    os.utime(tmp_path / "cts", (later, later))
    assert "Nothing to be done" in dry_run(config, tmp_path / "w", converted)
    assert "convert" in dry_run(config, tmp_path / "w", "--forcerun", "convert", "--", converted)


def test_where_the_repository_lies_is_no_reason_to_train_anew(tmp_path):
    """A path in what tells one job from another would make another clone begin again."""
    printed = dry_run(CONFIGS["hippocampus"], tmp_path, "--printshellcmds", "--config", f"data={tmp_path}")
    assert "--subjects hippocampus_subjects.csv" in printed
    commands = [line for line in printed.splitlines() if "mob_training.cli" in line]
    assert commands and not any(str(FOLDER) in line for line in commands)


def test_data_that_are_not_there_are_named_before_anything_starts(tmp_path):
    with pytest.raises(AssertionError, match=r"data: there is no folder .*none; see --config data=FOLDER"):
        dry_run(CONFIGS["hippocampus"], tmp_path, "--config", "data=none")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, float]:
    """The tiny config from an empty folder to tables; the folder, and the seconds of a processor that it took."""
    folder = tmp_path_factory.mktemp("whole")
    before = os.times()
    run(CONFIGS["tiny"], folder, "--cores", 2)
    after = os.times()
    return folder, after.children_user + after.children_system - before.children_user - before.children_system


def tables(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "comparison").glob("*.csv"))}


@pytest.mark.slow
def test_from_an_empty_folder_to_tables(whole):
    folder, seconds = whole
    # Under 15 minutes on two cores that are used to three quarters; computing time, so that other work does not count.
    assert seconds / (2 * 0.75) < 15 * 60
    made = tables(folder)
    for name in ("dice.csv", "nll.csv", "ece.csv", "Pancreas_scores.csv"):
        rows = list(csv.reader(made[name].splitlines()))
        assert [row[0] for row in rows[1:]] == list(ORDER)
        assert all(math.isfinite(float(value)) for row in rows[1:] for value in row[1:])
    assert "pancreas" in made["table1.csv"]
    assert len(made["Pancreas_bases_mixture-of-bases.csv"].splitlines()) == 3
    drawn = {path.stem for path in (folder / "comparison").glob("Pancreas_*.png")}
    figures = ("bases_mixture-of-bases", "calibration", "joint", "uncertainty")
    assert drawn == {f"Pancreas_{figure}" for figure in figures}
    assert len(list((folder / "overlays" / "Pancreas").glob("*.png"))) == 1
    assert "Nothing to be done" in run(CONFIGS["tiny"], folder)


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_tables(whole, tmp_path):
    process = subprocess.Popen(
        command(CONFIGS["tiny"], tmp_path, "--cores", 2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # In the middle: some runs are finished, and of another there is a checkpoint to go on from.
    left: list[Path] = []
    while not left:
        assert process.poll() is None
        time.sleep(0.05)
        if len(list(tmp_path.glob("scores/*/*/seed_?/summary.json"))) >= 2:
            left = list(tmp_path.glob("runs/**/checkpoint_latest.pth"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = [path for path in left if path.exists()]
    assert left
    # The benchmark is a job's last file, so what has one was finished.
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("benchmarks/**/*.tsv")}
    finished |= {path: path.stat().st_mtime_ns for path in (tmp_path / "cohort", *tmp_path.glob("data/*/Dataset*"))}
    assert len(finished) >= 3 + 4

    run(CONFIGS["tiny"], tmp_path, "--cores", 2)
    assert tables(tmp_path) == tables(whole[0])
    assert [path for path, stamp in finished.items() if path.stat().st_mtime_ns != stamp] == []
    for path in left:
        *_, first, last = sorted(path.parent.glob("training_log_*.txt"))
        assert "Epoch 0" in first.read_text()
        assert "Epoch 0" not in last.read_text() and "Epoch 1" in last.read_text()
