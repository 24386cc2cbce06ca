"""From a data set to a model: planning, the deterministic stage, fine-tuning, a new head."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mob_training.cli.options import DatasetId, Workspace, declaring, written
from mob_training.training.settings import Attachment, Budget, Files, Job, Options, Preset, Recipe, Schedule, Seed
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.cli.programs import Result


def plan(
    dataset_id: DatasetId,
    workspace: Workspace,
    preset: Annotated[
        Preset, typer.Option(help="For two CPU cores, for them in little time, or residual encoder L.")
    ] = Preset.SMALL,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes to preprocess with.")] = 2,
) -> Result:
    """Run nnU-Net's fingerprinting, planning and preprocessing of a data set."""
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.planning import plan_and_preprocess

    name = plan_and_preprocess(dataset_id, preset, processes)
    print(name)
    return Result({"plans": name})


@declaring
def train(
    dataset_id: DatasetId,
    workspace: Workspace,
    job: Job,
    recipe: Annotated[
        Recipe | None,
        typer.Option(
            help="Default: budget, which learns in minutes on a CPU, with --minutes or without a GPU; else nnunet."
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, max=1e5, help="Minutes of the recipe budget. Default: 60.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Epochs of the recipe nnunet. Default: nnU-Net's own, 1000.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Batches per epoch.")] = Schedule.iterations,
    plans: Annotated[str, typer.Option(help="Name of the plans, as printed by `plan`.")] = "mobSmallPlans",
    start: Annotated[
        Path | None,
        typer.Option(
            help="Model folder, zip or training folder of the same plans whose weights the training starts from."
        ),
    ] = None,
    seed: Seed = 0,
) -> Result:
    """Train the deterministic stage, nnU-Net's network without mirroring, for a given time or number of epochs.

    With the recipe budget, weights that can be used are stored twenty times (checkpoint_best.pth), and --resume uses
    the time that is left.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training.stages import train_deterministic
    from MoBUncertaintyLib.inference.devices import select_device

    if recipe is None:
        by_epochs = epochs or (not minutes and select_device(job.device).type == "cuda")
        recipe = Recipe.NNUNET if by_epochs else Recipe.BUDGET
    if (epochs and recipe is Recipe.BUDGET) or (minutes and recipe is Recipe.NNUNET):
        raise SettingsError("The recipe budget takes --minutes, the recipe nnunet --epochs; leave one of the two out.")
    by_time = recipe is Recipe.BUDGET
    length = (
        Budget(minutes or 60, seed, started=start is not None)
        if by_time
        else Schedule.of(epochs or 1000, iterations, seed)
    )
    return written(train_deterministic(dataset_id, plans, length, job, start))


@declaring
def finetune(
    results: Annotated[Path, typer.Argument(help="Training folder to start from: the deterministic stage's, usually.")],
    workspace: Workspace,
    options: Options,
    job: Job,
    name: Annotated[str | None, typer.Option(help="Name of this run. Default: that of the covariance model.")] = None,
    seed: Seed = 0,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only write the plans, for nnUNetv2_train.")] = False,
) -> Result:
    """Fine-tune one of the five covariance models on the deterministic checkpoint (Eqs. 8 to 12).

    RESULTS may also be the training folder of a fine-tuning, or a model folder in the workspace's results: its backbone
    is the start.
    """
    from mob_training.training.workspace import use_workspace

    use_workspace(workspace)
    from mob_training.training import stages

    run = results, name or options.covariance.value, options.spec(), options.settings(seed)
    if prepare:
        return written(stages.prepare_finetuning(*run, job.fold))
    return written(stages.finetune(*run, job))


@declaring
def attach_head(
    files: Files,
    options: Attachment,
    shared: Annotated[
        bool, typer.Option(help="Fit to the cases' volumes which fraction of the noise the whole volume shares.")
    ] = True,
    keep_head: Annotated[
        bool, typer.Option(help="Keep the model's own head, and fit only how far its noise reaches.")
    ] = False,
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

    use_workspace(files.workspace, new=True)
    from mob_training.evaluation.shared_fraction import fit_shared_fraction
    from mob_training.training.attachment import attach_head, correlate_head

    fit_shared = partial(fit_shared_fraction, device=options.device) if shared else None
    run = correlate_head if keep_head else attach_head
    return written(run(files, options, fit_shared).path)
