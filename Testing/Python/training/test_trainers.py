"""Both trainers on tiny data, in this process: what they learn, log, repeat and resume."""

import csv
import json
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

from mob_training.training import progress as progress_module
from mob_training.training import stages
from mob_training.training.deterministic import LATEST, DeterministicTrainer, unwrapped
from mob_training.training.progress import draw_progress
from mob_training.training.settings import FineTuning, Job, Likelihood, Schedule, deterministic_plans
from mob_training.training.stages import train_deterministic
from mob_training.training.trainer import FineTuningTrainer
from MoBUncertaintyLib.base.errors import Cancelled, SettingsError
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.nnunet.training_folder import FINAL
from support.marks import needs_posix
from support.tiny import CONFIGURATION, make_dataset
from support.tiny_training import PLANS, make_workspace, same_weights, train, trainer_of, tune, weights

MOB = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=3, bases=3, partitions=2)
LOCAL = {"scope": Scope.LOCAL, "length_mm": (3.0, 2.0, 2.0)}
SPECS = [CovarianceSpec.of_kind(kind, rank=3, partitions=2) for kind in Covariance]
SPECS += [CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=3, partitions=2, scope=Scope.TILE)]
SPECS += [CovarianceSpec(kind, rank=3, partitions=2, **LOCAL) for kind in (MOB.kind, Covariance.DIAGONAL)]


def batch(trainer) -> dict:
    generator = torch.Generator().manual_seed(0)
    classes = trainer.label_manager.num_segmentation_heads
    target = torch.randint(0, classes, (1, 1, 16, 16, 16), generator=generator)
    return {"data": torch.randn(1, 1, 16, 16, 16, generator=generator) + target, "target": target.to(torch.int16)}


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory, patch) -> Path:
    """Results of the deterministic stage on two classes."""
    make_workspace(tmp_path_factory.mktemp("workspace"), patch)
    return train()


@pytest.fixture(scope="module")
def tuned(deterministic) -> Path:
    """A fine-tuning of two epochs, called "tuned"; the tests leave it as it is."""
    return tune(deterministic, MOB, "tuned")


@pytest.fixture(scope="module")
def whole(deterministic) -> Path:
    """One of three, that nothing has stopped."""
    return tune(deterministic, MOB, "whole", WHOLE)


def test_training_on_plans_that_are_not_there_is_refused(deterministic):
    with pytest.raises(SettingsError):
        train_deterministic(1, "otherPlans", Schedule(1))


def test_a_fold_that_the_split_lacks_is_refused(deterministic):
    """nnU-Net would split anew, by case, whatever the subjects."""
    with pytest.raises(SettingsError):
        train_deterministic(1, PLANS, Schedule(1), Job(1, "cpu"))


def test_another_gpu_than_the_first_is_refused(deterministic, monkeypatch):
    """nnU-Net would take the first without a word."""
    monkeypatch.setattr(stages, "select_device", torch.device)
    with pytest.raises(SettingsError):
        train_deterministic(1, PLANS, Schedule(1), Job(device="cuda:1"))


@needs_posix
def test_a_backbone_of_another_workspace_can_be_linked(deterministic, tmp_path, monkeypatch):
    """Several heads on one backbone have a workspace each."""
    make_workspace(tmp_path, monkeypatch)
    with pytest.raises(SettingsError, match="is not in the workspace's results"):
        stages.prepare_finetuning(deterministic, "head", MOB, FineTuning())
    start = f"{deterministic.parent.name}/{deterministic.name}"
    link = tmp_path / "results" / start
    link.parent.mkdir()
    link.symlink_to(deterministic)
    plans = json.loads(stages.prepare_finetuning(link, "head", MOB, FineTuning()).read_text())
    assert plans["finetuning"]["start_from"] == start


LEARNERS = [(spec, Likelihood.MEAN) for spec in SPECS]
LEARNERS += [(MOB, likelihood) for likelihood in Likelihood] + [(SPECS[-2], Likelihood.EVIDENCE)]


@pytest.mark.parametrize(("spec", "likelihood"), LEARNERS)
def test_every_parameter_of_every_model_learns(deterministic, spec, likelihood):
    """A gradient reaches all of the backbone and all of the head, and a step of the optimiser changes them."""
    trainer = trainer_of(spec, deterministic, likelihood=likelihood, learning_rate=1e-2, head_learning_rate=1e-2)
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    trainer.network.train()
    # Twice: at the start a head's weights may be zero, and its features' gradient with them.
    for _ in range(2):
        assert math.isfinite(trainer.train_step(batch(trainer))["loss"])
    for name, value in trainer.network.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and value.grad.abs().sum() > 0, name
            assert not torch.equal(value, before[name]), name
        else:
            assert "seg_layers" in name and not name.endswith("seg_layers.1.weight"), name


def test_each_epoch_is_a_row_of_the_progress_and_drawn(deterministic, monkeypatch):
    monkeypatch.setattr(progress_module, "draw_progress", draw_progress)
    results = tune(deterministic, MOB, "logged")
    with (results / "fold_0" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        values = {name: float(value) for name, value in row.items()}
        terms = ("cross_entropy", "dice", "kl", "orthogonality", "weight")
        assert sum(values[name] for name in terms) == pytest.approx(values["loss"], abs=1e-4)
        assert sum(values[f"basis_{i}"] for i in (1, 2, 3)) == pytest.approx(1, abs=1e-4)
        assert {"mean_variance", "validation_nll", "seconds"} <= set(values)
        assert 0 <= values["validation_dice"] <= 1
    assert (results / "fold_0" / "progress.png").read_bytes()[:4] == b"\x89PNG"


def test_share_of_each_basis_is_counted_over_the_cells(deterministic):
    trainer = trainer_of(MOB, deterministic)
    trainer.network.train()
    with torch.no_grad():
        unwrapped(trainer.network).head.weighting.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    logged = trainer.train_step(batch(trainer))
    assert [logged[f"basis_{i}"] for i in (1, 2, 3)] == [0, 1, 0]


def test_one_seed_gives_one_model_and_another_seed_another(deterministic, tuned):
    assert same_weights(tuned, tune(deterministic, MOB, "again"))
    assert not same_weights(tuned, tune(deterministic, MOB, "other", Schedule(2, 2, 2, seed=1)))


def test_validation_patches_are_the_same_every_epoch_with_augmentation_in_other_processes(deterministic, monkeypatch):
    trainer = trainer_of(MOB, deterministic)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    try:
        assert isinstance(trainer.dataloader_train, NonDetMultiThreadedAugmenter)
        first, second = [], []
        for patches in (first, second):
            trainer.on_validation_epoch_start()
            patches += [next(trainer.dataloader_val)["data"] for _ in range(3)]
    finally:
        trainer.dataloader_train._finish()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


# --- going on after a kill

WHOLE = Schedule(3, 2, 2)


@contextmanager
def killed_in_epoch(epoch: int) -> Iterator[pytest.ExceptionInfo[Cancelled]]:
    """The training stops in the middle of that epoch, as if by Ctrl-C."""
    original = DeterministicTrainer.on_epoch_start

    def stop(self):
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cancelled) as stopped:
        patch.setattr(DeterministicTrainer, "on_epoch_start", stop)
        yield stopped


def log(results: Path) -> str:
    """What the latest training wrote to its log; logs of one second share a file."""
    return max((results / "fold_0").glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime).read_text()


def progress(results: Path) -> list[str]:
    """Rows of the progress without the seconds that each epoch took."""
    return [line.rsplit(",", 1)[0] for line in (results / "fold_0" / "progress.csv").read_text().splitlines()]


def test_interrupted_deterministic_stage_ends_as_one_that_was_not(tmp_path, monkeypatch):
    make_workspace(tmp_path, monkeypatch)
    results = train(WHOLE)
    expected = weights(results)
    with killed_in_epoch(2):
        train(WHOLE)
    assert not (results / "fold_0" / FINAL).exists(), "what is there belongs to the broken training"
    train(WHOLE, resume=True)
    assert all(torch.equal(expected[name], value) for name, value in weights(results).items())
    assert "starts from the beginning" not in log(results)


def test_interrupted_fine_tuning_ends_as_one_that_was_not(deterministic, whole):
    with killed_in_epoch(2) as stopped:
        tune(deterministic, MOB, "broken", WHOLE)
    assert "--resume" in str(stopped.value)
    resumed = tune(deterministic, MOB, "broken", WHOLE, resume=True)
    assert same_weights(whole, resumed)
    assert same_weights(whole, resumed, "best")
    assert progress(whole) == progress(resumed)
    assert len(progress(resumed)) == 1 + WHOLE.epochs


def test_who_resumes_anyway_is_not_told_to_resume(deterministic):
    """As `attach-head`, which has no such option."""
    with killed_in_epoch(1) as stopped:
        tune(deterministic, MOB, "again", WHOLE, resume=True)
    assert "--resume" not in str(stopped.value) and "checkpoint" in str(stopped.value)


def test_finished_training_is_not_repeated(deterministic, tuned, monkeypatch):
    before = weights(tuned)
    monkeypatch.setattr(FineTuningTrainer, "train_step", lambda self, batch: pytest.fail("it trains again"))
    tune(deterministic, MOB, "tuned", resume=True)
    assert all(torch.equal(before[name], value) for name, value in weights(tuned).items())


@pytest.mark.parametrize("change", ["learning rate", "deterministic stage"])
def test_checkpoint_of_other_settings_is_not_gone_on_from(deterministic, change):
    name = f"changed-{change.split()[0]}"
    with killed_in_epoch(2):
        tune(deterministic, MOB, name, WHOLE)
    settings = {"learning_rate": 3e-4} if change == "learning rate" else {}
    plans = deterministic / "plans.json"
    before = plans.read_text()
    if change == "deterministic stage":  # as after training it again for longer
        plans.write_text(json.dumps(deterministic_plans(json.loads(before), Schedule(9, 2, 2))))
    try:
        resumed = tune(deterministic, MOB, name, WHOLE, resume=True, **settings)
        assert f"{LATEST} belongs to a training with other settings: it is not used." in log(resumed)
        assert "this training starts from the beginning" in log(resumed)
        assert same_weights(resumed, tune(deterministic, MOB, f"fresh-{name}", WHOLE, **settings))
    finally:
        plans.write_text(before)
    assert len(progress(resumed)) == 1 + WHOLE.epochs


def test_damaged_checkpoint_is_not_gone_on_from(deterministic, tuned):
    results = tune(deterministic, MOB, "damaged")
    path = results / "fold_0" / FINAL
    for part in (0.5, 0):
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
        assert same_weights(tuned, tune(deterministic, MOB, "damaged", resume=True))
        assert f"{FINAL} is not used" in log(results) and "is damaged" in log(results)


def test_code_in_a_checkpoint_of_a_shared_workspace_does_not_run(deterministic, tmp_path):
    results = tune(deterministic, MOB, "shared")
    path, proof = results / "fold_0" / FINAL, tmp_path / "proof"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(proof),)

    torch.save(torch.load(path, weights_only=False) | {"logging": Payload()}, path)
    tune(deterministic, MOB, "shared", resume=True)
    assert "asks to run code" in log(results) and not proof.exists()
    trainer = trainer_of(MOB, deterministic)
    torch.save({"network_weights": Payload()}, path)
    with pytest.raises(pickle.UnpicklingError):  # as nnU-Net's own commands go on
        trainer.load_checkpoint(str(path))
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()


def test_kill_amid_writing_a_checkpoint_leaves_the_one_before(deterministic, whole, monkeypatch):
    save, written = torch.save, []

    def half(content, path, *_):
        save(content, path)
        if LATEST in Path(path).name:  # a hidden name
            written.append(path)
            if len(written) == 2:
                with Path(path).open("r+b") as file:
                    file.truncate(1000)
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(torch, "save", half)
        tune(deterministic, MOB, "killed", WHOLE)
    results = whole.with_name(whole.name.replace("whole", "killed"))
    assert torch.load(results / "fold_0" / LATEST, weights_only=False)["current_epoch"] == 1
    assert same_weights(whole, tune(deterministic, MOB, "killed", WHOLE, resume=True))
    assert "starts from the beginning" not in log(results)


def test_finished_trainings_outlive_all_that_start_anew_in_their_folder(deterministic):
    finished = []
    for rate in (1e-2, 1e-3):
        results = tune(deterministic, MOB, "anew", learning_rate=rate)
        finished.append(((results / "fold_0" / FINAL).read_bytes(), (results / "fold_0" / "progress.csv").read_bytes()))
    with killed_in_epoch(0):
        tune(deterministic, MOB, "anew", resume=True)  # other settings
    assert not list((results / "fold_0").glob("checkpoint_*"))
    for number, content in enumerate(finished, start=1):
        kept = results / "fold_0" / "earlier" / str(number)
        assert ((kept / FINAL).read_bytes(), (kept / "progress.csv").read_bytes()) == content
    assert "of an earlier training was moved to earlier/2/" in log(results)


# --- what comes of it


def test_best_epoch_is_kept_and_is_the_model(deterministic):
    """The checkpoint of the epoch with the greatest validation Dice, which is the one that prediction takes."""
    results = tune(deterministic, MOB, "best", Schedule(3, 2, 2), learning_rate=1e-2)
    with (results / "fold_0" / "progress.csv").open() as file:
        dice = [float(row["validation_dice"]) for row in csv.DictReader(file)]
    stored = torch.load(results / "fold_0" / "checkpoint_best.pth", weights_only=False)
    assert stored["current_epoch"] - 1 == dice.index(max(dice))
    model = load_model(results)
    assert model.card.training["finetuning"]["seed"] == 0
    assert model.card.training["finetuning"]["start_from"] == f"Dataset001_Tiny/{deterministic.name}"


def test_fine_tuning_starts_from_the_whole_deterministic_checkpoint(deterministic):
    trainer = trainer_of(MOB, deterministic)
    ours = unwrapped(trainer.network).backbone.state_dict()
    stored = weights(deterministic)
    assert stored.keys() == ours.keys()
    assert all(torch.equal(stored[name], ours[name]) for name in stored)


def test_evaluation_gives_the_logarithm_of_the_predictive_mean(deterministic):
    from MoBUncertaintyLib.gaussian.probability import moments

    trainer = trainer_of(MOB, deterministic)
    x = batch(trainer)["data"]
    with torch.no_grad():
        gaussian = trainer.network.train()(x)
        log_p = trainer.network.eval()(x)
    p = moments(gaussian).mean
    torch.testing.assert_close(log_p.softmax(dim=1)[:, 1:], p, atol=1e-6, rtol=1e-5)


def test_three_classes_are_repeatable_in_evaluation_and_have_no_analytic_likelihood(tmp_path, monkeypatch):
    make_workspace(tmp_path, monkeypatch, classes=3)
    deterministic = train(Schedule(1, 1, 1))
    results = tune(deterministic, MOB, schedule=Schedule(1, 2, 2))
    assert load_model(results).card.labels[1].name == "organ 2"
    trainer = trainer_of(MOB, deterministic)
    x = batch(trainer)["data"]
    trainer.network.eval()
    with torch.no_grad():
        first, second = trainer.network(x), trainer.network(x)
    assert torch.equal(first, second)
    torch.testing.assert_close(first.exp().sum(dim=1), torch.ones(1, 16, 16, 16), atol=1e-5, rtol=0)
    with pytest.raises(SettingsError):
        trainer_of(MOB, deterministic, likelihood=Likelihood.ANALYTIC)


@pytest.mark.parametrize(
    "change", [lambda results: results / "nowhere", lambda results: _elsewhere(results)], ids=["missing", "elsewhere"]
)
def test_what_it_cannot_start_from_is_refused(deterministic, change):
    with pytest.raises(SettingsError):
        tune(change(deterministic), MOB)


def _elsewhere(results: Path) -> Path:
    folder = results.parents[2] / "elsewhere"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    return folder


def test_plans_without_a_fine_tuning_are_refused(deterministic):
    plans = json.loads((deterministic / "plans.json").read_text()) | {"continue_training": False}
    with pytest.raises(SettingsError):
        FineTuningTrainer(plans, CONFIGURATION, 0, make_dataset(), torch.device("cpu"))


@pytest.mark.slow
def test_network_compiles_in_training_and_evaluation(deterministic):
    """nnU-Net compiles networks on CUDA; `aot_eager` traces forwards and backwards just so."""
    trainer = trainer_of(MOB, deterministic)
    trainer.network = torch.compile(trainer.network, backend="aot_eager")
    trainer.network.train()
    assert math.isfinite(trainer.train_step(batch(trainer))["loss"])
    trainer.network.eval()
    assert trainer.validation_step(batch(trainer))["tp_hard"].shape == (1,)
    assert unwrapped(trainer.network).head is not None


def test_heads_alone_leave_backbone_and_mean_to_the_last_bit(deterministic):
    """Also from the best epoch of a fine-tuning; lengths and head move, and the segmentation stays."""
    control = tune(deterministic, CovarianceSpec(Covariance.DETERMINISTIC), "control")
    spec = CovarianceSpec(rank=3, partitions=2, **LOCAL, learn_length=True, keep_probability=True)
    options = {"likelihood": Likelihood.EVIDENCE, "heads_only": True, "head_learning_rate": 1e-2}
    head = tune(control, spec, "local", **options)
    assert head.name == f"FineTuningTrainer__{PLANS}-local__{CONFIGURATION}"
    before, after = weights(control, "best"), weights(head, "best")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    moved = {name: value for name, value in after.items() if name.startswith("head.")}
    assert not torch.isclose(moved["head.log_length"], torch.tensor(LOCAL["length_mm"]).log()).any()
    assert moved["head.log_variance.weight"].abs().sum() > 0
    assert load_model(head).card.covariance.length_mm == pytest.approx(moved["head.log_length"].exp().tolist())
    with (head / "fold_0" / "progress.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len({row["validation_dice"] for row in rows}) == 1
    assert all(math.isfinite(row["validation_likelihood"]) for row in rows)


def test_the_deterministic_model_has_no_head_to_train(deterministic):
    with pytest.raises(SettingsError):
        trainer_of(CovarianceSpec(Covariance.DETERMINISTIC), deterministic, heads_only=True)
