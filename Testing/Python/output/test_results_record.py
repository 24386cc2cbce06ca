"""A results folder that others have written or damaged, and what a worker sends, is read or refused in one sentence."""

import json
import random
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.results_record import (
    KEPT,
    RecordError,
    prediction_of,
    read_prediction,
    read_regions,
    write_prediction,
)
from MoBUncertaintyLib.regions.discrepancy import find_discrepancies
from MoBUncertaintyLib.regions.findings import Checked
from MoBUncertaintyLib.regions.prediction import Prediction
from support.clicks import random_trees
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case, write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "out"
    case = fake_case(labels=(PANCREAS, LEFT_KIDNEY))
    write_results(folder, case)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """The results in hard links, of which a test replaces some."""
    for path in written.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    return tmp_path


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prediction.json").read_text(encoding="utf-8"))


def test_a_flipped_bit_in_any_file_is_refused_and_the_file_named(folder: Path, written: Path) -> None:
    dice = random.Random(1)
    for path in sorted(written.iterdir()):
        content = bytearray(path.read_bytes())
        for _ in range(3):
            changed = bytearray(content)
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
            replace(folder / path.name, bytes(changed))
            with pytest.raises(OutputError) as refused:
                read_results(folder)
            assert path.name in str(refused.value) or path.name == "prediction.json"
        replace(folder / path.name, bytes(content))
    read_results(folder)


def test_a_record_altered_at_random_is_refused_in_one_sentence(folder: Path, written: Path) -> None:
    dice, good = random.Random(2), (written / "prediction.json").read_bytes()
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(dice.choice((1, 1, 4))):
            start = dice.randrange(len(changed))
            changed[start : start + dice.choice((0, 1, 40))] = dice.choice(
                (b"[" * 2000, b"1e999", b'"\\ud800"', b"null", b"\xff", b"", b"9" * 400, b"{}")
            )
        if b"".join(changed.split()) == b"".join(good.split()):
            continue  # the same in another layout
        replace(folder / "prediction.json", bytes(changed))
        with pytest.raises(OutputError):
            read_results(folder)


SPOILT: tuple[Callable[[dict[str, Any]], object], ...] = (
    lambda record: record.pop("created"),
    lambda record: record.update(created="yesterday"),
    lambda record: record.update(labels={}),
    lambda record: record.update(labels=[]),
    lambda record: record["labels"][0].update(value=True),
    lambda record: record["labels"][0].update(value=0),
    lambda record: record["labels"][1].update(colour=[1, 2]),
    lambda record: record["labels"][1].update(name="pancreas"),
    lambda record: record["input"].update(path=["/etc/passwd"]),
    lambda record: record["input"].update(size=[1, 2]),
    lambda record: record["input"]["size"].__setitem__(2, -1),
    lambda record: record["input"]["size"].__setitem__(2, 1),
    lambda record: record["regions"].update(settings=None),
    lambda record: record["regions"].update(settings={"x": 1}),
    lambda record: record["click_settings"].update(strength=-1),
    lambda record: record.update(click_settings=3),
    lambda record: record.update(processed_box=[[1], [0, 1], [0, 1]]),
    lambda record: record.update(warnings=[{}]),
    lambda record: record["settings"].update(region_of_interest=[1]),
    lambda record: record.update(folds=[[]]),
    lambda record: record.update(schema_version=2),
    lambda record: record["files"].update({"../x": "0" * 64}),
)


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_record_sealed_anew_must_still_have_its_form(folder: Path, spoil: Callable) -> None:
    record = record_of(folder)
    spoil(record)
    replace(folder / "prediction.json", json.dumps(seal(record)).encode())
    with pytest.raises(OutputError) as refused:
        read_results(folder)
    assert str(refused.value).endswith("; predict again.")


def test_what_is_not_named_may_be_anything(folder: Path) -> None:
    record = record_of(folder) | {"tiles": None, "of a later version": [1]}
    replace(folder / "prediction.json", json.dumps(seal(record)).encode())
    assert read_results(folder).prediction.provenance["of a later version"] == [1]


@pytest.mark.parametrize("name", ["suitability", "volume_bounds", "covariance"])
@pytest.mark.parametrize("value", [{}, [], "", 0])
def test_an_empty_entry_is_not_one_that_is_missing(written: Path, name: str, value: Any) -> None:
    """As in a scene that is damaged, whose record has no seal."""
    prediction = read_results(written).prediction
    maps = prediction.segmentation, prediction.probability, prediction.variance
    with pytest.raises(RecordError):
        prediction_of(record_of(written) | {name: value}, prediction.labels, maps, prediction.grid)


@pytest.fixture
def sent() -> tuple[dict[str, Any], Prediction]:
    """What a worker answers and a scene keeps of a prediction, with the arrays themselves in the places of files."""
    case = fake_case()
    own = changed(
        case.prediction,
        predicted_part=(slice(0, 3), slice(1, 4), slice(0, 2)),
        correlation_mm=(3.0, 4.5, 6.0),
        network_mm=(3.0, 2.5, 2.0),
        network_volumes={"pancreas": StatedVolume(94.0, 1.25)},
        click_settings=ClickSettings(length_mm=2.5, strength=8.0, learned=random_trees()),
    )
    return write_prediction(own, case.regions, lambda _name, array: array), own


def test_a_prediction_that_is_sent_comes_back_with_all_that_it_knows(sent: tuple[dict[str, Any], Prediction]) -> None:
    fields, own = sent
    assert set(KEPT) <= set(fields)
    found = read_prediction(fields, own.grid)
    for name in ("segmentation", "probability", "variance"):
        assert np.array_equal(getattr(found, name), getattr(own, name))
    names = "labels", "warnings", "timings", "click_settings", "processed_box", "correlation_mm", "network_volumes"
    for name in (*names, "network_mm"):
        assert getattr(found, name) == getattr(own, name)


@pytest.mark.parametrize("checked", [None, Checked("drawn.nii.gz", "0" * 64, {PANCREAS.name: PANCREAS.name})])
def test_regions_that_are_sent_come_back_as_they_were(checked: Checked | None) -> None:
    case = fake_case()
    drawn, regions = case.prediction.segmentation.copy(), case.regions
    if checked:
        drawn[4:8, 6:11, 18:23] = PANCREAS.value  # an island
        regions = find_discrepancies(case.prediction, drawn)
    own = changed(case.prediction, segmentation=drawn, checked=checked)
    fields = write_prediction(own, regions, lambda _name, array: array)
    found = read_regions(fields, fields["region_map"], regions.settings)
    assert found.ranked
    assert [vars(region) for region in found.ranked] == [vars(region) for region in regions.ranked]


WRONG = [{"correlation_mm": wrong} for wrong in (4.0, [4.0, 4.0], [4.0, 4.0, 0.0], [4.0, 4.0, 1e300], [4.0, 4.0, "4"])]
WRONG += [{"network_mm": [0.0, 1.0, 1.0]}]
WRONG += [{"network_volumes": {"pancreas": wrong}} for wrong in ({"ml": -1.0, "error_ml": 1.0}, {"ml": 1.0}, 1.0)]
WRONG += [{"click_settings": wrong} for wrong in ({"strength": -1}, {"length": 3}, [3], {"prior_deviation": "1"})]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_refused_of_what_is_sent(sent: tuple[dict[str, Any], Prediction], wrong: dict) -> None:
    fields, own = sent
    with pytest.raises(RecordError):
        read_prediction(fields | {"provenance": fields["provenance"] | wrong}, own.grid)
