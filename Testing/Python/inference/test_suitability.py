"""Whether a model suits a case: what is evident, and what differs from ordinary cases."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import Edges, cut_off, fit_fingerprint, judge, organ_intensity
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Level, Measures
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.pipeline.cases import Job, analyse, run_case
from MoBUncertaintyLib.regions.prediction import PredictionSettings

LABELS = describe_labels({1: "organ"})
RNG = np.random.default_rng(0)


def measures(volume: float = 100.0, **changes: float) -> Measures:
    values = {
        "intensity": 0.5 + 0.02 * RNG.normal(),
        "contrast": 0.8 * np.exp(0.02 * RNG.normal()),
        "thickness": 1.0,
        "error": 0.1 * np.exp(0.05 * RNG.normal()),
        "volume:organ": volume * np.exp(0.1 * RNG.normal()),
        "stray:organ": 0.0,
    }
    return Measures(values | changes)


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return fit_fingerprint([measures() for _ in range(90)], "made")


def test_ordinary_cases_are_ordinary(fingerprint: Fingerprint) -> None:
    levels = [judge(LABELS, measures(), fingerprint, []).level for _ in range(200)]
    assert sum(level is not Level.ORDINARY for level in levels) <= 0.05 * 200


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"volume:organ": 20.0}, Level.NOT_USABLE, "the organ measures 20.0 ml (79.9 ml to 127 ml in ordinary cases)"),
        ({"volume:organ": 65.0}, Level.UNUSUAL, "the organ measures 65.0 ml (79.9 ml to"),
        ({"error": 0.4}, Level.NOT_USABLE, "the expected error is 40 % of the segmented volume (8 % to 12 %"),
        ({"intensity": 3.0}, Level.NOT_USABLE, "the intensity of the organ is 3.00"),
        ({"thickness": 4.0}, Level.UNUSUAL, "a voxel is up to 4 mm long"),
        ({"stray:organ": 0.5}, Level.NOT_USABLE, "50 % of the organ lies outside its largest piece"),
        ({"error": 0.01}, Level.ORDINARY, None),
    ],
)
def test_another_case_is_noticed_with_the_reason(
    fingerprint: Fingerprint, changes: dict[str, float], level: Level, words: str | None
) -> None:
    found = judge(LABELS, measures(**changes), fingerprint, [])
    assert found.level is level
    assert words in found.reasons[0] if words else not found.reasons


def test_without_a_fingerprint_the_evident_is_noticed() -> None:
    assert judge(LABELS, measures(), None, []).text == "not compared with ordinary cases"
    found = judge(LABELS, measures(error=1.2), None, [])
    assert found.text == "not usable: the expected error is 1.2 times the segmented volume"
    cut = judge(LABELS, measures(), None, ["The segmentation reaches the edge of the image."])
    assert cut.text == "unusual: the segmentation reaches the edge of the image"


def test_an_edge_that_ordinary_cases_reach_is_ordinary_and_another_is_not() -> None:
    def reaching(count: int, of: int, sides: tuple[str, ...]) -> list[Measures]:
        return [replace(measures(), edges={"organ": sides} if n < count else {}) for n in range(of)]

    given = [*reaching(20, 40, ("superior", "inferior")), *reaching(1, 20, ("left",))]
    given += [*reaching(29, 30, ("superior",)), *reaching(1, 1, ("left", "superior"))]
    known = fit_fingerprint(given, "made")
    counts = {"inferior": 20, "left": 2, "superior": 50}
    assert known.edges == {"organ": {side: round(count / 91, 3) for side, count in counts.items()}}
    kept = Fingerprint.from_dict(json.loads(json.dumps(to_json(known))))
    assert kept == known
    both = Edges({"organ": ("superior", "left")}, {"organ": ("superior",)})
    assert cut_off(both, True, kept) == [
        "The segmentation reaches the edge of the image: organ (left) may be cut off there.",
        "The segmentation reaches the edge of the region of interest: organ (superior) may be cut off there.",
    ]
    assert "organ (superior, left)" in cut_off(both, True, None)[0]
    assert cut_off(Edges({"organ": ("inferior", "superior")}, {}), False, kept) == []


def test_no_organ_is_not_usable(fingerprint: Fingerprint) -> None:
    case = measures()
    values = {name: value for name, value in case.values.items() if ":" not in name}
    assert judge(LABELS, Measures(values), fingerprint, []).text == "not usable: no organ was found"


def test_too_few_cases_are_refused() -> None:
    with pytest.raises(SettingsError):
        fit_fingerprint([measures() for _ in range(4)], "made")


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_intensity_is_weighted_by_the_probability_of_any_organ(overlapping: bool) -> None:
    x, p = RNG.normal(size=(6, 7, 8)), RNG.dirichlet((1, 1, 1), (6, 7, 8))[..., :2].transpose(3, 0, 1, 2)
    weights = p.max(axis=0) if overlapping else p.sum(axis=0)
    mean = np.average(x, weights=weights)
    deviation = np.sqrt(np.average(np.square(x - mean), weights=weights))
    assert organ_intensity(x, p, overlapping) == pytest.approx((mean, deviation))


@pytest.fixture(scope="module")
def phantoms() -> Predictor:
    return Predictor(load_model(find_model("PhantomPancreas")), PredictionSettings(device="cpu"))


def changed(what: str) -> sitk.Image:
    image = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image
    if what == "as it is":
        return image
    half = image[:, :, : image.GetSize()[2] // 2]
    if what == "cut":
        return half
    if what == "noise":
        image = half  # a whole image of it has thousands of regions
    voxels = sitk.GetArrayFromImage(image)
    noise = np.random.default_rng(0).normal(voxels.mean(), voxels.std(), voxels.shape)
    made = sitk.GetImageFromArray(voxels[::-1] if what == "upside down" else noise.astype(np.int16))
    made.CopyInformation(image)
    return made


@pytest.mark.parametrize(
    ("what", "levels"),
    [
        ("as it is", {Level.ORDINARY}),
        ("cut", {Level.UNUSUAL, Level.NOT_USABLE}),
        pytest.param("upside down", {Level.NOT_USABLE}, marks=pytest.mark.slow),
        pytest.param("noise", {Level.NOT_USABLE}, marks=pytest.mark.slow),
    ],
)
def test_the_shipped_model_knows_its_phantoms(phantoms: Predictor, what: str, levels: set[Level]) -> None:
    found = analyse(changed(what), phantoms).prediction.suitability
    assert found is not None and found.judged
    assert found.level in levels, found


@pytest.fixture
def tile(tmp_path: Path) -> Input:
    image = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image[32:96, 16:80, 16:64]
    sitk.WriteImage(image, tmp_path / "ct.nii.gz")
    return Input(tmp_path / "ct.nii.gz", "", "")


def test_what_the_regions_say_of_a_case_is_in_its_record(
    phantoms: Predictor, tile: Input, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("MoBUncertaintyLib.pipeline.cases.unsuitable", lambda *_: "Too much is doubtful.")
    case, _ = run_case(Job(phantoms, scene=False), tile, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert "too much is doubtful" in record["suitability"]["reasons"]
    assert record["suitability"]["level"] in {"unusual", "not usable"}
    assert record["suitability"] == case.prediction.suitability.to_dict()


def test_a_case_leaves_no_volume_in_memory(phantoms: Predictor, tile: Input, tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        case, _ = run_case(Job(phantoms, scene=False), tile, tmp_path / "out")
        prediction = weakref.ref(case.prediction)
        del case
        assert prediction() is None
    finally:
        gc.enable()
