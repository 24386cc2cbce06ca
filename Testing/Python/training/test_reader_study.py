"""`mob-training evaluate --clicks`: fit on validation cases, simulate on those held out, write what `compare` reads."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mob_training.cli import app
from mob_training.data.phantom import make_phantom
from mob_training.evaluation import held_out
from mob_training.evaluation.held_out import split_cases
from mob_training.evaluation.readers import learning, readers, simulation, study
from mob_training.evaluation.readers.baselines import Bump, Walker
from mob_training.evaluation.readers.boosting import Boosting
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Refined
from mob_training.evaluation.score_files import read_runs
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.fake_scores import FakeModel, FakePredictor, write_dataset

REGION = ["--region", "depth_mm=0.5", "--region", "window_mm=2", "--region", "grow_mm=1", "--region", "length_mm=16"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two held-out cases and three to train with, of which two validate."""
    dataset, other = write_dataset(tmp_path, "Ball", 2), write_dataset(tmp_path / "other", "Ball", 3, number=2)
    for kind in ("images", "labels"):
        shutil.copytree(other / f"{kind}Ts", dataset / f"{kind}Tr")
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["case1"], "val": ["case0", "case2"]}]))
    return dataset


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel(Covariance.MIXTURE_OF_BASES, blunder=1.5)
    monkeypatch.setattr(held_out, "loaded", lambda path: model)
    monkeypatch.setattr(held_out, "Predictor", FakePredictor)
    small = {"DEVIATIONS": (None, 1.0), "LENGTHS_MM": (4.0,), "STRENGTHS": (8.0,), "SHARPENINGS": (0.0, 1.0)}
    grids = {"bump": (Bump(0.1, 1.0), Bump(3.0, 3.0)), "walker": (Walker(100.0, 6.0, 0.95),)}
    for name, values in (small | {"CAUTIONS": (0.0, 0.35), "GRIDS": grids}).items():
        monkeypatch.setattr(study, name, values)
    monkeypatch.setattr(learning, "Boosting", partial(Boosting, trees=8, rate=0.5))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers act once."""
    monkeypatch.setattr(simulation, "ACTIONS", 1)


def test_settings_are_fitted_and_readers_simulated(dataset: Path, tmp_path: Path, fake: None) -> None:
    arguments = ["evaluate", "MODEL", str(dataset), "--output", str(tmp_path / "out"), "--clicks", "fit", *REGION]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "3 of 3: " in done.output, done.output
    (run,) = read_runs([tmp_path / "out"])
    found = ClickSettings.from_dict(json.loads((tmp_path / "out" / "clicks.json").read_text()))
    assert run.description["clicks"] == asdict(replace(found, learned=None))
    tried = run.description["fit"]["cautions"]
    assert [one["caution"] for one in tried] == [None, 0, 0.35]
    assert found.length_mm == 4
    assert len(run.description["fit"]["trials"]) == 3
    assert sorted(run.cases) == ["case0", "case1"]
    assert run.description["baselines"]["bump"] == {"height": 3, "width_mm": 3, "slowness": 0}
    assert run.per_case("errors_walker.dice")["case0"][5] > run.per_case("errors_walker.dice")["case0"][0]
    dice = run.per_case("errors.dice")["case0"]
    assert len(dice) == 11
    assert dice[5] > dice[0]
    assert "Ball, 2 cases" in (tmp_path / "out" / "readers.md").read_text()
    compared = CliRunner().invoke(app, ["compare", str(tmp_path / "out"), "--output", str(tmp_path / "again")])
    assert compared.exit_code == 0, compared.output
    for name in ("readers.md", "readers.png", "cases.csv.gz"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_without_validation_cases_nothing_is_fitted(dataset: Path, fake: None) -> None:
    (dataset / "splits_final.json").unlink()
    assert split_cases(dataset, "val") == []
    with pytest.raises(SettingsError):
        study.study_readers(Path("MODEL"), dataset, report=lambda line: None)
    (dataset / "splits_final.json").write_text("{}")
    with pytest.raises(SettingsError):
        split_cases(dataset, "val")


def test_only_what_is_learned_is_fitted_on_request(dataset: Path, fake: None, brief: None) -> None:
    run, clicks = study.study_readers(Path("MODEL"), dataset, report=lambda line: None, fitting="learn")
    assert "trials" not in run.description["fit"]
    assert replace(clicks, learned=None, caution=0.0) == ClickSettings()


def test_what_the_model_has_is_kept_on_request(dataset: Path, fake: None, brief: None) -> None:
    run, clicks = study.study_readers(Path("MODEL"), dataset, report=lambda line: None, fitting="keep")
    assert not run.description["fit"]
    assert clicks == ClickSettings()
    assert run.per_case("errors.dice")


def test_trees_that_help_other_subjects_are_kept(dataset: Path, fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditioning that hardly moves anything leaves much to learn; where it harms less and gains as much, it stays."""
    model, cases = held_out.Examination(Path("MODEL"), dataset, held_out.PLAIN, None), split_cases(dataset, "val")
    read = [model.read(files) for files in cases]
    weak = ClickSettings(length_mm=4.0, prior_deviation=0.05)
    learned, _ = study.fit_learned(read, ["a", "b"], weak, report=lambda line: None)
    assert learned.learned is not None
    corrections = [[(case, Refined(case.prediction, own)) for case in read] for own in (weak, learned)]
    gains = [study.try_out(pairs).gain for pairs in corrections]
    assert gains[1] > gains[0] + 0.005
    with pytest.raises(SettingsError):
        study.fit_learned(read, ["a", "a"], weak, report=lambda line: None)


@pytest.mark.slow
def test_two_clicks_a_region_pay_off_on_a_new_phantom() -> None:
    model, phantom = load_model(find_model("PhantomPancreas")), make_phantom(987_654)
    prediction = Predictor(model, PredictionSettings(device="cpu")).predict(phantom.ct)
    case = ReadCase.of(prediction, phantom.labels["pancreas"], model.card.region_settings)
    assert prediction.click_settings == model.card.click_settings != ClickSettings()
    refined = Refined(case.prediction, model.card.click_settings)
    *_, last = readers.click_in_regions(case, refined, 2)
    assert case.dice(last.prediction.segmentation) > case.dice(case.prediction.segmentation) + 0.01
    *_, suggested = islice(readers.click_as_suggested(case), 5)
    assert len(suggested.clicks) == 5
