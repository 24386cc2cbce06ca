"""Faults put in on purpose, hundreds of them: killed runs, flipped bits of what was written, mutants of JSON.

Nothing is lost, nothing passes for whole, and there is no traceback. Damaged images: `images/test_damaged_files.py`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.engines import verify
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.review_files import apply_decisions, read_decisions
from MoBUncertaintyLib.pipeline.cases import analyse
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import tiny
from support.forks import child
from support.json_mutants import mutants
from support.mutations import flipped

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")]

KILLS, FLIPS, MUTANTS, SEED = 40, 100, 300, 12
LIMIT_S = 60


def begin(arguments: tuple[str, ...], log: Path) -> Any:
    """Start the command line in a fork, which has imported what it needs."""
    command = [sys.executable, "-m", "MoBUncertaintyLib.cli.app", *arguments]
    with log.open("w", encoding="utf-8") as file:
        return child()(command, env=dict(os.environ), stdout=file, stderr=subprocess.STDOUT)


def run(arguments: tuple[str, ...], log: Path) -> int:
    """Exit code of a command."""
    return int(begin(arguments, log).wait())


def predict(folder: Path, output: Path) -> tuple[str, ...]:
    options = ("--no-scene", "--device", "cpu", "--overlap", "0", "--model", str(folder / "model"))
    return ("predict", str(folder / "ct.nii.gz"), *options, "--output", str(output))


def review(folder: Path, output: Path) -> tuple[str, ...]:
    decisions = str(folder / "decisions.json")
    return ("review", str(folder / "results"), "--decisions", decisions, "--output", str(output))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A CT, models, results, decisions and an export; temporary files go to `tmp`."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "tmp").mkdir()
    sitk.WriteImage(tiny.make_ct((28, 32, 32), (4.0, 4.0, 4.0)), folder / "ct.nii.gz")
    sitk.WriteImage(tiny.make_ct((24, 24, 24), (6.0, 6.0, 6.0)), folder / "small.nii.gz")
    raw = tiny.make_results_folder(folder / "raw", covariance=tiny.SPEC)
    tiny.make_results_folder(folder / "stock", dataset=tiny.make_dataset(orientation="RAS"))
    for name in ("model", "model.zip"):
        export(raw, folder / name, name="Tiny", regions={"minimum_mm3": 300.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        assert run(predict(folder, folder / "results"), folder / "log.txt") == 0, (folder / "log.txt").read_text()
        ranks = [region.rank for region in read_results(folder / "results").regions.ranked]
        verdicts = ("include", "accept", "exclude")
        decisions = {
            "schema": "mob-uncertainty review",
            "schema_version": 2,
            "regions": [{"rank": rank, "verdict": verdicts[rank % 3], "comment": "köstlich"} for rank in ranks],
            "signature": {"name": "Ada Müller", "time": "2026-05-31T14:30:00+02:00"},
        }
        (folder / "decisions.json").write_text(json.dumps(decisions))
        assert run(review(folder, folder / "export"), folder / "log.txt") == 0, (folder / "log.txt").read_text()
        yield folder


def use_export(folder: Path, path: Path) -> None:
    apply_decisions(read_results(folder / "results"), read_decisions(path))


# --- killed runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        arguments: Of `mob-uncertainty`, without `--overwrite`.
        target: What it makes.
        read: Reads that, or raises.
    """

    arguments: tuple[str, ...]
    target: Path
    read: Callable[[Path], object]

    def is_there(self) -> bool:
        """Whether the target is there; it must be whole then."""
        if self.target.exists():
            self.read(self.target)
        return self.target.exists()

    def clear(self) -> None:
        shutil.rmtree(self.target) if self.target.is_dir() else self.target.unlink(missing_ok=True)


def command_of(name: str, made: Path, target: Path) -> Command:
    match name:
        case "predict":
            return Command(predict(made, target), target, read_results)
        case "review":
            return Command(review(made, target), target, lambda path: use_export(made, path / "report.json"))
    target = target.with_suffix(".zip")
    return Command(("export", str(made / "raw"), "--output", str(target)), target, load_model)


@pytest.mark.parametrize(
    ("name", "more"),
    [("predict", ()), ("predict", ("--overwrite",)), ("review", ()), ("review", ("--overwrite",)), ("export", ())],
)
def test_a_killed_run_loses_nothing(made: Path, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    """At a random moment; what is there is whole, and another run, which does not overwrite, refuses or makes it."""
    command = command_of(name, made, tmp_path / "made")
    log, chance = made / "log.txt", random.Random(f"{SEED} killed: {' '.join((name, *more))}")
    (tmp_path / "notes.txt").write_text("a reader's own\n")
    start = time.monotonic()
    assert run(command.arguments, log) == 0
    duration, killed = time.monotonic() - start, 0
    while killed < KILLS:
        if not more:
            command.clear()
        process = begin((*command.arguments, *more), log)
        # Half of the kills at any time, half while things are written, at the end.
        time.sleep(duration * (chance.uniform(0, 1) if chance.random() < 0.5 else chance.uniform(0.6, 1)))
        process.kill()
        ended = process.wait() != -signal.SIGKILL
        killed += not ended
        duration *= 0.9 if ended else 1.04  # others may use the computer, too
        was_there = command.is_there()
        assert run(command.arguments, log) == (2 if was_there else 0), log.read_text(encoding="utf-8")
        assert was_there or not more
        assert command.is_there() and "Traceback" not in log.read_text(encoding="utf-8")
    if not more:
        command.clear()
    assert run((*command.arguments, *more), log) == 0
    assert (tmp_path / "notes.txt").read_text() == "a reader's own\n"
    for place in (tmp_path, made / "tmp"):
        hidden = (path.name for path in place.iterdir() if path.name.startswith((".", "mob-model-", "MoBUncertainty-")))
        assert [path for path in hidden if not path.endswith(".mob-lock")] == []


# --- damaged files ----------------------------------------------------------------------------------------------------


def accepted(use: Callable[[], object]) -> object:
    """What comes of a damaged file; None if it is refused in one sentence."""
    signal.alarm(LIMIT_S)  # ends the process of the tests
    try:
        return use()
    except UserError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 1000
        return None
    finally:
        signal.alarm(0)


def each_content(path: Path, contents: Iterator[bytes], use: Callable[[], object]) -> list[object]:
    """Use a file with each content in turn; it is put back."""
    whole, outcomes = path.read_bytes(), []
    try:
        for content in contents:
            path.write_bytes(content)
            outcomes.append(accepted(use))
    finally:
        path.write_bytes(whole)
    return outcomes


@pytest.mark.parametrize("name", ["results", "export", "model", "model.zip"])
def test_a_flipped_bit_of_what_was_written_is_refused(made: Path, name: str) -> None:
    """Of a model, unless nothing depends on it; of its card only the form is checked."""
    use: Callable[[], object] = {
        "results": lambda: read_results(made / name),
        "export": lambda: use_export(made, made / name / "report.json") or "accepted",
    }.get(name, lambda: verify(made / name).card)
    whole = use()
    for path in [made / name] if name.endswith(".zip") else sorted((made / name).rglob("*.*")):
        chance, content = random.Random(f"{SEED} flipped, written: {path.name}"), path.read_bytes()
        outcomes = each_content(path, (flipped(content, chance) for _ in range(FLIPS)), use)
        if path.name not in ("model.json", "model.zip"):
            assert [each for each in outcomes if each and (not name.startswith("model") or each != whole)] == [], path


@pytest.mark.parametrize("name", ["model/model.json", "stock/plans.json", "results/prediction.json", "decisions.json"])
def test_mutants_of_json_are_taken_or_refused_in_one_sentence(made: Path, name: str) -> None:
    path = made / name

    def use() -> object:
        if path.parent == made / "results":
            return read_results(path.parent)
        if path.parent == made:
            return use_export(made, path) or "accepted"
        settings = PredictionSettings(device="cpu", overlap=0.0, precision="float32")
        return analyse(read_image(made / "small.nii.gz").image, Predictor(load_model(path.parent), settings))

    assert use()
    outcomes = each_content(path, mutants(json.loads(path.read_text(encoding="utf-8")), MUTANTS, SEED), use)
    assert None in outcomes
    assert any(outcomes) or name == "results/prediction.json"  # its own digest refuses nearly every one
