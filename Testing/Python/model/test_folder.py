"""Model folders: what is written is read back, and nothing wrong gets through."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from MoBUncertaintyLib.base.errors import ModelError, OutputError
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.inference.engines import verify
from MoBUncertaintyLib.model import folder as model_folder
from MoBUncertaintyLib.model.card import card_from_json
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.click_trees import TREES_FILE
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import load_model, read_card
from MoBUncertaintyLib.model.listing import find_model, list_models
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.network import export
from MoBUncertaintyLib.network.backbone import load_network
from MoBUncertaintyLib.network.export import write_model
from support.clicks import random_trees
from support.json_edits import edit, json_values, paths, rehash, replaced, truncate
from support.tiny import DATASET, PLANS, card, make_model_folder, network


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "Tiny")


def test_a_written_model_reads_back_as_it_was(written: Path) -> None:
    model = verify(written)
    assert replace(model.card, files={}) == card()
    assert model.folds == (0, 1)
    for fold in model.folds:
        expected, found = network(fold).state_dict(), model.state_dict(fold)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_one_model_written_twice_is_the_same_to_the_last_byte(written: Path, tmp_path: Path) -> None:
    make_model_folder(tmp_path / "Tiny")
    for path in written.rglob("*"):
        again = tmp_path / "Tiny" / path.relative_to(written)
        assert path.is_dir() or path.read_bytes() == again.read_bytes()


def test_each_tensor_is_stored_once_whatever_its_names(written: Path) -> None:
    state = network(0).state_dict()
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
    stored = load_file(written / "fold_0" / "weights.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(distinct.values())
    assert sum(tensor.numel() for tensor in state.values()) > 2 * sum(distinct.values())


def test_half_precision_halves_the_file_and_reads_as_float32(written: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "Half", card(), PLANS, DATASET, [(0, network(0).state_dict())], half=True)
    stored = load_file(tmp_path / "Half" / "fold_0" / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    expected, found = network(0).state_dict(), load_model(tmp_path / "Half").state_dict(0)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=5e-4, atol=1e-7)


def test_a_weight_outside_float16_is_refused_in_half_precision(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["head.basis"] = state["head.basis"] * 1e6
    with pytest.raises(ModelError):
        write_model(tmp_path / "Half", card(), PLANS, DATASET, [(0, state)], half=True)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_that_of_the_card_file(written: Path) -> None:
    assert load_model(written).digest == hashlib.sha256((written / "model.json").read_bytes()).hexdigest()


def test_writing_never_replaces_what_is_there(folder: Path) -> None:
    before = (folder / "model.json").read_bytes()
    with pytest.raises(OutputError):
        write_model(folder, card(name="Other"), PLANS, DATASET, [(0, network(0).state_dict())])
    assert (folder / "model.json").read_bytes() == before


@pytest.mark.parametrize("name", ["Tiny", "Tiny.zip"])
def test_what_appears_in_its_place_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def load(*given: Any) -> Any:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("of somebody else")
        return load_folder(*given)

    load_folder = export.load_folder
    monkeypatch.setattr(export, "load_folder", load)
    with pytest.raises(OutputError):
        write_model(tmp_path / name, card(), PLANS, DATASET, [(0, network(0).state_dict())])
    assert (tmp_path / name / "notes.txt").read_text() == "of somebody else"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_zip_that_appears_in_its_place_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(*given: Any) -> None:
        archive_pack(*given)
        (tmp_path / "Tiny.zip").write_text("of somebody else")

    archive_pack = export.archive.pack
    monkeypatch.setattr(export.archive, "pack", pack)
    with pytest.raises(OutputError):
        write_model(tmp_path / "Tiny.zip", card(), PLANS, DATASET, [(0, network(0).state_dict())])
    assert (tmp_path / "Tiny.zip").read_text() == "of somebody else"
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny.zip"]


def test_others_may_read_the_weights_as_they_may_the_card(written: Path) -> None:
    modes = {path.stat().st_mode for path in written.rglob("*") if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["Tiny", "Tiny.zip"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half of the wei")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_weights", full)
    with pytest.raises(OutputError):
        write_model(tmp_path / name, card(), PLANS, DATASET, [(0, {})])
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_model(tmp_path / "file" / "Tiny", card(), PLANS, DATASET, [(0, network(0).state_dict())])


def test_an_invalid_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        write_model(tmp_path / "Tiny", card(labels=describe_labels({1: "liver"})), PLANS, DATASET, [(0, {})])
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        write_model(tmp_path / "Tiny", card(scores={"dice": float("nan")}), PLANS, DATASET, [(0, {})])


def test_lists_of_patients_are_left_out(tmp_path: Path) -> None:
    dataset = DATASET | {"training": [{"image": "DOE^JOHN.nii.gz"}], "test": ["x"], "dataset": {"a": {}}}
    write_model(tmp_path / "Tiny", card(), PLANS, dataset, [(0, network(0).state_dict())])
    assert json.loads((tmp_path / "Tiny" / "dataset.json").read_text()) == DATASET


def _set(*path: str | int, to: Any) -> Any:
    """A change to model.json."""
    return lambda folder: edit(folder / "model.json", lambda content: replaced(content, path, to))


def _drop(*path: str | int) -> Any:
    def change(content: dict[str, Any]) -> None:
        del reduce(getitem, path[:-1], content)[path[-1]]

    return lambda folder: edit(folder / "model.json", change)


def _weights(change: Any) -> Any:
    """A change to the first fold's weights file, with its hash put right."""

    def apply(folder: Path) -> None:
        change(folder / "fold_0" / "weights.safetensors")
        rehash(folder)

    return apply


def _forged(name: str, change: Any) -> Any:
    """A change to plans.json or dataset.json, with its hash put right."""

    def apply(folder: Path) -> None:
        edit(folder / name, change)
        rehash(folder)

    return apply


def _with_nan(path: Path) -> None:
    state = load_file(path)
    state["head.basis"][0, 0, 0] = float("nan")
    save_file(state, path)


def _with_kind(dtype: torch.dtype) -> Any:
    def change(path: Path) -> None:
        with safe_open(path, "pt") as file:
            aliases = file.metadata()
        state = load_file(path)
        save_file(state | {"head.basis": state["head.basis"].to(dtype)}, path, aliases)

    return change


def _with_bad_alias(path: Path) -> None:
    save_file(load_file(path), path, metadata={"head.other": "head.missing"})


LOCAL = to_json(CovarianceSpec(scope=Scope.LOCAL, length_mm=(5.0, 5.0, 5.0)))

BROKEN_FOLDERS = {
    "no model.json": lambda f: (f / "model.json").unlink(),
    "invalid JSON": lambda f: (f / "model.json").write_text("{"),
    "newer version": _set("schema_version", to=2),
    "unknown version": _set("schema_version", to=0),
    "no version": _drop("schema_version"),
    "missing key": _drop("task"),
    "unknown key": _set("hook", to="x"),
    "wrong type": _set("task", to=3),
    "a boolean as a number": _set("covariance", "rank", to=True),
    "empty name": _set("name", to=" "),
    "name of two lines": _set("name", to="a\nb"),
    "task that steers a terminal": _set("task", to="Organ \x1b[2J"),
    "licence of two lines": _set("licence", to="CC\nBY"),
    "no labels": _set("labels", to=[]),
    "label without colour": _drop("labels", 0, "colour"),
    "impossible colour": _set("labels", 0, "colour", to=[0, 0, 256]),
    "no terminology": _drop("labels", 0, "terminology", "type"),
    "half a code": _set("labels", 0, "terminology", "type", to=["SCT"]),
    "a length without its scope": _set("covariance", "length_mm", to=[5.0, 5.0, 5.0]),
    "a length of two axes": _set("covariance", to=LOCAL | {"length_mm": [5.0, 5.0]}),
    "a length in words": _set("covariance", to=LOCAL | {"length_mm": ["5 mm"] * 3}),
    "a length that is perhaps learned": _set("covariance", to=LOCAL | {"learn_length": 1}),
    "unknown covariance": _set("covariance", "kind", to="wishart"),
    "rank of zero": _set("covariance", "rank", to=0),
    "unknown setting of regions": _set("regions", to={"width_mm": 1}),
    "negative size of regions": _set("regions", to={"grow_mm": -1}),
    "a text as a size": _set("regions", to={"grow_mm": "2"}),
    "orientation": _set("orientation", to="RAR"),
    "spacing": _set("spacing", to=[1, 1, -1]),
    "spacing unlike the plans": _set("spacing", to=[1, 1, 1]),
    "mirror axes": _set("mirror_axes", to=[3]),
    "wrong labels": _set("labels", 0, "name", to="liver"),
    "no such configuration": _set("configuration", to="2d"),
    "file outside the folder": _set("files", "../x.json", to="0" * 64),
    "hash is none": _set("files", "plans.json", to="abc"),
    "plans not listed": _drop("files", "plans.json"),
    "weights not listed": _drop("files", "fold_1/weights.safetensors"),
    "missing plans": lambda f: (f / "plans.json").unlink(),
    "missing weights": lambda f: shutil.rmtree(f / "fold_1"),
    "changed plans": lambda f: edit(f / "plans.json", lambda c: c.update(x=1)),
    "changed weights": lambda f: truncate(f / "fold_0/weights.safetensors"),
    "truncated weights": _weights(truncate),
    "weights that are text": _weights(lambda p: p.write_text("hello")),
    "weights not finite": _weights(_with_nan),
    "weights of 8 bits": _weights(_with_kind(torch.float8_e4m3fn)),
    "quantised weights": _weights(_with_kind(torch.int8)),
    "complex weights": _weights(_with_kind(torch.complex64)),
    "weights with a wrong alias": _weights(_with_bad_alias),
    "plans that import": _forged(
        "plans.json", lambda c: c["configurations"]["3d_fullres"].update(resampling_fn_data="os")
    ),
    "regions": _forged("dataset.json", lambda c: c.update(labels={"background": 0, "pancreas": [1, 2]})),
}


@pytest.mark.parametrize("what", BROKEN_FOLDERS)
def test_a_broken_model_folder_is_refused_in_one_sentence(folder: Path, what: str) -> None:
    BROKEN_FOLDERS[what](folder)
    with pytest.raises(ModelError) as caught:
        verify(folder)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 600


def test_no_fold_at_all_is_refused(folder: Path) -> None:
    for fold in (0, 1):
        shutil.rmtree(folder / f"fold_{fold}")
        _drop("files", f"fold_{fold}/weights.safetensors")(folder)
    with pytest.raises(ModelError):
        load_model(folder)


def test_a_fold_it_does_not_have_is_named(written: Path) -> None:
    with pytest.raises(ModelError):
        load_model(written).state_dict(7)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for read in (load_model, read_card):
        with pytest.raises(ModelError):
            read(tmp_path / "nowhere")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for read in (load_model, read_card):
        with pytest.raises(ModelError):
            read(tmp_path / "notes.txt")


def test_weights_larger_than_allowed_are_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "WEIGHTS_LIMIT", 1000)
    with pytest.raises(ModelError):
        load_model(written).state_dict(0)


def test_weights_that_do_not_fit_the_plans_are_refused(folder: Path) -> None:
    _forged(
        "plans.json",
        lambda c: c["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            features_per_stage=[4, 8, 32]
        ),
    )(folder)
    with pytest.raises(ModelError):
        load_network(load_model(folder), 0)


def test_weights_that_are_whole_numbers_are_refused(folder: Path) -> None:
    """Of the kind of what counts batches, so that they can be read."""
    _weights(_with_kind(torch.int64))(folder)
    for read in (lambda: load_network(load_model(folder), 0), lambda: verify(folder)):
        with pytest.raises(ModelError):
            read()


CARD_JSON = json.loads(card(regions={"depth_mm": 1.5}, files={"plans.json": "0" * 64}).to_json())


@given(path=st.sampled_from(paths(CARD_JSON)), value=json_values)
def test_no_content_of_a_card_fails_but_with_a_model_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        read = card_from_json(replaced(CARD_JSON, path, value), "x")
    except ModelError:
        return
    assert card_from_json(json.loads(read.to_json()), "x") == read


def test_a_card_states_what_suits_its_organ_and_the_rest_is_as_usual() -> None:
    assert card(regions={"depth_mm": 1.5}).region_settings == RegionSettings(depth_mm=1.5)
    without = {name: value for name, value in CARD_JSON.items() if name != "regions"}
    assert card_from_json(without, "x").region_settings == RegionSettings()
    stock = card(covariance=CovarianceSpec(Covariance.DETERMINISTIC), regions={"depth_mm": 1.5})
    assert stock.region_settings == RegionSettings(Measure.BERNOULLI, depth_mm=1.5)
    scaled = card(regions={"variance_threshold": 0.003}).region_settings
    assert scaled.level == 0.003
    assert replace(scaled, measure=Measure.ENTROPY).level == RegionSettings(Measure.ENTROPY).level
    assert replace(scaled, threshold=0.01).level == 0.01


def test_a_card_states_how_far_a_click_reaches_and_the_rest_is_as_usual() -> None:
    own = ClickSettings(length_mm=6.0, prior_deviation=1.5)
    assert card_from_json(json.loads(card(click_settings=own).to_json()), "x").click_settings == own
    without = {name: value for name, value in CARD_JSON.items() if name != "click_settings"}
    assert card_from_json(without, "x").click_settings == ClickSettings()
    partly = CARD_JSON | {"click_settings": {"length_mm": 3}}
    assert card_from_json(partly, "x").click_settings == ClickSettings(length_mm=3)
    with pytest.raises(ModelError):
        card_from_json(CARD_JSON | {"click_settings": {"strength": 0}}, "x")


def test_what_was_learned_of_clicks_is_a_file_of_the_model(tmp_path: Path) -> None:
    own = card(click_settings=ClickSettings(length_mm=6.0, learned=random_trees(), caution=0.7))
    written = write_model(tmp_path / "Own", own, PLANS, DATASET, [(0, network(0).state_dict())])
    assert load_model(written.path).card.click_settings == own.click_settings
    assert json.loads((tmp_path / "Own" / "model.json").read_text())["click_settings"]["learned"] is None
    zipped = export.export(tmp_path / "Own", tmp_path / "Own.zip")
    assert load_model(zipped.path).card.click_settings == own.click_settings
    trees = tmp_path / "Own" / TREES_FILE
    for damage in (lambda content: content[:-40], lambda content: content.replace(b"values", b"VALUES")):
        trees.write_bytes(damage(own.click_settings.learned.content))
        with pytest.raises(ModelError):
            load_model(tmp_path / "Own")
        rehash(tmp_path / "Own")
        with pytest.raises(ModelError):
            load_model(tmp_path / "Own")
    without = {name: digest for name, digest in written.card.files.items() if name != TREES_FILE}
    edit(tmp_path / "Own" / "model.json", lambda content: content | {"files": without})
    with pytest.raises(ModelError):
        load_model(tmp_path / "Own")


def test_models_are_listed_and_opened_by_name_with_broken_ones_shown(folder: Path) -> None:
    models = folder.parent
    make_model_folder(models / "Zipped.zip")
    (models / "broken").mkdir()
    (models / "broken" / "model.json").write_text("{}")
    (models / "unrelated").mkdir()
    listed = list_models(models)
    assert [(model.path.name, model.card is not None) for model in listed] == [
        ("Tiny", True),
        ("Zipped.zip", True),
        ("broken", False),
    ]
    assert "schema version" in (listed[2].problem or "")
    assert find_model("tiny", models) == folder
    assert find_model("Zipped", models) == models / "Zipped.zip"
    assert find_model(folder, models) == folder
    with pytest.raises(ModelError):
        find_model("Liver", models)
    assert list_models(models / "nowhere") == []


def test_listing_and_checking_a_model_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['nnunetv2'] = None\n"
        "from MoBUncertaintyLib.model import folder, listing\n"
        f"print(listing.list_models({str(folder.parent)!r})[0].card.name)\n"
        f"print(len(folder.load_model({str(folder)!r}).folds))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.split() == ["Tiny", "2"], done.stderr
