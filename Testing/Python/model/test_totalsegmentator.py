"""Weights where TotalSegmentator's own installer leaves them."""

import json
import shutil
from pathlib import Path

import pytest

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import ListedModel, find_model
from MoBUncertaintyLib.model.nnunet import totalsegmentator
from support.command_line import run
from support.tiny import make_dataset, make_results_folder

ORGANS = "Dataset291_TotalSegmentator_part1_organs_1559subj"
TRAINER = "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of its results: one model that can be opened, others that can be listed, and what is none."""
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    results = tmp_path / "home" / "nnunet" / "results"
    make_results_folder(results / ORGANS / TRAINER, dataset=make_dataset(("spleen", "kidney_right", "autochthon_left")))
    for name in ("Dataset297_TotalSegmentator_total_3mm_1559subj", "Dataset481_tissue_1559subj", "Dataset999_own"):
        folder = results / name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text("{}")
        (folder / "dataset.json").write_text(json.dumps(make_dataset(("torso_fat",))))
    (results / "Dataset300_body_6mm_1559subj").mkdir()  # a download that was interrupted
    (results / "lightning_models").mkdir()
    (results / "tmp_download_file.zip").touch()
    return results


def test_weights_are_found_by_number(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["totalsegmentator:291", "totalsegmentator:297", "totalsegmentator:481", "totalsegmentator:999"]
    assert list(totalsegmentator.installed_weights()) == names
    expected = weights / ORGANS / TRAINER
    assert find_model("totalsegmentator:291") == expected
    assert totalsegmentator.name_of(expected) == names[0]
    for name in ("300", "", "organs"):
        with pytest.raises(ModelError):
            find_model(f"totalsegmentator:{name}")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(weights.parent))
    assert not totalsegmentator.installed_weights()
    shutil.move(weights / ORGANS, weights.parent)
    assert find_model("totalsegmentator:291") == weights.parent / ORGANS / TRAINER


def test_its_images_lie_as_totalsegmentator_turns_them(weights: Path, tmp_path: Path) -> None:
    """No file of the weights says so."""
    elsewhere = shutil.copytree(weights / ORGANS / TRAINER, tmp_path / "copy" / TRAINER)
    assert load_model(find_model("totalsegmentator:291")).card.orientation == "RAS"
    assert load_model(elsewhere).card.orientation is None


def test_labels_have_codes_where_these_are_known_and_the_licence_is_shown(weights: Path) -> None:
    card = load_model(find_model("totalsegmentator:291")).card
    codes = [(label.name, label.terminology["type"][1], label.terminology["modifier"]) for label in card.labels]
    right = ("SCT", "24028007", "Right")
    assert codes[:2] == [("spleen", "78961009", None), ("kidney_right", "64033007", right)]
    assert codes[2] == ("autochthon_left", "85756007", None), "a tissue of no code of its own"
    licences = {name: ListedModel(path, None).licence for name, path in totalsegmentator.installed_weights().items()}
    assert [*licences.values()][:2] == [card.licence, card.licence] == ["Apache-2.0"] * 2
    assert "non-commercial" in licences["totalsegmentator:481"]
    assert licences["totalsegmentator:999"] == "not stated", "nothing is said of what is not known"


def test_they_are_listed_and_inspected_by_name(weights: Path) -> None:
    listed = run("models", "list", "--installed").stdout
    assert "totalsegmentator:291  TotalSegmentator_part1_organs, weights of TotalSegmentator" in listed
    assert "labels: spleen, kidney_right, autochthon_left; licence: Apache-2.0" in listed
    facts = json.loads(run("--json", "models", "list", "--installed").stdout)["totalsegmentator"]
    assert facts[0]["name"] == "totalsegmentator:291"
    assert facts[2]["labels"] == ["torso_fat"]
    inspected = json.loads(run("--json", "inspect", "totalsegmentator:291").stdout)
    assert inspected["card"]["licence"] == "Apache-2.0" and inspected["card"]["orientation"] == "RAS"
    missing = run("inspect", "totalsegmentator:5")
    assert missing.exit_code == 2 and "TotalSegmentator has no weights '5'" in missing.stderr
