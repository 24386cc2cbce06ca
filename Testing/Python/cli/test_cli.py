"""The commands as a user meets them: what they print, write and return."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from typer.testing import CliRunner

from MoBUncertaintyLib.base.errors import Cancelled, ModelError
from MoBUncertaintyLib.cli import app, console
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.region_settings import UNCERTAINTIES, Measure
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.review_files import open_case
from MoBUncertaintyLib.pipeline import cases as pipeline
from MoBUncertaintyLib.pipeline import demo
from MoBUncertaintyLib.regions.prediction import Precision, Progress
from support import tiny
from support.command_line import run
from support.forks import Fork
from support.json_edits import edit
from support.marks import needs_posix
from support.review_commands import HEAD, decisions, entries

FILES = {"segmentation.nii.gz", "probability.nii.gz", "variance.nii.gz", "regions.nii.gz", "regions.csv"}
FILES |= {"overlay.png", "prediction.json", "review.html", "scene.mrb"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a Mixture-of-Bases head."""
    folder = tmp_path_factory.mktemp("model")
    spec = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)
    export(tiny.make_results_folder(folder / "raw", covariance=spec, folds=2), folder / "model", name="Tiny")
    return folder / "model"


def command(*arguments: str | Path) -> list[str]:
    """`run` in a process of its own."""
    return [sys.executable, "-m", "MoBUncertaintyLib.cli.app", *(str(argument) for argument in arguments)]


def test_help_answers_at_once_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, time; sys.argv = ['mob-uncertainty', 'predict', '--help']\n"
        "from MoBUncertaintyLib.cli.app import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'SimpleITK', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
        "print('SECONDS', time.process_time())"  # of the processor: others may keep it busy
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert "--model" in done.stdout
    assert "HEAVY []" in done.stdout
    assert float(done.stdout.rsplit("SECONDS", 1)[1]) < 1.0  # 0.2 s usually


def test_choices_of_the_options_are_those_of_the_core() -> None:
    hints = get_type_hints(app.predict)
    measures, _none = get_args(hints["uncertainty"])
    assert set(get_args(measures)) == {measure.value for measure in UNCERTAINTIES}
    assert set(get_args(hints["precision"])) == {precision.value for precision in Precision}


def test_predict_writes_the_results_folder_and_says_where(model: Path, ct: Path, tmp_path: Path) -> None:
    done = run("predict", ct, "--model", model, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    given, made = sitk.ReadImage(ct), sitk.ReadImage(tmp_path / "out" / "segmentation.nii.gz")
    for method in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(made, method)() == getattr(given, method)()
    millilitres = np.prod(given.GetSpacing()) * int((sitk.GetArrayFromImage(made) == 1).sum()) / 1000
    assert volume_text(millilitres) in done.stdout
    assert "doubtful regions" in done.stdout
    assert "Predicting tiles" in done.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]  # no temporary folder left


def test_options_reach_the_prediction_and_the_regions(model: Path, ct: Path, tmp_path: Path) -> None:
    options = """
        --samples 4 --seed 7 --overlap 0.25 --precision float32 --fold 1 --no-body-box --device cpu --engine torch
        --tiling full --roi -60 60 -60 60 -60 60 --uncertainty bernoulli --threshold 0.1 --no-scene
        --region depth_mm=2 --region grow_mm=0 --region minimum_mm3=50
    """
    done = run("predict", ct, "--model", model, "--output", tmp_path / "out", *options.split())
    assert done.exit_code == 0, done.output
    info = json.loads((tmp_path / "out" / "prediction.json").read_text())
    expected = {"samples": 4, "seed": 7, "overlap": 0.25, "precision": "float32", "folds": [1], "body_box": False}
    expected |= {"region_of_interest": [-60, 60, -60, 60, -60, 60], "device": "cpu", "mirror": False, "tiling": "full"}
    expected |= {"engine": "torch", "labels": None, "force": False}
    assert info["settings"] == expected and info["engine"] == "torch"
    stated = {"measure": "bernoulli", "threshold": 0.1, "minimum_mm3": 50, "depth_mm": 2, "grow_mm": 0}
    assert info["regions"]["settings"].items() >= stated.items()
    assert info["precision"] == "float32"


def test_one_of_many_labels_goes_through_results_review_and_export(tmp_path: Path) -> None:
    """With the value that it has in the model, which is not its number."""
    sitk.WriteImage(tiny.make_ct((24, 24, 24)), ct := tmp_path / "ct.nii.gz")  # a random network doubts everywhere
    dataset = tiny.make_dataset(("liver", "spleen", "kidney"), orientation="RAS")
    spec = CovarianceSpec(Covariance.DIAGONAL)
    tiny.make_results_folder(tmp_path / "raw", dataset=dataset, covariance=spec)
    options = ("--model", tmp_path / "raw", "--output", tmp_path / "out", "--samples", "3", "--no-scene")
    done = run("predict", ct, *options, "--labels", " kidney ", "--threshold", "0.01")
    assert done.exit_code == 0, done.output
    assert "kidney" in done.stdout and "liver" not in done.stdout
    info = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert info["settings"]["labels"] == ["kidney"]
    found = read_results(tmp_path / "out")
    assert [(label.name, label.value) for label in found.prediction.labels] == [("kidney", 3)]
    assert set(np.unique(found.prediction.segmentation)) == {0, 3} and len(found.regions.ranked) > 0
    place = np.argwhere(found.prediction.segmentation == 0)[0]
    clicks = [{"points_ras": [found.prediction.grid.to_ras(place).tolist()], "label": "kidney"}]
    decided = decisions(tmp_path, entries({"rank": 1, "verdict": "include", "label": "kidney"}, clicks=clicks))
    formats = [part for name in ("report", "segmentation", "nifti") for part in ("--format", name)]
    done = run("review", tmp_path / "out", "--decisions", decided, *formats)
    assert done.exit_code == 0, done.output
    corrected = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out" / "review" / "segmentation.nii.gz"))
    assert set(np.unique(corrected)) == {0, 3} and corrected[tuple(place)] == 3
    refused = run("predict", ct, *options, "--labels", "heart", "--overwrite")
    assert refused.exit_code == 2
    assert "The model has no label heart; choose from liver, spleen, kidney." in " ".join(refused.stderr.split())


def test_regions_and_clicks_of_a_stock_models_results(ct: Path, tmp_path: Path) -> None:
    """There is no variance to find regions by, or to condition: clicks start from the probabilities."""
    raw, results = tiny.make_results_folder(tmp_path / "raw"), tmp_path / "results"
    predicted = run("predict", ct, "--model", raw, "--output", results, "--device", "cpu", "--no-scene")
    assert predicted.exit_code == 0, predicted.output
    review = open_case(results).review
    assert review.settings.measure is Measure.BERNOULLI
    p = np.array(review.prediction.probability[0])
    voxel = np.unravel_index(np.abs(p - 0.5).argmin(), p.shape)
    point = review.prediction.grid.to_ras(np.array(voxel)).tolist()
    label = 1 - int(review.prediction.segmentation[voxel])
    review.click([point], label)
    decided = decisions(tmp_path, HEAD | {"clicks": [{"points_ras": [point], "label": label}]})
    done = run("review", results, "--decisions", decided, "--format", "nifti")
    assert done.exit_code == 0, done.output
    assert re.search(r"clicks +│ 1 .* ml as predicted, .* ml left", done.stdout, re.DOTALL)
    corrected = sitk.GetArrayFromImage(sitk.ReadImage(results / "review" / "segmentation.nii.gz"))
    assert np.array_equal(corrected, review.corrected())
    assert (
        review.refiner.effect(review.clicks[0], review.clicks).changed_mm3 > review.prediction.grid.voxel_mm3
    )  # more than the clicked voxel


def test_earlier_results_are_replaced_only_when_asked(model: Path, ct: Path, tmp_path: Path) -> None:
    arguments = ["predict", ct, "--model", model, "--output", tmp_path / "out", "--no-scene"]
    assert run(*arguments, "--seed", "1").exit_code == 0
    refused = run(*arguments, "--seed", "2")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["settings"]["seed"] == 1
    assert run(*arguments, "--seed", "2", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["settings"]["seed"] == 2


@pytest.mark.parametrize(
    ("name", "begin"), [("SIGINT", subprocess.Popen), ("SIGTERM", Fork), ("SIGHUP", Fork)], ids=lambda value: value
)
@needs_posix
def test_ctrl_c_ends_between_tiles_with_nothing_left(
    model: Path, ct: Path, tmp_path: Path, name: str, begin: Callable[..., Any]
) -> None:
    """A real signal to a real process, in the middle of many tiles; so do a cluster's and a closed terminal's."""
    arguments = ["predict", ct, "--model", model, "--output", tmp_path / "out", "--overlap", "0.9", "--device", "cpu"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    with os.fdopen(reader, encoding="utf-8") as printed:
        with os.fdopen(writer, "w") as file:
            process = begin(command(*arguments), env=environment, stdout=file, stderr=subprocess.STDOUT)
        for line in printed:
            if "Predicting tiles" in line:
                break
        time.sleep(0.5)
        os.kill(process.pid, getattr(signal, name))
        rest = printed.read()
    assert process.wait() == 130, rest
    assert "Cancelling" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@needs_posix
def test_what_asks_nobody_between_steps_ends_at_once() -> None:
    with pytest.raises(typer.Exit) as ended, console.reporting():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert ended.value.exit_code == 130


@needs_posix
def test_programs_under_nohup_outlive_their_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with console.reporting():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_removes_what_killed_ones_have_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("mob-model-0123456789ab", "MoBUncertainty-0123456789ab", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ct.npy").write_bytes(b"of a patient")
    assert run("inspect", model).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_report_that_cannot_be_made_is_said_before_the_work(
    model: Path, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("MoBUncertaintyLib.output.pages.templates.TEMPLATE", tmp_path / "nowhere.jinja")
    done = run("predict", ct, "--model", model, "--output", tmp_path / "out", "--no-scene")
    assert done.exit_code == 2
    assert "nowhere.jinja is not installed" in done.stderr
    assert "Predicting" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["read", "preprocess", "network", "resample", "regions", "write"])
def test_cancelling_before_any_stage_leaves_nothing(model: Path, ct: Path, tmp_path: Path, stage: str) -> None:
    predictor = Predictor(load_model(model))
    reached: list[str] = []
    with pytest.raises(Cancelled):
        pipeline.run_case(
            pipeline.Job(predictor, scene=False),
            Input(ct, "", ""),
            tmp_path / "out",
            progress=lambda update: reached.append(update.stage),
            cancelled=lambda: stage == "read" or (bool(reached) and reached[-1] == _before(stage)),
        )
    assert stage not in reached or stage == "network"
    assert list(tmp_path.iterdir()) == []


def _before(stage: str) -> str:
    stages = ["read", "preprocess", "network", "resample", "regions", "write"]
    return stages[stages.index(stage) - 1]


def test_progress_is_plain_lines_with_time_left_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    with console.progress("ct [1]") as show:
        show(Progress("read", 0, 1, None))
        show(Progress("read", 1, 1, 0.0))
        show(Progress("first_stage", 7, 0, None))  # of a number that is not yet known
        show(Progress("network", 0, 900, None))
        for done in range(1, 900):
            show(Progress("network", done, 900, 75.0))
        show(Progress("network", 900, 900, 0.0))
    lines = capsys.readouterr().err.splitlines()
    tiles = ["  Predicting the first stage: 7 so far", "  Predicting tiles: 0 of 900", "  Predicting tiles: 900 of 900"]
    assert lines == ["ct [1]", "  Reading", *tiles]


def test_each_line_of_a_logged_cohort_says_which_case_of_how_many(capsys: pytest.CaptureFixture) -> None:
    with console.progress("ct", "Case 2 of 12") as show:
        show(Progress("read", 0, 1, None))
        show(Progress("network", 0, 9, 75.0))
    expected = [
        "Case 2 of 12: ct",
        "  Case 2 of 12, reading",
        "  Case 2 of 12, predicting tiles: 0 of 9, 1 min 15 s left",
    ]
    assert capsys.readouterr().err.splitlines() == expected


def test_progress_shows_bars_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("ct") as show:
        show(Progress("network", 450, 900, 75.0))
    printed = capsys.readouterr().err
    assert "450/900" in printed
    assert "1 min 15 s left" in printed
    assert "━" in printed


def test_inspect_shows_card_and_covariance(model: Path) -> None:
    done = run("inspect", model)
    assert done.exit_code == 0, done.output
    for expected in ("Tiny", "organ", "mixture-of-bases, rank 4, bases 2", "folds 0, 1", "SHA-256 correct"):
        assert expected in done.stdout


def test_what_a_card_says_is_shown_as_it_is(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever inspects a model does not trust it yet: its text is no markup, and steers no terminal."""
    shutil.copytree(model, tmp_path / "copy")
    card = json.loads((model / "model.json").read_text())
    said = {"task": "Segments [/organ] in [link=http://evil]CT[/link]", "licence": "CC-BY [/] :smile:"}
    said |= {"training": {"by [/]": "\x1b]0;owned\x07\nme"}, "scores": {"\x1b[2J": ["\u202e[/dice]"]}}
    (tmp_path / "copy" / "model.json").write_text(json.dumps(card | said))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    done = run("inspect", tmp_path / "copy")
    assert done.exit_code == 0, done.output
    for expected in (said["task"], said["licence"], "by [/]", r"\x1b]0;owned\x07\nme", r"\x1b[2J", r"\u202e[/dice]"):
        assert expected in done.stdout
    assert not set("\x07\u202e") & set(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)) and "\x1b]" not in done.stdout


def test_errors_and_warnings_steer_no_terminal(capsys: pytest.CaptureFixture) -> None:
    console.show_error(ModelError("plans.json has no configuration [/] (there is: \x1b[2J\r)."), "a\udcff[b].nii")
    console.show_warnings(["\x1b]0;owned\x07"])
    assert capsys.readouterr().err.splitlines() == [
        r"Error: a\xff[b].nii: plans.json has no configuration [/] (there is: \x1b[2J\r).",
        r"Warning: \x1b]0;owned\x07",
    ]


def test_inspect_finds_damage_in_any_weights_file(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    weights = copy / "fold_1" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run("inspect", copy)
    assert done.exit_code == 2
    assert "fold_1/weights.safetensors" in done.stderr


def test_a_licence_that_is_not_permissive_is_agreed_to_once(
    model: Path, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    bound = shutil.copytree(model, tmp_path / "Bound")
    edit(bound / "model.json", lambda card: card.update(licence="CC BY-NC 4.0"))
    monkeypatch.setattr(demo, "DEMO_MODEL", bound)
    predict = ["predict", ct, "--model", bound, "--no-scene", "--output", tmp_path / "out"]
    calibrate = ["calibrate", bound, tmp_path, "--output", tmp_path / "out"]
    for arguments in (
        predict,
        [*predict, "--computer", "elsewhere"],
        ["demo", "--output", tmp_path / "out"],
        calibrate,
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2 and "--accept-licence" in refused.stderr
    monkeypatch.setattr(console, "can_ask", lambda: True)
    declined = CliRunner().invoke(app.app, list(map(str, predict)), input="n\n")
    assert declined.exit_code == 130 and "non-commercial" in declined.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "data").exists()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    accepted = run(*predict, "--accept-licence")
    assert accepted.exit_code == 0 and "non-commercial" in accepted.stderr
    again = run(*predict, "--overwrite")
    assert again.exit_code == 0 and "CC BY-NC" not in again.stderr


def test_export_passes_every_option_to_the_card(tmp_path: Path) -> None:
    raw = tiny.make_results_folder(tmp_path / "raw", folds=2)
    (tmp_path / "scores.json").write_text('{"dice": 0.9}')
    (tmp_path / "training.json").write_text('{"who": "a test"}')
    options = ["--name", "Exported", "--task", "Organ in CT", "--fold", "1", "--licence", "CC0", "--half"]
    options += ["--scores", tmp_path / "scores.json", "--training", tmp_path / "training.json", "--orientation", "RAS"]
    options += ["--region", "depth_mm=1.5", "--region", "length_mm=20"]
    done = run("export", raw, "--output", tmp_path / "model.zip", *options)
    assert done.exit_code == 0, done.output
    model = load_model(tmp_path / "model.zip")
    card = model.card
    assert (card.name, card.task, card.licence, card.orientation) == ("Exported", "Organ in CT", "CC0", "RAS")
    assert card.scores == {"dice": 0.9}
    assert card.regions == {"depth_mm": 1.5, "length_mm": 20}
    assert card.training["who"] == "a test"
    assert model.folds == (1,)
    assert card.covariance.kind is Covariance.DETERMINISTIC


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fold", "first"), "There is no fold 'first'"),
        (("--series", "1.2.3"), "--series is for DICOM folders, but the input is a file; leave it out."),
        (
            ("--region", "minimum_mm3=5", "--region", "minimum_mm3=9"),
            "The setting minimum_mm3 of the regions is given twice",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_sentence(
    model: Path, ct: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    done = run("predict", ct, "--model", model, "--output", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_demo_compares_with_contours(model: Path, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own path on a small case; that it reaches its Dice with the shipped model is a slow test."""
    sample = tmp_path / "sample"
    sample.mkdir()
    image = sitk.ReadImage(ct)
    truth = sitk.GetImageFromArray(tiny.truth(image).astype(np.uint8))
    truth.CopyInformation(image)
    sitk.WriteImage(image, sample / "HeadNeckCT.nii.gz")
    sitk.WriteImage(truth, sample / "HeadNeckCT-contours.seg.nrrd")
    monkeypatch.setattr(demo, "SAMPLE_DATA", sample)
    monkeypatch.setattr(demo, "DEMO_MODEL", str(model))
    for _ in range(2):  # the second replaces the first's results
        done = run("demo", "--output", tmp_path / "demo", "--no-scene", "--device", "cpu")
        assert done.exit_code == 0, done.output
    names = [line.split("│")[1].strip() for line in done.stdout.split("Compared with")[1].splitlines() if "│" in line]
    assert {"organ", "two clinicians", "error in the regions", "thick error in them"} <= set(names)
    scores = json.loads((tmp_path / "demo" / "demo.json").read_text())
    made = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "demo" / "segmentation.nii.gz")) == 1
    regions = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "demo" / "regions.nii.gz")) > 0
    organ = tiny.truth(image)
    wrong = made != organ
    scored = scores["organs"]["organ"]
    assert scored["dice"] == pytest.approx(2 * (made & organ).sum() / (made.sum() + organ.sum()))
    assert scored["volume_ml"] / scored["drawn_ml"] == pytest.approx(made.sum() / organ.sum())
    assert scored["clinicians"] is None
    assert scores["error_fraction_in_regions"] == pytest.approx((wrong & regions).sum() / wrong.sum())
    assert 0 < scores["seconds"] < 120
    assert f"{scored['dice']:.2f}" in done.stdout


@pytest.mark.slow
def test_demo_reaches_its_dice_with_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = run("demo", "--accept-licence", "--output", tmp_path / "demo")
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert {name: organ for name, organ in scores["organs"].items() if organ["dice"] < 0.5} == {}
    assert scores["seconds"] < 120


def test_an_organ_is_as_good_as_two_clinicians_agree(capsys: pytest.CaptureFixture) -> None:
    organs = {
        str(dice): demo.OrganScores(dice, theirs, None, 1.0, None, 1.0)
        for dice, theirs in ((0.9, 0.889), (0.85, 0.889), (0.75, 0.889), (0.0, 0.944), (0.6, None))
    }
    console.show_demo(demo.DemoScores(organs, None, None, 1.0), Path("ct.nii.gz"), Path("review.html"))
    shown = capsys.readouterr().out
    found = re.findall(r"[\d.]+ +│ (.*?) *│", shown)
    assert [line.split(" two clinicians")[0] for line in found[:4]] == [words for _, words in console.CLOSENESS]
    assert found[4] == "Dice 0.60; no two clinicians to compare with"


@pytest.mark.parametrize("debug", [False, True])
def test_unexpected_error_is_one_sentence_and_a_traceback_only_if_asked_for(
    ct: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("MoBUncertaintyLib.cli.cohort.run_case", fail)
    monkeypatch.setattr(console, "debug", False)
    done = run(*["--debug"] * debug, "predict", ct, "--model", model, "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert ("Traceback" in done.stderr) is debug
    said = done.stderr.splitlines()[-1]
    assert said.startswith("Error: an unexpected error (ZeroDivisionError: a fault of ours); please report it")
