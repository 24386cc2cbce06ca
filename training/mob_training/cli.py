"""`mob-training`: from a labelled data set to a trained covariance model, one command per step."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mob_training.training.settings import (
    CHANNEL,
    FineTuning,
    Likelihood,
    LossWeights,
    Preset,
    Schedule,
    default_options,
    parse_length,
)
from MoBUncertaintyLib.cli.options import RegionOptions
from MoBUncertaintyLib.cli.programs import SHOWN, AsJson, Commands, Quiet, Result, version_option
from MoBUncertaintyLib.errors import SettingsError, UserError
from MoBUncertaintyLib.model.covariance import Assignment, Covariance, CovarianceSpec, Scope

if TYPE_CHECKING:
    from MoBUncertaintyLib.prediction import PredictionSettings

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False
)

Workspace = Annotated[Path, typer.Option(help="Folder that holds nnU-Net's raw, preprocessed and results folders.")]
DatasetId = Annotated[int, typer.Option(help="nnU-Net's number of the data set.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Fold = Annotated[int, typer.Option(help="Fold of the data set's split.")]
Test = Annotated[int | None, typer.Option(min=0, help="Cases held out for testing; default: a fifth.")]
Validation = Annotated[
    int | None, typer.Option(min=1, help="Cases that choose the best epoch; default: a fifth of the rest.")
]
Subjects = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with the columns case,subject, or the name of one beside the workflow's configs: keeps the "
        "cases of one subject together. With a column `group`, train, validation and test get of every group."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint with the same settings.")]


class ClickSource(StrEnum):
    """Where the settings of clicks are from."""

    MODEL = "model"
    FIT = "fit"


DEFAULTS = SimpleNamespace(**default_options())


@app.callback()
def program(
    _version: Annotated[bool, version_option("mob-training")] = False,
    _as_json: AsJson = False,
    _quiet: Quiet = False,
) -> None:
    """Set the options of the program itself."""


@app.command()
def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write the cases to.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of CTs.")] = 60,
    raters: Annotated[int, typer.Option(min=0, help="Masks of further raters per case.")] = 0,
    seed: Seed = 0,
) -> Result:
    """Make abdominal CT phantoms in TotalSegmentator's layout."""
    from mob_training.data.phantom import write_cohort

    made = write_cohort(
        output, cases, seed, raters=raters, progress=lambda done, total: print(f"{done}/{total} phantoms")
    )
    return Result({"folder": output, "cases": made})


@app.command()
def totalsegmentator(
    source: Annotated[Path, typer.Argument(help="Folder in TotalSegmentator's layout.")],
    organ: Annotated[str, typer.Option(help="TotalSegmentator's name of the structure.")],
    name: Annotated[str, typer.Option(help="Name of the nnU-Net data set.")],
    dataset_id: DatasetId,
    workspace: Workspace,
    test: Test = None,
    validation: Validation = None,
    subjects: Subjects = None,
    seed: Seed = 0,
) -> Result:
    """Convert CTs with organ masks into an nnU-Net data set of one organ.

    Cases without the organ and unusable ones are left out; cases.csv in the data set's folder says why.
    """
    from mob_training.data.datasets import new_dataset_folder, write_dataset
    from mob_training.data.split import Split, read_subjects
    from mob_training.data.totalsegmentator import find_cases
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace, new=True)
    known = read_subjects(subjects) if subjects else None
    groups = read_subjects(subjects, "group") if subjects else {}
    split = Split(validation=validation, test=test, seed=seed, groups=groups)
    folder = new_dataset_folder(dataset_id, name)
    cases, left_out = find_cases(source, organ)
    return _made(write_dataset(folder, cases, [organ], "CT", split, f"{organ} of {source.name}", left_out, known))


@app.command()
def curvas(
    source: Annotated[Path, typer.Argument(help="Folder with CASE/image.nii.gz and CASE/annotation_1.nii.gz, ...")],
    output: Annotated[Path, typer.Argument(help="New folder.")],
) -> Result:
    """Convert the CURVAS data set, with several raters, into what `labelled` and `evaluate --raters` read.

    A voxel's label is that of most raters.
    """
    from mob_training.data.curvas import ORGANS, convert

    left_out = convert(source, output)
    labels = " ".join(f"--label {organ}={value}" for value, organ in enumerate(ORGANS, start=1))
    print(f"{len(left_out)} cases left out; next: mob-training labelled {output} {labels} --channel CT ...")
    return Result({"folder": output, "left_out": {one.name: one.problem for one in left_out}})


@app.command()
def table1(
    datasets: Annotated[list[Path], typer.Argument(help="Raw data sets that were converted here.")],
    output: Annotated[Path, typer.Option(help="Folder for table1.csv and table1.md.")],
) -> Result:
    """Write Table 1 of the paper: training, validation and test cases per structure, and the structures' volumes."""
    from mob_training.data.table1 import write_table

    table = write_table(datasets, output)
    print(table.read_text(encoding="utf-8"))
    return Result({"output": table})


@app.command()
def labelled(
    source: Annotated[Path, typer.Argument(help="Folder with images/ and labels/.")],
    label: Annotated[list[str], typer.Option(help="NAME=VALUE[,VALUE...]; repeat for several classes.")],
    name: Annotated[str, typer.Option(help="Name of the nnU-Net data set.")],
    dataset_id: DatasetId,
    workspace: Workspace,
    test: Test = None,
    validation: Validation = None,
    channel: Annotated[str, typer.Option(help="CT, or another name for images that are z-scored.")] = CHANNEL,
    subjects: Subjects = None,
    seed: Seed = 0,
) -> Result:
    """Convert a folder of images and label maps into an nnU-Net data set of the given labels."""
    from mob_training.data.datasets import folder_cases, new_dataset_folder, parse_labels, write_dataset
    from mob_training.data.split import Split, read_subjects
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace, new=True)
    names, values = parse_labels(label)
    known = read_subjects(subjects) if subjects else None
    groups = read_subjects(subjects, "group") if subjects else {}
    split = Split(validation=validation, test=test, seed=seed, groups=groups)
    folder = new_dataset_folder(dataset_id, name)
    cases, left_out = folder_cases(source, values)
    return _made(write_dataset(folder, cases, names, channel, split, source.name, left_out, known))


@app.command()
def plan(
    dataset_id: DatasetId,
    workspace: Workspace,
    preset: Annotated[Preset, typer.Option(help="For two CPU cores, or residual encoder L.")] = Preset.SMALL,
    processes: Annotated[int, typer.Option(min=1, help="Processes to preprocess with.")] = 2,
) -> Result:
    """Run nnU-Net's fingerprinting, planning and preprocessing of a data set."""
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.planning import plan_and_preprocess

    name = plan_and_preprocess(dataset_id, preset, processes)
    print(name)
    return Result({"plans": name})


@app.command()
def train(
    dataset_id: DatasetId,
    workspace: Workspace,
    epochs: Annotated[int, typer.Option(min=1, help="nnU-Net's own number is 1000.")],
    iterations: Annotated[int, typer.Option(min=1, help="Batches per epoch.")] = DEFAULTS.iterations,
    plans: Annotated[str, typer.Option(help="Name of the plans, as printed by `plan`.")] = "mobSmallPlans",
    fold: Fold = 0,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> Result:
    """Train the deterministic stage: nnU-Net without mirroring."""
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.stages import train_deterministic

    return _made(train_deterministic(dataset_id, plans, Schedule.of(epochs, iterations, seed), fold, device, resume))


@app.command()
def finetune(
    results: Annotated[Path, typer.Argument(help="Training folder to start from: the deterministic stage's, usually.")],
    workspace: Workspace,
    covariance: Annotated[Covariance, typer.Option(help="Covariance model.")] = DEFAULTS.covariance,
    name: Annotated[str | None, typer.Option(help="Name of this run; default: the covariance model's.")] = None,
    rank: Annotated[int, typer.Option(help="R.")] = DEFAULTS.rank,
    bases: Annotated[int, typer.Option(help="M.")] = DEFAULTS.bases,
    partitions: Annotated[int, typer.Option(help="P, cells per axis of a tile.")] = DEFAULTS.partitions,
    scope: Annotated[
        Scope | None, typer.Option(help="Which voxels share z2. Default: tile for low-rank, voxel for the others.")
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(help="Z,Y,X: correlation length of the scope local along the axes of the network's input, mm."),
    ] = None,
    learn_length: Annotated[bool, typer.Option(help="Train the length, too.")] = DEFAULTS.learn_length,
    shared_fraction: Annotated[
        float, typer.Option(help="Fraction of the noise's variance that the whole volume shares, for the scope local.")
    ] = DEFAULTS.shared_fraction,
    assignment: Annotated[
        Assignment, typer.Option(help="A cell takes the most probable basis, or the mean of the bases.")
    ] = DEFAULTS.assignment,
    deep: Annotated[
        int, typer.Option(min=0, help="The head also sees the features of so many earlier stages of the decoder.")
    ] = DEFAULTS.deep,
    likelihood: Annotated[Likelihood, typer.Option(help="mean is Eq. 12.")] = DEFAULTS.likelihood,
    samples: Annotated[int, typer.Option(min=1, help="k, samples per training step.")] = DEFAULTS.samples,
    learning_rate: Annotated[float, typer.Option(help="Of the backbone.")] = DEFAULTS.learning_rate,
    head_learning_rate: Annotated[float, typer.Option(help="Of the covariance head.")] = DEFAULTS.head_learning_rate,
    dice_weight: Annotated[
        float, typer.Option(help="lambda_Dice of Eq. 11; lower is better calibrated.")
    ] = DEFAULTS.dice_weight,
    kl_weight: Annotated[float, typer.Option(help="lambda_KL of Eq. 11.")] = DEFAULTS.kl_weight,
    reverse_kl: Annotated[bool, typer.Option(help="Reverse the direction of Eq. 8.")] = DEFAULTS.reverse_kl,
    orthogonality_weight: Annotated[float, typer.Option(help="lambda_orth of Eq. 11.")] = DEFAULTS.orthogonality_weight,
    entropy_weight: Annotated[float, typer.Option(help="lambda_w of Eq. 11.")] = DEFAULTS.entropy_weight,
    temperature_scaling: Annotated[
        bool, typer.Option(help="At the end divide the logits by the temperature with the lowest validation NLL.")
    ] = DEFAULTS.temperature_scaling,
    heads_only: Annotated[
        bool, typer.Option(help="Train the covariance head alone: backbone, mean and segmentation stay.")
    ] = DEFAULTS.heads_only,
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = DEFAULTS.keep_probability,
    epochs: Annotated[int, typer.Option(min=1, help="The paper's number is 20.")] = DEFAULTS.epochs,
    iterations: Annotated[int, typer.Option(min=1, help="Patches per epoch.")] = DEFAULTS.iterations,
    fold: Fold = 0,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only write the plans, for nnUNetv2_train.")] = False,
) -> Result:
    """Fine-tune one of the five covariance models on the deterministic checkpoint (Eqs. 8 to 12).

    RESULTS may also be the training folder of a fine-tuning, or a model folder in the workspace's results: its backbone
    is the start.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.stages import finetune as run
    from mob_training.training.stages import prepare_finetuning

    settings = FineTuning(
        likelihood=likelihood,
        samples=samples,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        reverse_kl=reverse_kl,
        temperature_scaling=temperature_scaling,
        heads_only=heads_only,
        weights=LossWeights(dice=dice_weight, kl=kl_weight, orthogonality=orthogonality_weight, weight=entropy_weight),
        schedule=Schedule.of(epochs, iterations, seed),
    )
    try:
        shape = (covariance, rank, bases, partitions, scope or covariance.usual_scope, assignment)
        spec = CovarianceSpec(
            *shape,
            length_mm=parse_length(length),
            learn_length=learn_length,
            shared_fraction=shared_fraction,
            keep_probability=keep_probability,
            deep=deep,
        )
    except ValueError as error:
        raise SettingsError(f"{str(error).capitalize()}.") from error
    name = name or covariance.value
    if prepare:
        return _made(prepare_finetuning(results, name, spec, settings, fold))
    return _made(run(results, name, spec, settings, fold, device, resume))


@app.command("attach-head")
def attach_head(
    model: Annotated[Path, typer.Argument(help="Model folder, zip or training folder; a covariance it has goes.")],
    cases: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, of 20 cases or more.")],
    workspace: Annotated[Path, typer.Option(help="New folder to work in; an interrupted run goes on in its own.")],
    output: Annotated[Path, typer.Option(help="Model folder or .zip to make.")],
    covariance: Annotated[Covariance, typer.Option(help="Covariance model of the head.")] = DEFAULTS.covariance,
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = True,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the head.")] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Patches per epoch.")] = 60,
    shared: Annotated[
        bool, typer.Option(help="Fit to the cases' volumes which fraction of the noise the whole volume shares.")
    ] = True,
    keep_head: Annotated[
        bool, typer.Option(help="Keep the model's own head, and fit only how far its noise reaches.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Processes to preprocess with.")] = 1,
) -> Result:
    """Give a model a new covariance head, fitted on labelled cases; the segmentation stays.

    The backbone is frozen. The noise is smooth, of a length that is learned, and the whole segmentations of the cases
    are as probable as possible (`finetune --heads-only --likelihood evidence`); a temperature is fitted, too. At the
    end the whole volume gets a fraction of the noise in common, the one that suits the cases' volumes best.

    With --keep-head the head stays as well, and with it each voxel's probability and variance, exactly: only the
    length of the noise and the fraction that the volume shares are fitted. --covariance, --keep-probability, --epochs
    and --iterations then have no effect.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace, new=True)
    from mob_training.evaluation.shared_fraction import fit_shared_fraction
    from mob_training.training.attachment import attach_head as run
    from mob_training.training.attachment import correlate_head

    fit_shared = partial(fit_shared_fraction, device=device) if shared else None
    if keep_head:
        kept = correlate_head(model, cases, workspace, output, fit_shared=fit_shared, seed=seed, processes=processes)
        return _made(kept.path)
    made = run(
        model,
        cases,
        workspace,
        output,
        covariance,
        keep_probability=keep_probability,
        schedule=Schedule.of(epochs, iterations, seed),
        fit_shared=fit_shared,
        device=device,
        processes=processes,
    )
    return _made(made.path)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, or a training folder of nnU-Net.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with held-out cases (imagesTs, labelsTs).")],
    output: Annotated[Path, typer.Option(help="Folder for the scores.")],
    raters: Annotated[Path | None, typer.Option(help="Folder with CASE/raters/LABEL_1.nii.gz and so on.")] = None,
    drawn: Annotated[int, typer.Option(min=1, help="Segmentations to draw for comparison with the raters.")] = 8,
    name: Annotated[str | None, typer.Option(help="Name of the model in tables; default: from its plans.")] = None,
    region: RegionOptions = None,
    provenance: Annotated[
        str | None, typer.Option(help="JSON stored with the scores: what the model was made from.")
    ] = None,
    clicks: Annotated[
        ClickSource | None,
        typer.Option(
            help="Simulate readers instead, who click and decide: with the settings of clicks that the model states "
            "(model), or that are fitted on the validation cases first (fit)."
        ),
    ] = None,
    joint: Annotated[
        bool,
        typer.Option(
            help="Also score what is joint: the likelihood of the whole truth, volume intervals, correlation of errors."
        ),
    ] = True,
    tiling: Annotated[
        Literal["adaptive", "full"],
        typer.Option(help="As for `mob-uncertainty predict`: adaptive is what users get, full nnU-Net's own grid."),
    ] = "adaptive",
    device: Device = "auto",
) -> Result:
    """Score a model on whole held-out cases: overlap, calibration, ranking of errors by uncertainty.

    Writes the tables that `compare` reads, scores.json and intervals.json for `mob-uncertainty export --scores` and
    `--intervals`, and a figure. Intervals hold for cases that are like these, if the model has seen none of them. With
    --clicks: what simulated readers gain by their clicks and verdicts, on a page with a figure, and clicks.json for
    `mob-uncertainty export --clicks`.
    """
    from mob_training.comparison.figures import draw_error_caught
    from mob_training.evaluation.held_out import evaluate as run
    from mob_training.evaluation.intervals import calibration_of
    from mob_training.evaluation.score_files import card_scores, make_folder, write_json, write_runs
    from MoBUncertaintyLib.conformal.quantile import TooFewCasesError
    from MoBUncertaintyLib.prediction import PredictionSettings
    from MoBUncertaintyLib.regions.settings import read_stated

    made_from, stated = _json(provenance), read_stated(region or ())
    settings = PredictionSettings(device=device, tiling=tiling)
    make_folder(output)
    if clicks is not None:
        return _simulate_readers(model, dataset, output, clicks, name, stated, settings)
    scores = run(model, dataset, settings, raters, drawn, name, stated, joint)
    if made_from is not None:
        scores.description["provenance"] = made_from
    summary = card_scores(scores)
    write_json(summary, output / "scores.json")
    draw_error_caught(scores, output / "error_caught.png")
    try:
        write_json(calibration_of(scores).to_dict(), output / "intervals.json")
    except TooFewCasesError as error:
        print(f"No intervals of volumes: {error}")
    write_runs([scores], output)
    print(f"mean Dice {scores.mean('dice'):.4f} over {len(scores.cases)} cases")
    return Result({"output": output, "run": scores.description} | summary)


def _simulate_readers(
    model: Path,
    dataset: Path,
    output: Path,
    clicks: ClickSource,
    name: str | None,
    regions: dict[str, float],
    settings: PredictionSettings,
) -> Result:
    from mob_training.comparison.readers import write_readers
    from mob_training.evaluation.readers.study import study_readers
    from mob_training.evaluation.score_files import read_runs, write_json, write_runs

    run, found = study_readers(model, dataset, settings, fitted=clicks is ClickSource.FIT, name=name, regions=regions)
    write_runs([run], output)
    write_json(asdict(found), output / "clicks.json")
    return _made(write_readers(read_runs([output]), output))  # the numbers as they are kept, six digits


@app.command()
def fingerprint(
    model: Annotated[Path, typer.Argument(help="Model folder, or a training folder of nnU-Net.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with the model's training and validation cases.")],
    output: Annotated[Path, typer.Option(help="JSON file to write, for mob-uncertainty export --fingerprint.")],
    data: Annotated[str | None, typer.Option(help="Which cases they are, in a few words; default: its name.")] = None,
    limit: Annotated[int, typer.Option(min=20, help="At most so many training cases are predicted.")] = 80,
    device: Device = "auto",
) -> Result:
    """Measure what ordinary cases of a model look like, so that unusual ones are noticed."""
    from mob_training.evaluation.fingerprints import measure_fingerprint
    from mob_training.evaluation.score_files import write_json
    from MoBUncertaintyLib.prediction import PredictionSettings

    found = measure_fingerprint(model, dataset, data, limit, PredictionSettings(device=device))
    write_json(found.to_dict(), output)
    print(f"{found.cases} cases; unusual from {found.limits[0]:g} deviations on, not usable from {found.limits[1]:g}")
    return Result({"output": output, "cases": found.cases, "limits": found.limits})


@app.command()
def compare(
    scores: Annotated[list[Path], typer.Argument(help="Folders of `evaluate`, or of an earlier `compare`.")],
    output: Annotated[Path, typer.Option(help="Folder for the scores, tables (CSV, Markdown, LaTeX) and figures.")],
    reference: Annotated[
        str | None, typer.Option(help="Model to test the others against; default: the fine-tuned control.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Pattern of the runs to compare, DATASET/MODEL/seed_N; repeat for several.")
    ] = None,
) -> Result:
    """Compare models and seeds in tables and figures: mean and SD, paired tests, calibration."""
    from mob_training.comparison.compare import compare as run

    return _made(run(scores, output, reference, only or ()))


@app.command()
def overlay(
    dataset: Annotated[Path, typer.Argument(help="Raw data set with held-out cases (imagesTs, labelsTs).")],
    case: Annotated[str, typer.Argument(help="Name of the case.")],
    models: Annotated[list[Path], typer.Argument(help="Model folders, or training folders of nnU-Net; a row each.")],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    samples: Annotated[
        int, typer.Option(min=0, help="Draw so many segmentations from each model instead of its maps.")
    ] = 0,
    device: Device = "auto",
) -> Result:
    """Draw predictions beside the truth: outlines, probability and variance, or samples, where the first model errs."""
    from mob_training.comparison.overlays import draw_case
    from MoBUncertaintyLib.prediction import PredictionSettings

    settings = PredictionSettings(device=device, tiling="full")
    return _made(draw_case(dataset, case, models, output, plane, settings, samples))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def workflow(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="Config, as in training/workflow/config.")],
    output: Annotated[Path, typer.Option(help="Folder of the workflow: data, runs, scores, tables.")],
    profile: Annotated[str, typer.Option(help="local, slurm, kubernetes, or a folder with a profile.")] = "local",
) -> None:
    """Run the whole comparison, from data to tables and figures, or resume it.

    All other arguments are passed to Snakemake: targets (all, models, predict_cohort, or a file) and options
    (--cores 2, --dry-run, --config data=FOLDER). Run the same command again after a stop or a crash.
    """
    from mob_training.workflow import start

    if SHOWN.as_json:
        raise SettingsError("What the workflow prints is Snakemake's, which is no JSON; leave out --json.")
    start(config, output, profile, [*context.args, *(["--quiet", "all"] if SHOWN.quiet else [])])


def _made(path: Path) -> Result:
    """Print the path of what a command made; it is also all that there is for `--json`."""
    print(path)
    return Result({"output": path})


def _json(text: str | None) -> Any:
    """Parse the value of `--provenance`.

    Raises:
        SettingsError: It is no JSON.
    """
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--provenance is not JSON: {error}.") from None


def main() -> None:
    """Run the command; report what a user can fix in one sentence, with exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"Error: {error.filename}: {error.strerror}; choose another place or repair this one.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
