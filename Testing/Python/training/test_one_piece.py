"""Of which labels what lies apart can be taken back: the rule, on validation cases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.evaluation import pieces
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.model.card import Pieces, read_pieces
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from support.tiny import make_dataset, make_model, write_raw

NAMES = ("gathered", "scattered")


class FakePredictor:
    """Takes the place of `Predictor`: it sees two pieces of each label."""

    def __init__(self, model: object, settings: object) -> None:
        self.labels = model.card.labels

    def predict(self, image: sitk.Image) -> Prediction:
        segmentation = parts(small=NAMES)
        maps = np.stack([segmentation == label.value for label in self.labels]).astype(np.float32)
        return Prediction(segmentation, maps, np.zeros_like(maps), grid_of(image), self.labels)


def parts(small: tuple[str, ...]) -> np.ndarray:
    """A large piece of each label, and a small one of some."""
    segmentation = np.zeros((8, 12, 20), np.uint8)
    for value, name in enumerate(NAMES, start=1):
        segmentation[2:6, 5 * value - 4 : 5 * value, 2:9] = value
        if name in small:
            segmentation[3:5, 5 * value - 4 : 5 * value - 1, 13:15] = value
    return segmentation


def test_a_label_is_of_one_piece_where_that_does_not_lower_its_dice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(NAMES)
    model = make_model(tmp_path / "model", dataset=dataset)
    truth = sitk.GetImageFromArray(parts(small=("scattered",)))
    image = sitk.Cast(truth, sitk.sitkInt16)
    raw = write_raw(tmp_path / "Dataset001_Parts", dataset, dict.fromkeys(("seen", "case"), (image, truth)), "Tr")
    (raw / "splits_final.json").write_text(json.dumps([{"train": ["seen"], "val": ["case"]}]))
    monkeypatch.setattr(pieces, "Predictor", FakePredictor)
    made = pieces.measure_pieces(tmp_path / "model", raw, PredictionSettings())
    large, small = 4 * 4 * 7, 2 * 3 * 2
    assert made["gathered"] == Pieces(1, round(2 * large / (2 * large + small), 4), 1.0)
    assert made["scattered"] == Pieces(1, 1.0, round(2 * large / (2 * large + small), 4))
    assert replace(model.card, pieces=made).one_piece == {"gathered"}
    stored = to_json(made)
    assert read_pieces(stored) == made
    for wrong in ({"dice": 2.0}, {"cases": 0}, {"dice": "1"}):
        with pytest.raises(SettingsError):
            read_pieces({"gathered": stored["gathered"] | wrong})
    with pytest.raises(ValueError, match="pieces"):
        replace(model.card, pieces={"other": made["gathered"]})
