"""From models to scores, tables and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mob_training.cli.options import written
from mob_training.training.settings import Device
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.cli.options import RegionOptions
from MoBUncertaintyLib.cli.programs import Result


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, training folder of nnU-Net, or a shipped model's name.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with held-out cases (imagesTs, labelsTs).")],
    output: Annotated[Path, typer.Option(help="Folder for the scores.")],
    raters: Annotated[Path | None, typer.Option(help="Folder with CASE/raters/LABEL_1.nii.gz and so on.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in tables. Default: from its plans.")] = None,
    region: RegionOptions = None,
    provenance: Annotated[
        str | None, typer.Option(help="JSON stored with the scores: what the model was made from.")
    ] = None,
    clicks: Annotated[
        Literal["fit", "learn", "keep"] | None,
        typer.Option(
            help="Instead fit on the validation cases how clicks act, and simulate readers. learn: on top of the "
            "settings that the model has; keep: with all that it has."
        ),
    ] = None,
    joint: Annotated[
        bool,
        typer.Option(
            help="Also score what is joint: the likelihood of the whole truth, volume intervals, correlation of errors."
        ),
    ] = True,
    part: Annotated[
        Literal["test", "calibrate", "val"],
        typer.Option(help="test: the held-out cases; calibrate: those for intervals; val: those to choose by."),
    ] = "test",
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure labels, for their intervals, as `mob-uncertainty predict` does; may be repeated."
        ),
    ] = None,
    doses: Annotated[Path | None, typer.Option(help="Folder with the dose of each case, CASE.nii.gz, in Gy.")] = None,
    tiling: Annotated[
        Literal["adaptive", "full"],
        typer.Option(help="As for `mob-uncertainty predict`: adaptive is what users get, full nnU-Net's own grid."),
    ] = "adaptive",
    device: Device = "auto",
) -> Result:
    """Score a model on whole held-out cases: overlap, calibration, ranking of errors by uncertainty.

    Writes the tables that `compare` reads, scores.json and intervals.json for `mob-uncertainty export --scores` and
    `--intervals`, and a figure. Intervals hold for cases that are like these, if the model has seen none of them; only
    cases that it calls ordinary count, so give it its fingerprint first. With --clicks: what simulated readers gain by
    their clicks and verdicts, and by other corrections that are tuned on the same cases, on a page with a figure, and
    clicks.json for `mob-uncertainty export --clicks`.
    """
    from mob_training.comparison.figures import draw_error_caught
    from mob_training.comparison.readers import write_readers
    from mob_training.evaluation.held_out import Evaluation
    from mob_training.evaluation.held_out import evaluate as run
    from mob_training.evaluation.intervals import calibration_of
    from mob_training.evaluation.readers.study import study_readers
    from mob_training.evaluation.score_files import card_scores, check_folder, read_runs, write_json, write_runs
    from MoBUncertaintyLib.base.schema import to_json
    from MoBUncertaintyLib.measurements.conformal import TooFewCasesError
    from MoBUncertaintyLib.model.region_settings import read_stated
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    try:
        made_from = json.loads(provenance or "null")
    except ValueError as error:
        raise SettingsError(f"--provenance is not JSON: {error}.") from None
    evaluation = Evaluation(name, read_stated(region or ()), raters, joint, part, tuple(measure or ()), doses)
    settings = PredictionSettings(device=device, tiling=tiling)
    check_folder(output)
    if clicks is not None:
        scores, fitted = study_readers(model, dataset, evaluation, settings, fitting=clicks)
        write_runs([scores], output)
        write_json(asdict(fitted), output / "clicks.json")
        return written(write_readers(read_runs([output]), output))  # the numbers as they are kept, six digits
    scores = run(model, dataset, evaluation, settings)
    if made_from is not None:
        scores.description["provenance"] = made_from
    summary = card_scores(scores)
    write_json(summary, output / "scores.json")
    draw_error_caught(scores, output / "error_caught.png")
    try:
        write_json(to_json(calibration_of(scores)), output / "intervals.json")
    except TooFewCasesError as error:
        print(f"No intervals of volumes: {error}")
    write_runs([scores], output)
    print(f"mean Dice {scores.mean('dice'):.4f} over {len(scores.cases)} cases")
    return Result({"output": output, "run": scores.description} | summary)


def fingerprint(
    model: Annotated[Path, typer.Argument(help="Model folder, training folder of nnU-Net, or a shipped model's name.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with the model's validation and held-out cases.")],
    output: Annotated[Path, typer.Option(help="JSON file to write, for mob-uncertainty export --fingerprint.")],
    data: Annotated[str | None, typer.Option(help="Which cases they are, in a few words. Default: its name.")] = None,
    device: Device = "auto",
) -> Result:
    """Measure what ordinary cases of a model look like, so that unusual ones are noticed."""
    from mob_training.evaluation.fingerprints import measure_fingerprint
    from mob_training.evaluation.score_files import write_json
    from MoBUncertaintyLib.base.schema import to_json
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    made = measure_fingerprint(model, dataset, data, PredictionSettings(device=device))
    write_json(to_json(made), output)
    print(f"{made.cases} cases; unusual from {made.limits[0]:g} deviations on, not usable from {made.limits[1]:g}")
    if made.false_alarms:
        print(made.false_alarms.text)
    return Result({"output": output} | to_json(made))


def pieces(
    model: Annotated[Path, typer.Argument(help="Model folder, training folder of nnU-Net, or a shipped model's name.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with validation cases.")],
    output: Annotated[Path, typer.Option(help="JSON file to write, for mob-uncertainty export --pieces.")],
    device: Device = "auto",
) -> Result:
    """Measure of which labels what lies apart can be taken back without lowering their mean Dice."""
    from mob_training.evaluation.pieces import measure_pieces
    from mob_training.evaluation.score_files import write_json
    from MoBUncertaintyLib.base.schema import to_json
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    made = measure_pieces(model, dataset, PredictionSettings(device=device))
    write_json(to_json(made), output)
    for name, measured in made.items():
        print(f"{name}: {measured.text}")
    return Result({"output": output, "pieces": to_json(made)})


def compare(
    scores: Annotated[list[Path], typer.Argument(help="Folders of `evaluate`, or of an earlier `compare`.")],
    output: Annotated[Path, typer.Option(help="Folder for the scores, tables (CSV, Markdown, LaTeX) and figures.")],
    reference: Annotated[
        str | None, typer.Option(help="Model to test against, as tables name it. Default: the control.")
    ] = None,
) -> Result:
    """Compare models and seeds in tables and figures: mean and SD, paired tests, calibration."""
    from mob_training.comparison.compare import compare as run

    return written(run(scores, output, reference))


def overlay(
    dataset: Annotated[Path, typer.Argument(help="Raw data set with held-out cases (imagesTs, labelsTs).")],
    case: Annotated[str, typer.Argument(help="Name of the case.")],
    models: Annotated[
        list[Path],
        typer.Argument(help="Model folders, training folders of nnU-Net, or shipped models' names; a row each."),
    ],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    samples: Annotated[
        int, typer.Option(min=0, max=50, help="Draw so many segmentations from each model instead of its maps.")
    ] = 0,
    bases: Annotated[
        bool, typer.Option("--bases", help="Draw which basis each cell has, and how much of the variance it carries.")
    ] = False,
    device: Device = "auto",
) -> Result:
    """Draw predictions beside the truth: outlines, probability and variance, or samples, where the first model errs."""
    from mob_training.comparison.overlays import Bases, Columns, Samples, draw_case, write_picture
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    if bases and samples:
        raise SettingsError("--bases and --samples are different pictures; choose one.")
    columns = Samples(samples) if samples else Bases() if bases else Columns()
    settings = PredictionSettings(device=device, tiling="full")
    return written(write_picture(draw_case(dataset, case, models, plane, columns, settings), output))
