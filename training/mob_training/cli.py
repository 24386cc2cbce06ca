"""`mob-training`: from a labelled data set to a trained covariance model, one command a step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from MoBUncertaintyLib.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.errors import SettingsError, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Workspace = Annotated[Path, typer.Option(help="Folder that holds nnU-Net's raw, preprocessed and results folders.")]
DatasetId = Annotated[int, typer.Option(help="nnU-Net's number of the data set.")]
Seed = Annotated[int, typer.Option(help="Source of every random number.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Fold = Annotated[int, typer.Option(help="Fold of the data set's split.")]


@app.command()
def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write the cases to.")],
    cases: Annotated[int, typer.Option(help="Number of CTs.")] = 60,
    raters: Annotated[int, typer.Option(help="Extra readers' masks per case.")] = 0,
    seed: Seed = 0,
) -> None:
    """Make abdominal CT phantoms in TotalSegmentator's layout."""
    from mob_training.phantom import write_cohort

    write_cohort(output, cases, seed, raters=raters, progress=lambda done, total: print(f"{done}/{total} phantoms"))


@app.command()
def totalsegmentator(
    source: Annotated[Path, typer.Argument(help="Folder in TotalSegmentator's layout.")],
    organ: Annotated[str, typer.Option(help="TotalSegmentator's name of the structure.")],
    name: Annotated[str, typer.Option(help="Name of the nnU-Net data set.")],
    dataset_id: DatasetId,
    workspace: Workspace,
    test: Annotated[int, typer.Option(help="Cases kept aside for testing.")],
    validation: Annotated[int, typer.Option(help="Cases that choose the best epoch.")],
    seed: Seed = 0,
) -> None:
    """Convert CTs with organ masks into an nnU-Net data set of one organ."""
    from mob_training.datasets import Split, totalsegmentator_cases, write_dataset
    from mob_training.workspace import use_workspace

    use_workspace(workspace)
    split = Split(validation=validation, test=test, seed=seed)
    cases = totalsegmentator_cases(source, organ)
    print(write_dataset(cases, dataset_id, name, [organ], "CT", split, f"{organ} of {source.name}"))


@app.command()
def labelled(
    source: Annotated[Path, typer.Argument(help="Folder with images/ and labels/.")],
    label: Annotated[list[str], typer.Option(help="NAME=VALUE[,VALUE...]; repeat for several classes.")],
    name: Annotated[str, typer.Option(help="Name of the nnU-Net data set.")],
    dataset_id: DatasetId,
    workspace: Workspace,
    test: Annotated[int, typer.Option(help="Cases kept aside for testing.")],
    validation: Annotated[int, typer.Option(help="Cases that choose the best epoch.")],
    channel: Annotated[str, typer.Option(help="CT, or another name for images that are z-scored.")] = "MRI",
    seed: Seed = 0,
) -> None:
    """Convert a folder of images and label maps into an nnU-Net data set of the labels named."""
    from mob_training.datasets import Split, folder_cases, write_dataset
    from mob_training.workspace import use_workspace

    use_workspace(workspace)
    names, values = _classes(label)
    split = Split(validation=validation, test=test, seed=seed)
    cases = folder_cases(source, values)
    print(write_dataset(cases, dataset_id, name, names, channel, split, source.name))


@app.command()
def plan(
    dataset_id: DatasetId,
    workspace: Workspace,
    preset: Annotated[str, typer.Option(help="small (two CPU cores) or large (residual encoder L).")] = "small",
    processes: Annotated[int, typer.Option(help="Processes to preprocess with.")] = 2,
) -> None:
    """Let nnU-Net take the data set's fingerprint, plan a network and preprocess the cases."""
    from mob_training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.planning import Preset, plan_and_preprocess

    print(plan_and_preprocess(dataset_id, Preset(preset), processes))


@app.command()
def train(
    dataset_id: DatasetId,
    workspace: Workspace,
    epochs: Annotated[int, typer.Option(help="nnU-Net's own number is 1000.")],
    iterations: Annotated[int, typer.Option(help="Batches per epoch.")] = 250,
    plans: Annotated[str, typer.Option(help="Name of the plans, as printed by `plan`.")] = "mobSmallPlans",
    fold: Fold = 0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Deterministic stage: nnU-Net without mirroring."""
    from mob_training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.stages import train_deterministic
    from mob_training.trainer import Schedule

    schedule = Schedule(epochs, iterations, max(5, iterations // 5), seed)
    print(train_deterministic(dataset_id, plans, schedule, fold, device))


@app.command()
def finetune(
    results: Annotated[Path, typer.Argument(help="Results folder of the deterministic stage.")],
    workspace: Workspace,
    covariance: Annotated[Covariance, typer.Option(help="Covariance model.")] = Covariance.MIXTURE_OF_BASES,
    name: Annotated[str | None, typer.Option(help="Name of this run; the covariance model's if not given.")] = None,
    rank: Annotated[int, typer.Option(help="R.")] = 16,
    bases: Annotated[int, typer.Option(help="M.")] = 3,
    partitions: Annotated[int, typer.Option(help="P, cells per axis of a tile.")] = 4,
    scope: Annotated[Scope, typer.Option(help="How often z2 is drawn.")] = Scope.VOXEL,
    likelihood: Annotated[str, typer.Option(help="mean (Eq. 12), log-mean-exp or analytic.")] = "mean",
    samples: Annotated[int, typer.Option(help="k, samples per training step.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Of the backbone.")] = 1e-4,
    head_learning_rate: Annotated[float, typer.Option(help="Of the covariance head.")] = 1e-4,
    dice_weight: Annotated[float, typer.Option(help="lambda_Dice of Eq. 11; less of it, better calibrated.")] = 1.0,
    kl_weight: Annotated[float, typer.Option(help="lambda_KL of Eq. 11.")] = 5e-4,
    reverse_kl: Annotated[bool, typer.Option(help="The other direction of Eq. 8.")] = False,
    epochs: Annotated[int, typer.Option(help="The paper's number is 20.")] = 20,
    iterations: Annotated[int, typer.Option(help="Patches per epoch.")] = 250,
    fold: Fold = 0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Fine-tune one of the five covariance models on the deterministic checkpoint (Eqs. 8 to 12)."""
    from mob_training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.losses import Likelihood, LossWeights
    from mob_training.stages import finetune as run
    from mob_training.trainer import FineTuning, Schedule

    settings = FineTuning(
        likelihood=Likelihood(likelihood),
        samples=samples,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        reverse_kl=reverse_kl,
        weights=LossWeights(dice=dice_weight, kl=kl_weight),
    )
    spec = CovarianceSpec(covariance, rank, bases, partitions, scope)
    schedule = Schedule(epochs, iterations, max(5, iterations // 5), seed)
    print(run(results, name or covariance.value, spec, settings, schedule, fold, device))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, or a results folder of nnU-Net.")],
    dataset: Annotated[Path, typer.Argument(help="Raw data set with held-out cases (imagesTs, labelsTs).")],
    output: Annotated[Path, typer.Option(help="JSON file for the summary, as `export --scores` takes it.")],
    device: Device = "auto",
) -> None:
    """Score a model on whole held-out cases: Dice, and how much of the error the flagged regions hold.

    Beside the summary come the scores of each case (NAME_cases.json) and a figure (NAME.png).
    """
    from mob_training.evaluation import evaluate as run
    from mob_training.evaluation import write_scores
    from mob_training.figures import draw_error_caught
    from MoBUncertaintyLib.prediction import PredictionSettings

    scores = run(model, dataset, PredictionSettings(device=device))
    write_scores({"held_out_cases": len(scores["cases"]), **scores["summary"]}, output)
    write_scores(scores["cases"], output.with_name(f"{output.stem}_cases.json"))
    draw_error_caught(scores, output.with_suffix(".png"))
    print(f"mean Dice {scores['summary']['dice']['mean']:.4f} over {len(scores['cases'])} cases")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def workflow(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="Config, as in training/workflow/config.")],
    output: Annotated[Path, typer.Option(help="Folder of the workflow: data, runs, scores, tables.")],
    profile: Annotated[str, typer.Option(help="local, slurm, kubernetes, or a folder with a profile.")] = "local",
) -> None:
    """Run the whole comparison, from data to tables and figures, or go on where it was stopped.

    Everything else goes to snakemake: targets (all, models, predict_cohort) and options (--cores 2, --dry-run).
    """
    from mob_training.workflow import start

    start(config, output, profile, context.args)


def _classes(labels: list[str]) -> tuple[list[str], list[list[int]]]:
    """Names and label values of `--label NAME=VALUE[,VALUE...]`.

    Raises:
        SettingsError: One is not of that form.
    """
    names, values = [], []
    for entry in labels:
        name, _, members = entry.partition("=")
        if not name or not all(member.strip().isdigit() for member in members.split(",")):
            raise SettingsError(f"--label must be NAME=VALUE or NAME=VALUE,VALUE, not {entry!r}.")
        names.append(name)
        values.append([int(member) for member in members.split(",")])
    return names, values


def main() -> None:
    """The command: what a user can mend is one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
