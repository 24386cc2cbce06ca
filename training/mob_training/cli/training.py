"""From a data set to a model: planning, the deterministic stage, fine-tuning, a new head."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mob_training.cli.options import DEFAULTS, DatasetId, Device, Fold, Seed, Workspace, written
from mob_training.training.settings import (
    Budget,
    FineTuning,
    Likelihood,
    LossWeights,
    Preset,
    Recipe,
    Schedule,
    parse_length,
)
from MoBUncertaintyLib.cli.programs import Result
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.model.covariance import Assignment, Covariance, CovarianceSpec, Scope

Resume = Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint with the same settings.")]


def plan(
    dataset_id: DatasetId,
    workspace: Workspace,
    preset: Annotated[Preset, typer.Option(help="For two CPU cores, or residual encoder L.")] = Preset.SMALL,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes to preprocess with.")] = 2,
) -> Result:
    """Run nnU-Net's fingerprinting, planning and preprocessing of a data set."""
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.planning import plan_and_preprocess

    name = plan_and_preprocess(dataset_id, preset, processes)
    print(name)
    return Result({"plans": name})


def train(
    dataset_id: DatasetId,
    workspace: Workspace,
    recipe: Annotated[
        Recipe | None,
        typer.Option(
            help="Default: budget, which learns in minutes on a CPU, with --minutes or without a GPU; else nnunet."
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, max=1e5, help="Time of the recipe budget; default: 60.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Of the recipe nnunet; default: nnU-Net's own, 1000.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Batches per epoch.")] = DEFAULTS.iterations,
    plans: Annotated[str, typer.Option(help="Name of the plans, as printed by `plan`.")] = "mobSmallPlans",
    mirror: Annotated[
        list[int] | None,
        typer.Option(min=0, max=2, help="An axis of the network's input along which patches are mirrored; repeat it."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Model folder, zip or training folder of the same plans whose weights the training starts from."
        ),
    ] = None,
    fold: Fold = 0,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> Result:
    """Train the deterministic stage: nnU-Net's network, without mirroring, as long as there is time or for epochs.

    With the recipe budget, weights that can be used are stored twenty times (checkpoint_best.pth), and --resume goes on
    with the time that is left.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.stages import train_deterministic
    from MoBUncertaintyLib.inference.devices import select_device

    if recipe is None:
        by_epochs = epochs or (not minutes and select_device(device).type == "cuda")
        recipe = Recipe.NNUNET if by_epochs else Recipe.BUDGET
    if (epochs and recipe is Recipe.BUDGET) or (minutes and recipe is Recipe.NNUNET):
        raise SettingsError("The recipe budget takes --minutes, the recipe nnunet --epochs; leave one of the two out.")
    axes = tuple(sorted({*(mirror or ())}))
    if axes and recipe is Recipe.NNUNET:
        raise SettingsError("The recipe nnunet is without mirroring here; leave --mirror out.")
    length = (
        Budget(minutes or 60, seed, axes) if recipe is Recipe.BUDGET else Schedule.of(epochs or 1000, iterations, seed)
    )
    return written(train_deterministic(dataset_id, plans, length, fold, device, resume, start))


def finetune(
    results: Annotated[Path, typer.Argument(help="Training folder to start from: the deterministic stage's, usually.")],
    workspace: Workspace,
    covariance: Annotated[Covariance, typer.Option(help="Covariance model.")] = DEFAULTS.covariance,
    name: Annotated[str | None, typer.Option(help="Name of this run; default: the covariance model's.")] = None,
    rank: Annotated[int, typer.Option(min=1, max=256, help="R.")] = DEFAULTS.rank,
    bases: Annotated[int, typer.Option(min=1, max=256, help="M.")] = DEFAULTS.bases,
    partitions: Annotated[int, typer.Option(min=1, max=256, help="P, cells per axis of a tile.")] = DEFAULTS.partitions,
    scope: Annotated[
        Scope | None, typer.Option(help="Which voxels share z2. Default: tile for low-rank, voxel for the others.")
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(help="Z,Y,X: correlation length of the scope local along the axes of the network's input, mm."),
    ] = None,
    learn_length: Annotated[bool, typer.Option(help="Train the length, too.")] = DEFAULTS.learn_length,
    shared_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Fraction of the noise's variance that the whole volume shares, for the scope local."
        ),
    ] = DEFAULTS.shared_fraction,
    assignment: Annotated[
        Assignment, typer.Option(help="A cell takes the most probable basis, or the mean of the bases.")
    ] = DEFAULTS.assignment,
    deep: Annotated[
        int,
        typer.Option(min=0, max=9, help="The head also sees the features of so many earlier stages of the decoder."),
    ] = DEFAULTS.deep,
    likelihood: Annotated[Likelihood, typer.Option(help="mean is Eq. 12.")] = DEFAULTS.likelihood,
    samples: Annotated[int, typer.Option(min=1, max=1000, help="k, samples per training step.")] = DEFAULTS.samples,
    learning_rate: Annotated[float, typer.Option(min=0, max=1, help="Of the backbone.")] = DEFAULTS.learning_rate,
    head_learning_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Of the covariance head.")
    ] = DEFAULTS.head_learning_rate,
    dice_weight: Annotated[
        float, typer.Option(min=0, max=1e6, help="lambda_Dice of Eq. 11; lower is better calibrated.")
    ] = DEFAULTS.dice_weight,
    kl_weight: Annotated[float, typer.Option(min=0, max=1e6, help="lambda_KL of Eq. 11.")] = DEFAULTS.kl_weight,
    reverse_kl: Annotated[bool, typer.Option(help="Reverse the direction of Eq. 8.")] = DEFAULTS.reverse_kl,
    orthogonality_weight: Annotated[
        float, typer.Option(min=0, max=1e6, help="lambda_orth of Eq. 11.")
    ] = DEFAULTS.orthogonality_weight,
    entropy_weight: Annotated[
        float, typer.Option(min=0, max=1e6, help="lambda_w of Eq. 11.")
    ] = DEFAULTS.entropy_weight,
    temperature_scaling: Annotated[
        bool, typer.Option(help="At the end divide the logits by the temperature with the lowest validation NLL.")
    ] = DEFAULTS.temperature_scaling,
    heads_only: Annotated[
        bool, typer.Option(help="Train the covariance head alone: backbone, mean and segmentation stay.")
    ] = DEFAULTS.heads_only,
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = DEFAULTS.keep_probability,
    epochs: Annotated[int, typer.Option(min=1, max=100_000, help="The paper's number is 20.")] = DEFAULTS.epochs,
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Patches per epoch.")] = DEFAULTS.iterations,
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
        return written(prepare_finetuning(results, name, spec, settings, fold))
    return written(run(results, name, spec, settings, fold, device, resume))


def attach_head(
    model: Annotated[Path, typer.Argument(help="Model folder, zip or training folder; a covariance it has goes.")],
    cases: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, of 20 cases or more.")],
    workspace: Annotated[Path, typer.Option(help="New folder to work in; an interrupted run goes on in its own.")],
    output: Annotated[Path, typer.Option(help="Model folder or .zip to make.")],
    covariance: Annotated[Covariance, typer.Option(help="Covariance model of the head.")] = DEFAULTS.covariance,
    scope: Annotated[
        Scope, typer.Option(help="Which voxels share the noise: those near each other (local), or a whole tile.")
    ] = Scope.LOCAL,
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = True,
    epochs: Annotated[int, typer.Option(min=1, max=100_000, help="Epochs of the head.")] = 4,
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Patches per epoch.")] = 60,
    shared: Annotated[
        bool, typer.Option(help="Fit to the cases' volumes which fraction of the noise the whole volume shares.")
    ] = True,
    keep_head: Annotated[
        bool, typer.Option(help="Keep the model's own head, and fit only how far its noise reaches.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes to preprocess with.")] = 1,
) -> Result:
    """Give a model a new covariance head, fitted on labelled cases; the segmentation stays.

    The backbone is frozen. The noise is smooth, of a length that is learned, unless --scope says otherwise, and the
    whole segmentations of the cases are as probable as possible (`finetune --heads-only --likelihood evidence`); a
    temperature is fitted, too. At the end the whole volume gets a fraction of smooth noise in common, the one that
    suits the cases' volumes best.

    With --keep-head the head stays as well, and with it each voxel's probability and variance, exactly: only the
    length of the noise and the fraction that the volume shares are fitted. --covariance, --scope, --keep-probability,
    --epochs and --iterations then have no effect.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace, new=True)
    from mob_training.evaluation.shared_fraction import fit_shared_fraction
    from mob_training.training.attachment import attach_head as run
    from mob_training.training.attachment import correlate_head

    fit_shared = partial(fit_shared_fraction, device=device) if shared else None
    if keep_head:
        kept = correlate_head(
            model, cases, workspace, output, fit_shared=fit_shared, seed=seed, device=device, processes=processes
        )
        return written(kept.path)
    made = run(
        model,
        cases,
        workspace,
        output,
        covariance,
        scope=scope,
        keep_probability=keep_probability,
        schedule=Schedule.of(epochs, iterations, seed),
        fit_shared=fit_shared,
        device=device,
        processes=processes,
    )
    return written(made.path)
