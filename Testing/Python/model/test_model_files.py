"""The bytes of a model: what was checked and recorded is what is used, and weights are what they claim to be."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.inference.engines import verify
from MoBUncertaintyLib.model import weights
from MoBUncertaintyLib.model.files import ModelFile, ModelFiles, read_file
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network.backbone import load_network
from support import tiny
from support.json_edits import rehash, truncate
from support.marks import needs_posix
from support.tiny import make_model_folder

CHECKPOINT, WEIGHTS = "fold_0/checkpoint_final.pth", "fold_0/weights.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and a raw results folder, two folds each."""
    folder = tmp_path_factory.mktemp("models")
    make_model_folder(folder / "model")
    return folder / "model", tiny.make_results_folder(folder / "raw", folds=2)


@pytest.fixture
def model(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made[0], tmp_path / "model")


@pytest.fixture
def raw(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made[1], tmp_path / "raw")


@pytest.fixture(autouse=True)
def few_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower limit, which takes less time to exceed."""
    monkeypatch.setattr(weights, "TENSORS_LIMIT", 1000)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what is used is what was checked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "raw"])
def test_weights_that_are_swapped_after_the_check_are_not_used(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    opened = load_model(folder)
    name = WEIGHTS if kind == "model" else CHECKPOINT
    (folder / name.replace("fold_0", "fold_1")).replace(folder / name)
    with pytest.raises(ModelError):
        load_network(opened, 0)


def test_weights_that_are_swapped_between_two_uses_are_not_used(raw: Path) -> None:
    opened = load_model(raw)
    opened.state_dict(1)
    (raw / CHECKPOINT).replace(raw / CHECKPOINT.replace("fold_0", "fold_1"))
    with pytest.raises(ModelError):
        opened.state_dict(1)


def test_recorded_digest_is_that_of_what_was_used(model: Path, raw: Path) -> None:
    card, used = load_model(model), load_model(raw)
    expected = sha256(model / "model.json"), load_model(raw).digest
    assert expected == (card.digest, used.digest)
    card, used = load_model(model), load_model(raw)
    for folder in (model, raw):
        for name in ("model.json", "plans.json", "dataset.json", CHECKPOINT):
            if (folder / name).exists():
                (folder / name).write_text("{}")
    assert expected == (card.digest, used.digest)


@pytest.mark.parametrize("name", ["model.json", "plans.json", "dataset.json"])
def test_what_is_swapped_during_the_opening_is_not_read(
    model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each is read once, so that there is nothing between its check and its use."""
    expected, read = load_model(model), ModelFiles.read

    def swap(files: ModelFiles, wanted: str, *arguments: Any) -> ModelFile:
        file = read(files, wanted, *arguments)
        if wanted == name:
            (model / name).write_text("{}")
        return file

    monkeypatch.setattr(ModelFiles, "read", swap)
    opened = load_model(model)
    assert (opened.files.digests, opened.plans) == (expected.files.digests, expected.plans)


# --- files that are none of a model -----------------------------------------------------------------------------------


@needs_posix
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scores.json")
    with pytest.raises(ModelError):
        read_file(tmp_path / "scores.json")


def _checkpoint(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], Path]:
    def apply(_model: Path, raw: Path) -> Path:
        content = torch.load(raw / CHECKPOINT, weights_only=True)
        change(content)
        torch.save(content, raw / CHECKPOINT)
        return raw

    return apply


def _weights(change: Callable[[torch.Tensor], Any]) -> Callable[[Path, Path], Path]:
    """A change to the first tensor of a checkpoint."""

    def apply(content: dict[str, Any]) -> None:
        name, tensor = next(iter(content["network_weights"].items()))
        content["network_weights"][name] = change(tensor)

    return _checkpoint(apply)


def _safetensors(tensors: dict[str, torch.Tensor]) -> Callable[[Path, Path], Path]:
    def apply(model: Path, _raw: Path) -> Path:
        save_file(tensors, model / WEIGHTS)
        rehash(model)
        return model

    return apply


def _header(content: bytes) -> Callable[[Path, Path], Path]:
    def apply(model: Path, _raw: Path) -> Path:
        (model / WEIGHTS).write_bytes(len(content).to_bytes(8, "little") + content)
        rehash(model)
        return model

    return apply


def _set(**changes: Any) -> Callable[[Path, Path], Path]:
    return _checkpoint(lambda content: content.update(changes))


def _compressed(_model: Path, raw: Path) -> Path:
    """As a bomb would be: torch reads compressed entries, but writes none."""
    import zipfile

    with zipfile.ZipFile(raw / CHECKPOINT) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(raw / CHECKPOINT, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return raw


def _truncated(_model: Path, raw: Path) -> Path:
    truncate(raw / CHECKPOINT)
    return raw


MANY = {str(number): torch.zeros(0) for number in range(1001)}
LARGE = torch.zeros(1).expand(2**40)
MANY_IN_A_HEADER = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(1001)}
REFUSED: dict[str, Callable[[Path, Path], Path]] = {
    "sparse weights": _weights(lambda tensor: tensor.to_sparse()),
    "weights on the meta device": _weights(lambda tensor: tensor.to("meta")),
    "weights of 4 TB in 4 bytes": _weights(lambda tensor: LARGE),
    "too many tensors": _safetensors(MANY),
    "too many tensors in a checkpoint": _set(network_weights=MANY),
    "too many views of one tensor": _set(network_weights=dict.fromkeys(MANY, torch.zeros(0))),
    "a header of many empty tensors": _header(json.dumps(MANY_IN_A_HEADER).encode()),
    "a header nested 900 deep": _header(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    "a header that is a list": _header(b"[]"),
    "a kind of number that NumPy lacks": _header(b'{"a":{"dtype":"F4","shape":[0],"data_offsets":[0,0]}}'),
    "a checkpoint without weights": _checkpoint(lambda content: content.pop("network_weights")),
    "a checkpoint without a configuration": _checkpoint(lambda content: content.pop("init_args")),
    "a checkpoint without a trainer": _checkpoint(lambda content: content.pop("trainer_name")),
    "quantised weights": _weights(lambda tensor: tensor.to(torch.int8)),
    "truncated checkpoint": _truncated,
    "compressed checkpoint": _compressed,
    "pickle of 9 MB": _set(logging="x" * (9 << 20)),
    "weights of another name": _checkpoint(lambda c: c["network_weights"].update({"x" * 9000: torch.zeros(1)})),
    "weights of another shape": _weights(lambda tensor: tensor[:1]),
    "no weights": _set(network_weights={}),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_damaged_weights_are_refused_in_one_sentence_wherever_they_are_read(
    model: Path, raw: Path, change: Any
) -> None:
    folder = change(model, raw)
    sentences = []
    for read in (verify, lambda path: load_network(load_model(path), 0)):
        with pytest.raises(ModelError) as caught:
            read(folder)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert "\n" not in sentences[0] and sentences[0].endswith(".") and len(sentences[0]) < 600


@pytest.mark.parametrize(
    "entry",
    [
        {"inference_allowed_mirroring_axes": (torch.zeros(2),)},
        {"inference_allowed_mirroring_axes": torch.zeros(2)},
        {"trainer_name": "\ud800\x1b[2J\n"},
    ],
)
def test_odd_entries_of_a_checkpoint_do_no_harm(model: Path, raw: Path, entry: dict[str, Any]) -> None:
    folder = _set(**entry)(model, raw)
    load_network(load_model(folder), 0)
    verify(folder).card.to_json().encode()


def test_what_is_one_tensor_stays_one(raw: Path) -> None:
    """nnU-Net names each two to four times; as float16 each would have become two to four."""
    content = torch.load(raw / CHECKPOINT, weights_only=True)
    single = next(iter(content["network_weights"].values())).half()
    file = ModelFile(CHECKPOINT, "x", b"")
    read = weights._singles({"a": single, "b": single}, file)
    assert read["a"].dtype is torch.float32
    assert read["a"].data_ptr() == read["b"].data_ptr()
