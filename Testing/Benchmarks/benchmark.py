"""Measure prediction beside stock nnU-Net on the same CT, checkpoint and machine: seconds and peak memory.

    python Testing/Benchmarks/benchmark.py FOLDER [--networks small,plain,large] [--sizes 128,512x512x300] [--ways ...]

A way is `stock`, nnU-Net's own predictor, or ENGINE-PRECISION of ours: in closed form with all tiles, with `-adaptive`
tiling, or with the moments of 30 samples (`-sampled`). Each measurement runs in a process of its own; what
`FOLDER/measurements.jsonl` has already is not measured again, and `FOLDER/benchmark.md` tabulates all that it has.

Seconds are medians of warm runs, from the CT's file to the files of segmentation, probability and, but for `stock`,
variance; regions, pictures and report come on top. Those of the processor, summed over threads, can be compared on a
machine that others use, too. nnU-Net goes its way without further processes, whose start would only add seconds to one
CT, and without mirroring, since the networks were trained without.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

BEGAN = time.perf_counter()
ROOT = Path(__file__).resolve().parents[2]
MODEL, CONFIGURATION = "PhantomPancreas", "3d_fullres"
ENGINES, PRECISIONS = ("torch", "openvino"), ("float32", "bfloat16")
OURS = [f"{engine}-{precision}" for engine in ENGINES for precision in PRECISIONS]
WAYS = ["stock", "torch-float32-sampled", *(f"{way}{tiling}" for way in OURS for tiling in ("", "-adaptive"))]
SAMPLES = 30
STAGES = ("read", "preprocess", "network", "moments", "blend", "resample", "write")
FIRST = "†"
"""Marks what was not measured warm."""

SEED, AIR = 705, -1000
# Of an abdominal CT, x y z; 512 x 512 x 300 voxels are then of 0.75 x 0.75 x 0.8 mm. The phantom's own height: what the
# network has never seen above and below would be taken for organs, and adaptive tiling would place tiles there.
FIELD_MM = (384.0, 384.0, 240.0)
CUT_OUT = 192
"""Voxels; with no axis longer than this a CT shows a part of the field, at the spacing of 256 voxels."""
# Of TotalSegmentator's CTs, which the paper's networks were trained on: spacing, and a typical abdomen, z y x.
PLANNED_SPACING, PLANNED_SHAPE = 1.5, [200, 256, 256]
ORGAN_IS_RARE = 8.0
"""Added to the background's logit of random weights. In a trained network background wins almost everywhere; random
weights would call half of the body doubtful, and the regions of noise would be measured."""

NUMBERS = {"P{}_intensity": 90, "D{}%": 2, "D{}ml": 0.5, "V{}Gy": 30}
MEASURED = ("Parotid_L", "SpinalCord")

Size = tuple[int, int, int]


# --- CTs and networks -------------------------------------------------------------------------------------------------


def make_case(folder: Path, size: Size) -> Path:
    """Write the CT of a phantom with so many voxels, linearly interpolated, unless it is there."""
    path = folder / f"{'x'.join(map(str, size))}.nii.gz"
    if not path.exists():
        from mob_training.data.phantom import make_phantom

        ct, grid = make_phantom(SEED).ct, sitk.Image(list(size), sitk.sitkInt16)
        grid.SetSpacing(np.divide(FIELD_MM, size if max(size) > CUT_OUT else 256).tolist())
        grid.SetDirection(ct.GetDirection())
        grid.SetOrigin(np.subtract(_middle(ct), _middle(grid)).tolist())
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "partial.nii.gz"
        sitk.WriteImage(sitk.Resample(ct, grid, sitk.Transform(), sitk.sitkLinear, AIR), partial)
        partial.replace(path)
    return path


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def make_network(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a network as a training folder of nnU-Net, unless it is there; returns that and our model with its graph.

    Args:
        folder: The benchmark's.
        name: `small`, the shipped model, or with random weights `plain`, the U-Net that nnU-Net plans by default, or
            `large`, its residual encoder L.
    """
    import torch

    from MoBUncertaintyLib.base.schema import to_json
    from MoBUncertaintyLib.model.covariance import CovarianceSpec
    from MoBUncertaintyLib.model.folder import load_model
    from MoBUncertaintyLib.model.listing import find_model
    from MoBUncertaintyLib.network.backbone import build_network, load_network
    from MoBUncertaintyLib.network.export import export

    shipped = load_model(find_model(MODEL))
    stock, ours = folder / f"{name}-stock", shipped.path if name == "small" else folder / name
    if stock.exists():
        return stock, ours
    if name == "small":
        network, plans = load_network(shipped, shipped.folds[0]), shipped.plans
    else:
        spec = CovarianceSpec()
        plans = plan(name, shipped.dataset, shipped.plans["foreground_intensity_properties_per_channel"])
        torch.manual_seed(0)
        network = build_network(plans, shipped.dataset, CONFIGURATION, spec).eval()
        network.backbone.decoder.seg_layers[-1].bias.data[0] += ORGAN_IS_RARE
        training = folder / f"{name}-training"
        _write_training(training, network.state_dict(), plans | {"covariance": to_json(spec)}, shipped.dataset)
        export(training, ours)
    plans = {key: value for key, value in plans.items() if key not in ("covariance", "finetuning")}
    _write_training(stock, network.backbone.state_dict(), plans, shipped.dataset)
    return stock, ours


def _write_training(folder: Path, weights: dict[str, Any], plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Write a training folder as nnU-Net leaves it."""
    sys.path.insert(0, str(ROOT / "Testing" / "Python"))
    from support.tiny import write_fold

    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    write_fold(folder, 0, weights, CONFIGURATION)


def plan(network: str, dataset: dict[str, Any], intensities: dict[str, Any]) -> dict[str, Any]:
    """Return the plans that nnU-Net's own planner makes for abdominal CTs, from a fingerprint and an example file."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    from mob_training.training.planning import PLANNERS
    from mob_training.training.settings import Preset

    name = f"Dataset{SEED}_Benchmark"
    raw, preprocessed = (Path(os.environ[f"nnUNet_{part}"]) / name for part in ("raw", "preprocessed"))
    fingerprint = {
        "spacings": [[PLANNED_SPACING] * 3],
        "shapes_after_crop": [PLANNED_SHAPE],
        "foreground_intensity_properties_per_channel": intensities,
        "median_relative_size_after_cropping": 1.0,
    }
    for part, file in (("imagesTr", "case_0000.nii.gz"), ("labelsTr", "case.nii.gz")):
        (raw / part).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), raw / part / file)
    preprocessed.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")
    planner = {"plain": ExperimentPlanner, "large": PLANNERS[Preset.LARGE]}[network](name)
    planner.plan_experiment()
    plans: dict[str, Any] = json.loads((preprocessed / f"{planner.plans_identifier}.json").read_text(encoding="utf-8"))
    return plans | {"configurations": {CONFIGURATION: plans["configurations"][CONFIGURATION]}}


# --- a measurement, in a process of its own ---------------------------------------------------------------------------

Moment = tuple[float, float]  # seconds of the clock and of the processor
Run = Callable[[Path, Path], tuple[Moment, dict[str, float]]]
"""Predicts a file into a folder; returns when the volumes were written, and the seconds of stages."""


def now() -> Moment:
    """Return both of this process."""
    return time.perf_counter(), time.process_time()


def measure(way: str, networks: Sequence[Path], ct: Path, repeats: int, device: str) -> dict[str, Any]:
    """Run one way cold and warm: seconds to the volumes and to the end, of stages, and peak memory in bytes."""
    run = _stock(networks[0], device) if way == "stock" else _ours(networks[1], way, device)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1 + repeats):
            start, computed = now()
            (volumes, end), stages = run(ct, Path(scratch) / str(number))
            whole = time.perf_counter() - start
            runs.append({"volumes": volumes - start, "processor": end - computed, "whole": whole, "stages": stages})
            if number == 0:
                cold = volumes - BEGAN
    return {"cold": cold, "runs": runs, "bytes": _peak_bytes()}


def _ours(model: Path, way: str, device: str) -> Run:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.model.folder import load_model
    from MoBUncertaintyLib.pipeline import cases
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    engine, precision, *kind = way.split("-")
    settings = PredictionSettings(
        device=device,
        engine=engine,
        precision=precision,
        tiling="adaptive" if kind == ["adaptive"] else "full",
        samples=SAMPLES if kind == ["sampled"] else None,
    )
    predictor, write, ends = Predictor(load_model(model), settings), cases.write_volumes, []

    def write_volumes(*given: Any) -> Any:
        written = write(*given)
        ends.append(now())
        return written

    cases.write_volumes = write_volumes

    def run(ct: Path, output: Path) -> tuple[Moment, dict[str, float]]:
        case, _ = cases.run_case(cases.Job(predictor, scene=False), Input(ct, "", ""), output)
        stages = {name: seconds for name, seconds in case.prediction.timings.items() if name != "write"}
        return ends[-1], stages

    return run


def _stock(network: Path, device: str) -> Run:
    import nnunetv2.inference.predict_from_raw_data as stock
    from nnunetv2.inference import export_prediction

    from MoBUncertaintyLib.inference.devices import select_device

    clock, at = StageClock(), select_device(device)
    predictor = stock.nnUNetPredictor(use_mirroring=False, device=at, allow_tqdm=False)
    with _quiet():
        predictor.initialize_from_trained_model_folder(str(network), (0,))
    clock.wrap(predictor.plans_manager.image_reader_writer_class, "read_images", "read")
    clock.wrap(predictor.configuration_manager.preprocessor_class, "run_case", "preprocess")
    clock.wrap(predictor, "_internal_maybe_mirror_and_predict", "network")
    clock.wrap(predictor, "predict_logits_from_preprocessed_data", "blend")  # what lies around the network's calls
    clock.wrap(export_prediction, "convert_predicted_logits_to_segmentation_with_correct_shape", "resample")
    clock.wrap(stock, "export_prediction_from_logits", "write")

    def run(ct: Path, output: Path) -> tuple[Moment, dict[str, float]]:
        output.mkdir()
        clock.seconds.clear()
        with _quiet():
            predictor.predict_from_files_sequential([[str(ct)]], [str(output / "case")], save_probabilities=True)
        return now(), dict(clock.seconds)

    return run


class StageClock:
    """Seconds of functions that may call each other: those of each are without those of the ones in it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time each call of a function of an object, class or module."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start
                self.seconds[stage] += taken - self._inner.pop()
                if self._inner:
                    self._inner[-1] += taken

        setattr(owner, name, timed)


@contextlib.contextmanager
def _quiet():
    """Show nobody what nnU-Net prints."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _peak_bytes() -> dict[str, int]:
    """Return the largest memory of this process so far (Linux) and, where one was used, of the GPU."""
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else 0
    return {"process": 1024 * int(peak[1])} | ({"gpu": gpu} if gpu else {})


# --- samples and their measurements -----------------------------------------------------------------------------------


def measurements_of(folder: Path, sizes: Sequence[Size], repeats: int) -> str:
    """Predict the shipped patient in each size, unless that is done, and tabulate each set of measurements."""
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.model.folder import load_model
    from MoBUncertaintyLib.model.listing import find_model
    from MoBUncertaintyLib.pipeline import cases

    lines = [
        "| voxels | measurements | s | processor, s | GB beyond the prediction |",
        "| --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        place = folder / "measured" / "x".join(map(str, size))
        place.mkdir(parents=True, exist_ok=True)
        paths = [resampled(place / f"{name}.nii.gz", size) for name in ("HeadNeckCT", "HeadNeckCT-dose")]
        if not (place / "results").exists():
            job = cases.Job(Predictor(load_model(find_model("HeadNeckOrgans"))), scene=False)
            cases.run_case(job, Input(paths[0], "", ""), place / "results")
        for kind in ("calibrated", "kinds"):
            made = _in_child([kind, str(place), repeats], "--measurements")
            print(kind, made, flush=True)
            took, computed = (statistics.median(run[name] for run in made["runs"]) for name in ("s", "processor"))
            cells = " x ".join(map(str, size)), f"{made['count']}, {kind}", f"{took:.3g}", f"{computed:.3g}"
            lines.append(f"| {' | '.join(cells)} | {made['bytes'] / 1e9:.2f} |")
    return "\n".join(lines) + "\n"


def resampled(path: Path, size: Size) -> Path:
    """Write a shipped image of the same field with so many voxels, linearly interpolated, unless it is there."""
    from MoBUncertaintyLib.base.resources import RESOURCES

    if not path.exists():
        image = sitk.ReadImage(RESOURCES / "SampleData" / path.name)
        grid = sitk.Image(list(size), image.GetPixelID())
        grid.SetSpacing((np.array(image.GetSpacing()) * image.GetSize() / size).tolist())
        grid.SetDirection(image.GetDirection())
        grid.SetOrigin(np.subtract(_middle(image), _middle(grid)).tolist())
        sitk.WriteImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, AIR), path)
    return path


def measure_samples(kind: str, place: Path, repeats: int) -> dict[str, Any]:
    """Measure a set in results: seconds of each run, how many measurements, and bytes beyond those before."""
    from MoBUncertaintyLib.images.dose import read_dose
    from MoBUncertaintyLib.measurements.measurement import MEASUREMENTS
    from MoBUncertaintyLib.output.results_folder import read_results
    from MoBUncertaintyLib.regions.measurements import measure as measure_labels

    prediction, image = read_results(place / "results").prediction, sitk.ReadImage(place / "HeadNeckCT.nii.gz")
    dose = read_dose(place / "HeadNeckCT-dose.nii.gz", image)
    values = {"image": sitk.GetArrayViewFromImage(image), "dose": np.nan_to_num(dose)}
    wanted = [
        ":".join([one.name.replace("{}", str(NUMBERS.get(one.name))), *MEASURED[: one.labels]])
        for one in MEASUREMENTS.values()
    ]
    if kind == "calibrated":
        wanted = [*prediction.stated_bounds.measurements]
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is now what is used
    before, runs = _peak_bytes()["process"], []
    for _ in range(1 + repeats):
        start, computed = now()
        measure_labels(prediction, wanted, values)
        runs.append(dict(zip(("s", "processor"), np.subtract(now(), (start, computed)).tolist(), strict=True)))
    return {"runs": runs[-repeats:], "count": len(wanted), "bytes": _peak_bytes()["process"] - before}


# --- all of them ------------------------------------------------------------------------------------------------------


def run_all(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is missing; returns all measurements of the folder."""
    file = asked.folder / "measurements.jsonl"
    asked.folder.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = [json.loads(line) for line in lines if line.endswith("}")]  # one may have been cut short
    for network in asked.networks:
        folders = [str(path) for path in make_network(asked.folder, network)]
        for size in asked.sizes:
            ct = make_case(asked.folder / "cases", size)
            for way in asked.ways:
                task = {"network": network, "size": list(size), "way": way, "device": asked.device}
                if not any(one["task"] == task and "runs" in one for one in done):
                    print(network, size, way, flush=True)
                    given = [way, folders, str(ct), asked.repeats, asked.device]
                    done = [one for one in done if one["task"] != task] + [{"task": task} | _in_child(given)]
                    file.write_text("".join(json.dumps(one) + "\n" for one in done), encoding="utf-8")
    return done


def _in_child(given: list[Any], *options: str) -> dict[str, Any]:
    """Measure in a process of its own, or return why that `failed`."""
    command = [sys.executable, __file__, "-", *options, "--one", json.dumps(given)]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if ended.returncode == 0:
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return result
    return {"failed": (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]}


def report(measurements: Sequence[dict[str, Any]]) -> str:
    """Tabulate measurements beside stock nnU-Net, and say what they were made with."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "nnunetv2", "SimpleITK", "numpy"))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, encoding="utf-8")
    heads = ["network", "CT, voxels", "way", "s", "/ stock", "with report, s", "cold, s", "GB", *STAGES]
    heads += ["processor, s", "/ stock"]
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {memory}; {packages}; commit "
        f"{commit.stdout.strip()}; {os.environ.get('OMP_NUM_THREADS', 'default')} threads. {FIRST} cold, not warm.",
        "",
        f"| {' | '.join(heads)} |",
        "| --- | --- | --- |" + " ---: |" * (len(heads) - 3),
    ]
    stock = {_case(one): seconds(one) for one in measurements if one["task"]["way"] == "stock" and "runs" in one}
    for one in measurements:
        if "failed" in one:
            lines.append(f"| {' | '.join((*_case(one), one['task']['way']))} | {one['failed']} |")
            continue
        (volumes, processor, whole, stages), mark = seconds(one), "" if one["runs"][1:] else FIRST
        of_stock = stock.get(_case(one), (np.nan, np.nan))
        ratios = f"{volumes / of_stock[0]:.2f}", f"{processor / of_stock[1]:.2f}"
        beside, computed = (ratio.replace("nan", "–") for ratio in ratios)
        gigabytes = " + ".join(f"{size / 1e9:.2f}" for size in one["bytes"].values())
        cells = [f"{volumes:.3g}{mark}", beside, f"{whole:.3g}", f"{one['cold']:.3g}", gigabytes]
        cells += [f"{stages[name]:.3g}" if name in stages else "–" for name in STAGES]
        cells += [f"{processor:.3g}{mark}", computed]
        lines.append(f"| {' | '.join((*_case(one), one['task']['way'], *cells))} |")
    return "\n".join(lines) + "\n"


def _case(one: dict[str, Any]) -> tuple[str, str]:
    return one["task"]["network"], " x ".join(map(str, one["task"]["size"]))


def seconds(one: dict[str, Any]) -> tuple[float, float, float, dict[str, float]]:
    """Return medians over the warm runs, or else the first run.

    They are those to the volumes, of the processor to the volumes, to the end, and of each stage.
    """
    runs = one["runs"][1:] or one["runs"]
    volumes, processor, whole = (
        statistics.median(run[name] for run in runs) for name in ("volumes", "processor", "whole")
    )
    stages = {name: statistics.median(run["stages"][name] for run in runs) for name in runs[0]["stages"]}
    return volumes, processor, whole, stages


def parse_sizes(text: str) -> list[Size]:
    """Read sizes such as 128,512x512x300."""
    return [(*map(int, word.split("x")),) if "x" in word else (int(word),) * 3 for word in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["small", "large"])
    parser.add_argument("--sizes", type=parse_sizes, default=parse_sizes("128,512x512x300"))
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS)
    parser.add_argument("--repeats", type=int, default=1, help="warm runs")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measurements", action="store_true", help="of labels, instead of predictions")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one and asked.measurements:
        kind, place, repeats = json.loads(asked.one)
        print(json.dumps(measure_samples(kind, Path(place), repeats)))
        return
    if asked.one:
        way, networks, ct, repeats, device = json.loads(asked.one)
        print(json.dumps(measure(way, [Path(network) for network in networks], Path(ct), repeats, device)))
        return
    place = asked.folder.resolve() / "planning"
    os.environ |= {f"nnUNet_{part}": str(place / part) for part in ("raw", "preprocessed", "results")}
    if asked.threads:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc"), str(asked.threads))
    if asked.measurements:
        (asked.folder / "measured.md").write_text(measurements_of(asked.folder, asked.sizes, asked.repeats), "utf-8")
        return
    measurements = run_all(asked)
    (asked.folder / "benchmark.md").write_text(report(measurements), encoding="utf-8")


if __name__ == "__main__":
    main()
