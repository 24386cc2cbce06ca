"""Whether a model suits a case: what is evident, and what differs from ordinary cases."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import Edges, cut_off, fit_fingerprint, judge, organ_intensity
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Level, Measures
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.pipeline.cases import Job, analyse, run_case
from MoBUncertaintyLib.pipeline.demo import DEMO_MODEL, SAMPLE_DATA
from MoBUncertaintyLib.regions.prediction import PredictionSettings, predicted_intervals
from support import PHANTOM_CT, PHANTOM_MODEL

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
    return fit_fingerprint(["organ"], [measures() for _ in range(90)], "made")


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


@pytest.mark.parametrize(("volume", "fraction_is_stated"), [(0.004, False), (100.0, True), (1000.0, True)])
def test_no_fraction_of_next_to_nothing_is_stated(
    fingerprint: Fingerprint, volume: float, fraction_is_stated: bool
) -> None:
    case = measures(**{"volume:organ": volume, "stray:organ": 0.75})
    assert case.values["stray:organ"] / fingerprint.measures["stray:organ"].deviation > fingerprint.limits[1]
    suitability = judge(LABELS, case, fingerprint)
    assert suitability.level is Level.NOT_USABLE
    assert any("75 %" in reason for reason in suitability.reasons) is fraction_is_stated
    assert len(suitability.reasons) == len(set(suitability.reasons))


def test_without_a_fingerprint_the_evident_is_noticed() -> None:
    assert judge(LABELS, measures(), None, []).text == "not compared with ordinary cases"
    found = judge(LABELS, measures(error=1.2), None, [])
    assert found.text == "not usable: the expected error is 1.2 times the segmented volume"
    cut = judge(LABELS, measures(), None, ["The segmentation reaches the edge of the image."])
    assert cut.text == "unusual: the segmentation reaches the edge of the image"


CUT = "The segmentation reaches the edge of the {}: {} may be cut off there."


@pytest.mark.parametrize(
    ("image", "part", "sentences"),
    [
        ({"SpinalCord": ("inferior",), "Brainstem": ("superior",)}, {}, []),
        ({"SpinalCord": ("inferior", "superior")}, {}, [CUT.format("image", "SpinalCord (superior)")]),
        ({"Brainstem": ("inferior",), "Parotid_L": ("left",)}, {}, [
            CUT.format("image", "Brainstem (inferior) and Parotid L (left)")
        ]),
        ({}, {"SpinalCord": ("inferior",)}, [CUT.format("region of interest", "SpinalCord (inferior)")]),
    ],
)  # fmt: skip
def test_an_edge_is_ordinary_for_a_label_that_reaches_it_in_ordinary_cases(
    image: dict[str, tuple[str, ...]], part: dict[str, tuple[str, ...]], sentences: list[str]
) -> None:
    edges: list[dict[str, tuple[str, ...]]] = [{"SpinalCord": ("inferior",)} for _ in range(40)]
    for case in edges[:3]:
        case["Brainstem"] = ("superior",)
    edges[-1] = edges[-2] = {"SpinalCord": ("inferior", "superior"), "Parotid_L": ("left",)}  # in 5 %
    made = fit_fingerprint(["organ"], [replace(measures(), edges=each) for each in edges], "made")
    assert made.edges == {
        "Brainstem": {"superior": 0.075},
        "Parotid_L": {"left": 0.05},
        "SpinalCord": {"inferior": 1.0, "superior": 0.05},
    }
    card = Fingerprint.from_dict(json.loads(json.dumps(to_json(made))))
    assert cut_off(Edges(image, part), True, card) == sentences
    everything = cut_off(Edges(image, part), True, None)
    assert all(name.replace("_", " ") in " ".join(everything) for name in (*image, *part))


def test_no_organ_is_not_usable(fingerprint: Fingerprint) -> None:
    case = measures()
    values = {name: value for name, value in case.values.items() if ":" not in name}
    assert judge(LABELS, Measures(values), fingerprint, []).text == "not usable: no organ was found"


@pytest.mark.parametrize(("lacking", "level"), [(2, Level.UNUSUAL), (3, Level.ORDINARY), (39, Level.ORDINARY)])
def test_a_label_may_be_missing_that_more_than_5_percent_of_ordinary_cases_lack(lacking: int, level: Level) -> None:
    def lack(case: Measures) -> Measures:
        return Measures({name: value for name, value in case.values.items() if name != "volume:other"})

    labels = describe_labels({1: "organ", 2: "other"})
    cases = [measures(**{"volume:other": 9.0}) for _ in range(40)]
    made = fit_fingerprint(["organ", "other"], [lack(case) for case in cases[:lacking]] + cases[lacking:], "made")
    case = Measures(cases[-1].values | {"volume:organ": 100.0})
    assert judge(labels, case, made).level is Level.ORDINARY
    assert judge(labels, lack(case), made).level is level
    assert judge(labels, lack(case), None).level is Level.UNUSUAL


def test_an_expected_error_that_ordinary_cases_have_makes_none_unusable() -> None:
    made = fit_fingerprint(["organ"], [measures(error=0.4 + 0.01 * n) for n in range(40)], "made")
    assert judge(LABELS, measures(error=0.7), None).level is Level.NOT_USABLE
    assert judge(LABELS, measures(error=0.7), made).level is Level.ORDINARY
    assert judge(LABELS, measures(error=2.0), made).level is Level.NOT_USABLE


def test_what_few_ordinary_cases_reach_leaves_the_other_measures_their_limit() -> None:
    """One failure and one long tail among 60 cases: of each measure it is a case such as those that is not noticed."""
    stray = [{"stray:organ": 0.4 if n < 2 else 0.001 * n} for n in range(60)]
    cases = [measures(error=2.0 if n == 9 else 0.1 + 0.001 * (n % 20)) for n in range(60)]
    cases = [replace(case, values=case.values | own) for case, own in zip(cases, stray, strict=True)]
    made = fit_fingerprint(["organ"], cases, "made")
    assert judge(LABELS, cases[30], made).level is Level.ORDINARY
    far = replace(cases[30], values=cases[30].values | {"volume:organ": 3 * cases[30].values["volume:organ"]})
    assert judge(LABELS, far, made).level is Level.NOT_USABLE


def test_too_few_cases_are_refused() -> None:
    with pytest.raises(SettingsError):
        fit_fingerprint(["organ"], [measures() for _ in range(4)], "made")


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_intensity_is_weighted_by_the_probability_of_any_organ(overlapping: bool) -> None:
    x, p = RNG.normal(size=(6, 7, 8)), RNG.dirichlet((1, 1, 1), (6, 7, 8))[..., :2].transpose(3, 0, 1, 2)
    weights = p.max(axis=0) if overlapping else p.sum(axis=0)
    mean = np.average(x, weights=weights)
    deviation = np.sqrt(np.average(np.square(x - mean), weights=weights))
    assert organ_intensity(x, p, overlapping) == pytest.approx((mean, deviation))


@pytest.fixture(scope="module")
def phantoms() -> Predictor:
    return Predictor(load_model(PHANTOM_MODEL), PredictionSettings(device="cpu"))


def changed(what: str, path: Path = PHANTOM_CT) -> sitk.Image:
    image = read_image(path).image
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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["as it is", "cut", "upside down", "noise"])
def test_the_shipped_model_knows_a_head_and_neck(what: str) -> None:
    predictor = Predictor(load_model(find_model(DEMO_MODEL)), PredictionSettings(device="cpu"))
    found = analyse(changed(what, SAMPLE_DATA / "HeadNeckCT.nii.gz"), predictor).prediction.suitability
    assert found is not None and found.judged
    assert (found.level is Level.ORDINARY) == (what == "as it is"), found


def test_a_case_is_judged_alike_in_finer_voxels(phantoms: Predictor) -> None:
    image = read_image(PHANTOM_CT).image[32:96, 16:80, 16:64]
    fine = sitk.Expand(image, (3, 3, 1), sitk.sitkBSpline)
    coarse, found = phantoms.predict(image), phantoms.predict(fine)
    for name, value in coarse.measures.values.items():
        assert found.measures.values[name] == pytest.approx(value, rel=0.05, abs=0.02), name
    assert found.expected_error_mm3 > 1.1 * coarse.expected_error_mm3, "of the image's voxels"
    bounds = VolumeBounds(0.9, 30, {"pancreas": LabelBounds(Scale.ERROR, 1.0)})
    own, other = (
        predicted_intervals(replace(each, stated_bounds=bounds, suitability=None)) for each in (coarse, found)
    )
    interval = own["pancreas"].low, own["pancreas"].high
    assert (other["pancreas"].low, other["pancreas"].high) == pytest.approx(interval, rel=0.02)


@pytest.fixture
def tile(tmp_path: Path) -> Input:
    image = read_image(PHANTOM_CT).image[32:96, 16:80, 16:64]
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
