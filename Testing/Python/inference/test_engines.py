"""OpenVINO against PyTorch: the same results, from a model's graph too, and PyTorch for what it cannot do.

`conftest.py` leaves OpenVINO out of `auto` for all tests, whose digits are PyTorch's.
"""

import sys
from contextlib import nullcontext
from dataclasses import replace as changed
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.base import packages
from MoBUncertaintyLib.base.errors import InstallationError, SettingsError
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.gaussian.moments import fused_moments, logistic_normal_moments
from MoBUncertaintyLib.gaussian.probability import completed
from MoBUncertaintyLib.inference import devices, engines
from MoBUncertaintyLib.inference.devices import autocast_dtype
from MoBUncertaintyLib.inference.engines import OpenVinoEngine, select_engine
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.sliding_window import OVERFLOWED
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.graph import openvino, read_graph
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network import tracing
from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.regions.prediction import EngineName, Precision, Prediction, PredictionSettings
from support import PHANTOM_CT, PHANTOM_MODEL
from support.tiny import make_ct, make_dataset, make_model

needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
HAS_BFLOAT16 = autocast_dtype(torch.device("cpu")) is torch.bfloat16
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="the CPU has no bfloat16")

FELL_BACK = "so PyTorch was used, which takes longer."


@pytest.fixture(scope="module")
def mob(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return a_model(tmp_path_factory.mktemp("mob"), Covariance.MIXTURE_OF_BASES, folds=2)


@pytest.fixture(scope="module")
def ct() -> sitk.Image:
    """Two tiles along one axis."""
    return make_ct((24, 24, 30))


def a_model(
    folder: Path, kind: Covariance, names: tuple[str, ...] = ("organ",), local: bool = False, **options: object
) -> Model:
    spec = CovarianceSpec.of_kind(kind, rank=4, partitions=2)
    if local:
        spec = changed(spec, scope=Scope.LOCAL, length_mm=(9.0, 6.0, 6.0))
    return make_model(folder / "model", dataset=make_dataset(names, orientation="RAS"), covariance=spec, **options)


def by(engine: str, model: Model, image: sitk.Image, **options: object) -> Prediction:
    settings = PredictionSettings(**{"device": "cpu", "precision": "float32", "engine": engine} | options)
    return Predictor(model, settings).predict(image, exact=True)


def assert_labels_are_equal(a: Prediction, b: Prediction, dice: float = 0.9998) -> None:
    one, other = a.segmentation > 0, b.segmentation > 0
    assert (a.segmentation == b.segmentation).mean() >= 0.9999
    assert 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)) >= dice


def largest_change(a: Prediction, b: Prediction) -> float:
    return float(np.abs(np.subtract(a.probability, b.probability)).max())


@needs_openvino
@pytest.mark.parametrize(
    ("kind", "names", "options"),
    [
        (Covariance.MIXTURE_OF_BASES, ("organ",), {"mirror": True, "folds": 2}),
        (Covariance.LOW_RANK, ("organ",), {}),
        (Covariance.MIXTURE_OF_BASES, ("liver", "spleen"), {"samples": 3, "folds": 2, "local": True}),
    ],
)
def test_results_are_those_of_pytorch(
    tmp_path: Path, ct: sitk.Image, kind: Covariance, names: tuple[str, ...], options: dict
) -> None:
    """Of a training folder, whose graph is made now; samples are NumPy's for both, with the same noise."""
    of_model = {name: options[name] for name in ("folds", "local") if name in options}
    model = a_model(tmp_path, kind, names, mirror_axes=(0, 1), **of_model)
    options = {name: value for name, value in options.items() if name not in of_model}
    found, wanted = (by(engine, model, ct, **options) for engine in ("openvino", "torch"))
    assert found.provenance["engine"] == "openvino" and wanted.provenance["engine"] == "torch"
    assert "openvino" in found.provenance["versions"] and "openvino" not in wanted.provenance["versions"]
    assert found.warnings == wanted.warnings
    atol = 1e-3 if options.get("samples") else 1e-4
    for name in ("probability", "variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=atol, rtol=0)


@needs_openvino
@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_moments_in_the_graph_have_the_closed_form_s_digits(hint: str) -> None:
    """In a network that computes in bfloat16, too."""

    class Fused(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x[0], x[1], *fused_moments(x[0], x[1])

    mean, deviation = torch.meshgrid(torch.linspace(-30, 30, 121), torch.linspace(0.01, 20, 150), indexing="ij")
    x = torch.stack((mean.flatten(), deviation.flatten().square()))
    settings = {"INFERENCE_PRECISION_HINT": hint}
    graph = engines._compile(tracing.converted(Fused(), tuple(x.shape)), "CPU", settings)
    found = completed(*(np.array(each)[None] for each in graph([x.numpy()]).to_tuple()))
    expectation, variance = logistic_normal_moments(*x.double().numpy())
    lower = np.minimum(expectation, 1 - expectation)
    assert (np.abs(found.mean[0, 0] - expectation) <= 1e-4 * lower + 6e-8 * (expectation > 0.5)).all()
    assert (np.abs(found.variance[0, 0] - variance) <= 1e-3 * variance)[variance > 1e-14].all()


@needs_openvino
def test_this_processor_has_the_registers_for_moments_of_a_shipped_graph() -> None:
    """AVX2 has half as many as AVX-512."""
    model = load_model(find_model("PhantomPancreas"))
    graph = read_graph(model.graph(model.folds[0]), "moments", exact=True)
    engines._core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize("target", ["CPU", "GPU"])
def test_a_processor_with_few_registers_computes_without_joined_loops(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    tried = []

    def compile_model(graph: str, target: str, settings: dict[str, str]) -> str:
        tried.append(settings)
        if "SNIPPETS_MODE" not in settings:
            raise RuntimeError("Can't allocate registers for a snippet: not enough registers")
        return f"{graph} on {target}"

    monkeypatch.setattr(engines, "_core", lambda: SimpleNamespace(compile_model=compile_model))
    with pytest.raises(RuntimeError, match="registers") if target == "GPU" else nullcontext():
        assert engines._compile("graph", target, {"hint": "f32"}) == "graph on CPU"
    assert tried[1:] == [{"hint": "f32", "SNIPPETS_MODE": "DISABLE"}] * (target == "CPU")


@pytest.fixture(scope="module")
def sample() -> sitk.Image:
    return sitk.ReadImage(PHANTOM_CT)


@needs_openvino
def test_a_tile_of_the_sample_ct_has_the_same_labels_and_bfloat16_changes_no_more(sample: sitk.Image) -> None:
    """No more than in PyTorch, on the average: the largest change is one voxel's chance."""
    model, tile = load_model(PHANTOM_MODEL), sample[32:96, 16:80, 16:64]
    found, exact = (by(engine, model, tile) for engine in ("openvino", "torch"))
    assert_labels_are_equal(found, exact)
    assert largest_change(found, exact) < 1e-4  # its voxels of air are equal: OpenVINO's own sums of them err by 1e-3
    if HAS_BFLOAT16:
        found, wanted = (by(engine, model, tile, precision="bfloat16") for engine in ("openvino", "torch"))
        changes = [np.abs(np.subtract(each.probability, exact.probability)).mean() for each in (found, wanted)]
        assert 0 < changes[0] < 1.2 * changes[1]
        assert found.provenance["precision"] == "bfloat16"


@pytest.mark.slow
@needs_openvino
@needs_bfloat16
def test_the_sample_ct_has_the_same_labels_in_both_precisions(sample: sitk.Image) -> None:
    """In bfloat16 as far as the page on speed states for either engine: a Dice of 0.999."""
    model = load_model(PHANTOM_MODEL)
    exact, full, half = (
        by(engine, model, sample, precision=precision)
        for engine, precision in (("torch", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))
    )
    for found, most, dice in ((full, 1e-4, 0.9998), (half, 0.02, 0.999)):
        assert_labels_are_equal(found, exact, dice)
        assert largest_change(found, exact) < most


# --- what OpenVINO cannot do ------------------------------------------------------------------------------------------


@needs_openvino
def test_pytorch_takes_over_a_network_that_cannot_be_converted(
    mob: Model, ct: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, convert, traced = StochasticNetwork.features, tracing.converted, []
    monkeypatch.setattr(tracing, "converted", lambda *given: traced.append(given) or convert(*given))

    def unknown(self: StochasticNetwork, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        once = torch.ones(x.shape[-1], dtype=torch.int64)
        return features(self, x.repeat_interleave(once, dim=-1))  # which OpenVINO does not know

    monkeypatch.setattr(StochasticNetwork, "features", unknown)
    one = Predictor(mob, PredictionSettings(device="cpu", precision="float32", engine="openvino"))
    wanted = by("torch", mob, ct)
    for _ in range(2):  # is not tried again, but said again
        found = one.predict(ct, exact=True)
        (warning,) = [each for each in found.warnings if each.startswith("OpenVINO cannot run this network (")]
        assert warning.endswith(FELL_BACK) and "\n" not in warning
        assert found.provenance["engine"] == "torch"
        assert np.array_equal(found.probability, wanted.probability)
    assert len(traced) == 1


@needs_openvino
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "float16"}, "it does not compute in float16 on this computer"),
        ({"device": "xpu"}, "it finds no device xpu"),
    ],
)
def test_pytorch_takes_over_what_the_hardware_cannot(mob: Model, ct: sitk.Image, options: dict, reason: str) -> None:
    core = engines._core()
    if "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") or "GPU" in core.available_devices:
        pytest.skip("this computer can")
    found = by("openvino", mob, ct, **options)
    assert f"OpenVINO cannot run this network ({reason}), {FELL_BACK}" in found.warnings
    assert (found.provenance["engine"], found.provenance["device"]) == ("torch", "cpu")


@needs_openvino
def test_pytorch_takes_over_if_a_run_fails(mob: Model, ct: sitk.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def infer(self, *args: object, **options: object) -> None:
            raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:224:\nthe device was lost\n\n")

    load = OpenVinoEngine.load

    def broken(self: OpenVinoEngine, *where: object) -> None:
        load(self, *where)
        self._request = Broken()

    monkeypatch.setattr(OpenVinoEngine, "load", broken)
    found = by("openvino", mob, ct)
    assert f"OpenVINO cannot run this network (the device was lost), {FELL_BACK}" in found.warnings
    assert np.array_equal(found.probability, by("torch", mob, ct).probability)


@needs_openvino
def test_no_memory_is_no_reason_for_another_engine(mob: Model, ct: sitk.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise RuntimeError("bad_alloc: out of memory")

    monkeypatch.setattr(tracing, "converted", full)
    with pytest.raises(SettingsError):
        by("openvino", mob, ct)


@needs_openvino
@needs_bfloat16
def test_output_that_overflows_is_computed_again_in_float32(
    mob: Model, ct: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OpenVinoEngine.run

    def overflowing(self: OpenVinoEngine, x: np.ndarray) -> tuple[np.ndarray, ...]:
        mean, *others = run(self, x)
        return (mean if self.precision is Precision.FLOAT32 else mean * np.nan, *others)

    monkeypatch.setattr(OpenVinoEngine, "run", overflowing)
    found = by("openvino", mob, ct, folds=(0,), precision="bfloat16")
    assert OVERFLOWED in found.warnings
    assert found.provenance["precision"] == "float32"
    assert np.array_equal(found.probability, by("openvino", mob, ct, folds=(0,)).probability)


# --- which one is taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "openvino" and not there else name)
    monkeypatch.delenv("MOB_UNCERTAINTY_ENGINE", raising=False)
    assert select_engine("auto", "cpu") == (EngineName.OPENVINO if there else EngineName.TORCH, "cpu")
    assert select_engine("torch", "cpu") == (EngineName.TORCH, "cpu")
    monkeypatch.setattr(engines, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_cuda_runs", lambda: True)
    assert select_engine("auto", "auto") == (EngineName.TORCH, "cuda")
    if there:
        assert select_engine("openvino", "auto") == (EngineName.OPENVINO, "cpu")
        assert select_engine("auto", "xpu") == (EngineName.OPENVINO, "xpu")
        with pytest.raises(SettingsError):
            select_engine("openvino", "cuda")
        monkeypatch.setenv("MOB_UNCERTAINTY_ENGINE", "torch")
        assert select_engine("auto", "cpu") == (EngineName.TORCH, "cpu")
        assert select_engine("openvino", "cpu") == (EngineName.OPENVINO, "cpu")
    else:
        for engine, device in (("openvino", "cpu"), ("auto", "xpu")):
            with pytest.raises(SettingsError):
                select_engine(engine, device)


def test_where_neither_is_installed_openvino_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.delenv("MOB_UNCERTAINTY_ENGINE", raising=False)
    with pytest.raises(SettingsError, match="openvino"):
        select_engine("auto", "auto")
    with pytest.raises(InstallationError):
        select_engine("torch", "auto")
    with pytest.raises(SettingsError):  # not PyTorch first, which would not help
        select_engine("openvino", "cuda")


def test_a_pytorch_without_nnunet_is_not_taken_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other extensions of Slicer install it so."""
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "nnunetv2" else name)
    monkeypatch.delenv("MOB_UNCERTAINTY_ENGINE", raising=False)
    monkeypatch.setattr("os.path.exists", lambda _: True)  # a driver
    assert select_engine("auto", "auto") == (EngineName.OPENVINO, "cpu")


@needs_openvino
def test_openvino_is_loaded_without_what_reports_its_use() -> None:
    assert openvino().__version__
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_it_takes_as_many_threads_as_the_environment_says(
    mob: Model, ct: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        one = Predictor(mob, PredictionSettings(device="cpu", precision="float32", engine="openvino", folds=(0,)))
        one.predict(ct)
        compiled = one.engine._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == int(threads)
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
