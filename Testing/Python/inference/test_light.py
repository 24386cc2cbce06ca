"""Models with a graph run without PyTorch and nnU-Net, with PyTorch's results; graphs that are not in order do not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ModelError, UserError
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.inference.engines import verify
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network import tracing
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.json_mutants import mutants
from support.tiny import make_ct, make_dataset, make_results_folder

pytestmark = pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")

BLOCKED = ("torch", "nnunetv2", "acvl_utils", "batchgenerators", "dynamic_network_architectures", "pandas", "skimage")
TILE, SHAPE = (24, 24, 24), (24, 24, 30)  # the other is two tiles along one axis
LIGHT = """
import sys
sys.modules |= dict.fromkeys(sys.argv[2].split())
import numpy as np
from MoBUncertaintyLib import PredictionSettings, load_model, predict, read_image
for name, options in eval(sys.argv[1]).items():
    settings = PredictionSettings(precision="float32", **options)
    found = predict(read_image("ct.nii.gz").image, load_model(name + "/model"), settings)
    assert found.provenance["engine"] == "openvino", found.provenance
    np.savez(name + ".npz", p=found.probability, v=found.variance, s=found.segmentation, w=found.warnings)
"""


@pytest.fixture(scope="module", autouse=True)
def with_openvino() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MOB_UNCERTAINTY_ENGINE")
        yield


def exported(folder: Path, spec: CovarianceSpec, names: tuple[str, ...] = ("organ",), **options: Any) -> Path:
    """Export a tiny model with its graph."""
    trained = make_results_folder(
        folder / "raw", dataset=make_dataset(names, orientation="RAS"), covariance=spec, **options
    )
    return export(trained, folder / "model").path


def spec_of(kind: Covariance, **options: Any) -> CovarianceSpec:
    return CovarianceSpec.of_kind(kind, **{"rank": 3, "partitions": 2} | options)


LIGHTS: dict[str, tuple[Covariance, tuple[str, ...], dict[str, Any]]] = {
    "closed form": (Covariance.MIXTURE_OF_BASES, ("organ",), {}),
    "samples": (Covariance.LOW_RANK, ("organ",), {"samples": 3}),
    "one of two labels": (Covariance.MIXTURE_OF_BASES, ("liver", "spleen"), {"samples": 3, "labels": ("spleen",)}),
    "no head": (Covariance.DETERMINISTIC, ("liver", "spleen"), {}),
}


@pytest.fixture(scope="module")
def lights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model for each of `LIGHTS`, and what a process without PyTorch and nnU-Net predicts by it."""
    folder = tmp_path_factory.mktemp("lights")
    for name, (kind, names, _) in LIGHTS.items():
        exported(folder / name, spec_of(kind), names, folds=2 if name == "closed form" else 1)
    sitk.WriteImage(make_ct(SHAPE), str(folder / "ct.nii.gz"))
    arguments = [repr({name: settings for name, (_, _, settings) in LIGHTS.items()}), " ".join(BLOCKED)]
    subprocess.run([sys.executable, "-W", "error", "-c", LIGHT, *arguments], check=True, cwd=folder)
    return folder


@pytest.mark.parametrize("name", LIGHTS)
def test_results_are_those_of_pytorch(lights: Path, name: str) -> None:
    found = np.load(lights / f"{name}.npz")
    exact = PredictionSettings(device="cpu", precision="float32", engine="torch", **LIGHTS[name][2])
    wanted = Predictor(load_model(lights / name / "model"), exact).predict(make_ct(SHAPE))
    assert list(found["w"]) == wanted.warnings
    np.testing.assert_allclose(found["p"], wanted.probability, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["v"], wanted.variance, rtol=0, atol=1e-3)
    assert (found["s"] == wanted.segmentation).mean() > 0.9995


ORGANS = ("liver", "spleen", "colon")
STRETCHED = spec_of(Covariance.MIXTURE_OF_BASES, keep_probability=True)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (spec_of(Covariance.DIAGONAL), ("organ",)),
        (spec_of(Covariance.SINGLE_BASIS), ORGANS),
        (STRETCHED, ("organ",)),
        (replace(STRETCHED, scope=Scope.LOCAL, length_mm=(9.0, 6.0, 6.0)), ORGANS),
    ],
)
def test_every_covariance_has_a_graph(tmp_path: Path, spec: CovarianceSpec, names: tuple[str, ...]) -> None:
    model, image = load_model(exported(tmp_path, spec, names)), make_ct(SHAPE)
    assert model.is_light
    found, wanted = (
        Predictor(model, PredictionSettings(device="cpu", precision="float32", engine=engine, samples=samples)).predict(
            image, exact=True
        )
        for samples in ([None] if len(names) == 1 else [4])
        for engine in ("openvino", "torch")
    )
    np.testing.assert_allclose(found.probability, wanted.probability, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.variance, wanted.variance, rtol=0, atol=1e-3)


COMMAND = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1].split())
from MoBUncertaintyLib.cli.app import app
app(sys.argv[2:])
"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `mob-uncertainty` in a process that has neither PyTorch nor nnU-Net."""
    program = [sys.executable, "-c", COMMAND, " ".join(BLOCKED), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, encoding="utf-8", check=False)


def test_the_command_line_needs_pytorch_only_to_make_models(tmp_path: Path, whole: Path) -> None:
    sitk.WriteImage(make_ct(SHAPE), str(tmp_path / "ct.nii.gz"))
    predicted = command("predict", tmp_path / "ct.nii.gz", "--model", whole, "--output", tmp_path / "results")
    assert predicted.returncode == 0, predicted.stderr
    assert {"segmentation.nii.gz", "review.html", "scene.mrb"} <= {
        path.name for path in (tmp_path / "results").iterdir()
    }
    assert command("inspect", whole).returncode == 0
    refused = command("export", whole, "--output", tmp_path / "other")
    assert refused.returncode != 0 and "An export needs PyTorch and nnU-Net" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_an_export_says_why_it_has_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise RuntimeError("no operator of that name")

    monkeypatch.setattr(tracing, "converted", unknown)
    model = export(make_results_folder(tmp_path / "raw", dataset=make_dataset(orientation="RAS")), tmp_path / "model")
    assert not model.is_light and "no operator of that name" in " ".join(model.warnings)


# --- graphs that are not in order -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("whole"), spec_of(Covariance.SINGLE_BASIS))


def replaced(folder: Path, whole: Path, graph: bytes) -> Path:
    """Copy a model with another graph, and state the SHA-256 of that in the card, as whoever means harm would."""
    model = folder / "model"
    shutil.copytree(whole, model, dirs_exist_ok=True)
    card = json.loads((model / "model.json").read_text())
    (model / "fold_0" / "graph.json").write_bytes(graph)
    card["files"]["fold_0/graph.json"] = sha256(graph).hexdigest()
    (model / "model.json").write_text(json.dumps(card))
    return model


def changed(folder: Path, whole: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a model and change its graph."""
    content = json.loads((whole / "fold_0" / "graph.json").read_text())
    change(content)
    return replaced(folder, whole, json.dumps(content).encode())


def first(graph: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node for node in graph["nodes"] if node["op"].endswith(kind))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no nodes": lambda graph: graph.pop("nodes"),
    "nodes of another kind": lambda graph: graph.update(nodes=["Parameter"]),
    "an operator that reads files": lambda graph: first(graph, "Convolution").update(op="opset6.ReadValue"),
    "an operator that none knows": lambda graph: first(graph, "Convolution").update(op="opset1.Nothing"),
    "a huge tile": lambda graph: first(graph, "Parameter").update(shape=[1, 1, 2**20, 2**20, 2**20]),
    "a tile of any size": lambda graph: first(graph, "Parameter").update(shape=[1, 1, -1, -1, -1]),
    "huge padding": lambda graph: first(graph, "Convolution")["attributes"].update(pads_end=[2**30] * 3),
    "steps of nothing": lambda graph: first(graph, "Convolution")["attributes"].update(strides=[0, 0, 0]),
    "a node of later ones": lambda graph: first(graph, "Convolution").update(inputs=[len(graph["nodes"]) - 1] * 2),
    "a node of the end": lambda graph: first(graph, "Convolution").update(inputs=[-1, -1]),
    "no weights of that name": lambda graph: first(graph, "Constant").update(tensor="../../weights"),
    "weights of another size": lambda graph: first(graph, "Constant").update(shape=[7, 7]),
    "a file of constants": lambda graph: next(node for node in graph["nodes"] if "values" in node).update(
        type="/etc/passwd"
    ),
    "other outputs": lambda graph: graph.update(moments=graph["gaussian"]),
    "outputs of another shape": lambda graph: graph.update(moments=[0, 0, 0, 0]),
    "too few outputs": lambda graph: graph["moments"].pop(),
    "too many nodes": lambda graph: graph.update(nodes=graph["nodes"] * 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_that_is_not_in_order_is_refused_in_a_sentence(tmp_path: Path, whole: Path, change: str) -> None:
    model = changed(tmp_path, whole, CHANGES[change])
    with pytest.raises(ModelError) as caught:
        verify(model)
    message = str(caught.value)
    assert message.endswith("; export the model again.") and "\n" not in message and len(message) < 400
    with pytest.raises(ModelError):
        settings = PredictionSettings(device="cpu", precision="float32", engine="openvino")
        Predictor(load_model(model), settings).predict(make_ct(SHAPE))


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_of_a_graph_run_or_are_refused_in_a_sentence(tmp_path: Path, whole: Path, count: int) -> None:
    settings = PredictionSettings(device="cpu", precision="float32", engine="openvino")
    refused = 0
    for graph in mutants(json.loads((whole / "fold_0" / "graph.json").read_text()), count, seed=32):
        try:
            Predictor(load_model(replaced(tmp_path, whole, graph)), settings).predict(make_ct(TILE))
        except UserError as error:
            assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 600
            refused += 1
    assert refused


def test_a_graph_whose_card_is_that_of_another_is_refused(tmp_path: Path, whole: Path) -> None:
    model = changed(tmp_path, whole, lambda graph: None)
    verify(model)
    path = model / "fold_0" / "graph.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError):
        load_model(model)
