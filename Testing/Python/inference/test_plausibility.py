"""What a finished prediction itself gives away: organs cut off, a model that does not suit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import unsuitable
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Suitability
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.region_settings import UNCERTAINTIES, Measure, RegionSettings
from MoBUncertaintyLib.pipeline.cases import analyse
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import tiny

ALL = (-85.0, 85.0, -70.0, 70.0, -58.0, 58.0)  # RAS mm, what `make_ct` shows; the organ's middle is at -14, 8, 5


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A stock nnU-Net, trained in RAS."""
    return tiny.make_model(tmp_path_factory.mktemp("stock") / "raw", dataset=tiny.make_dataset(orientation="RAS"))


def warnings(model: Model, image: sitk.Image, regions: RegionSettings | None = None, **options: object) -> list[str]:
    return analyse(image, Predictor(model, PredictionSettings(overlap=0.25, **options)), regions).prediction.warnings


def test_an_organ_that_ends_within_the_image_is_not_called_cut(stock: Model) -> None:
    for options in ({}, {"region_of_interest": ALL}):
        assert not any("edge" in text or "suit" in text for text in warnings(stock, tiny.make_ct(), **options))


@pytest.mark.parametrize(
    ("bounds", "sides"),
    [
        ((-85, -14, -70, 8, -58, 5), "right, anterior, superior"),
        ((-14, 85, 8, 70, 5, 58), "left, posterior, inferior"),
        ((-20, -10, *ALL[2:]), "right, left"),
    ],
)
def test_an_organ_cut_by_the_region_of_interest_is_named_with_its_sides(
    stock: Model, bounds: tuple[float, ...], sides: str
) -> None:
    image = sitk.Flip(sitk.PermuteAxes(tiny.make_ct(), (2, 0, 1)), (True, False, True))  # axes in no usual order
    (said,) = [text for text in warnings(stock, image, region_of_interest=bounds) if "edge" in text]
    start, end = "The segmentation reaches the edge of the region of interest: organ (", ") may be cut off there."
    assert said.startswith(start) and said.endswith(end)
    assert set(said.removeprefix(start).removesuffix(end).split(", ")) == set(sides.split(", "))


def test_an_organ_at_the_edge_of_the_image_is_named(stock: Model) -> None:
    said = "The segmentation reaches the edge of the image: organ (superior) may be cut off there."
    assert said in warnings(stock, tiny.make_ct()[:, :, :22])


def test_an_edge_that_the_models_ordinary_cases_reach_is_not_named(stock: Model) -> None:
    image = sitk.Flip(tiny.make_ct()[:, :, :22], (True, False, True))  # the last slice is now the first
    found = Predictor(stock, PredictionSettings(overlap=0.25)).predict(image)
    matrix = found.grid.matrix()
    ends = found.segmentation[0].any(), found.segmentation[-1].any()
    upwards = (matrix[:3, 2] / np.linalg.norm(matrix[:3, 2]))[2]
    assert found.measures.edges == {"organ": ("superior",)}
    assert ends == ((True, False) if upwards < 0 else (False, True))
    for fraction, said in ((0.5, False), (0.01, True)):
        known = Fingerprint(90, "made", {}, (4.0, 8.0), {"organ": {"superior": fraction}})
        model = replace(stock, card=replace(stock.card, fingerprint=known))
        reasons = Predictor(model, PredictionSettings(overlap=0.25)).predict(image).suitability.reasons
        assert any("edge of the image" in reason for reason in reasons) == said


@pytest.mark.parametrize("measure", UNCERTAINTIES)
def test_a_model_without_covariance_says_by_what_regions_are_found(stock: Model, measure: Measure) -> None:
    (said,) = [text for text in warnings(stock, tiny.make_ct(), RegionSettings(measure)) if "no covariance" in text]
    words = {Measure.VARIANCE: "as you chose", Measure.BERNOULLI: "p (1 − p)", Measure.ENTROPY: "entropy (nats)"}
    assert [each for each, text in words.items() if text in said] == [measure]


# Number of regions, expected error in them, labels and segmented volume, ml; measured with the models that are shipped.
SUITED = [(17, 9.4, 1, 106.5), (13, 8.9, 1, 79.0), (3, 0.19, 1, 2.11), (3, 1.0, 1, 0.0), (150, 60.0, 24, 3000.0)]
UNSUITED = [
    ((1462, 286.2, 1, 1118.0), ["1,462 doubtful regions", "286 ml"]),
    ((748, 115.3, 1, 424.3), ["748 doubtful regions", "115 ml"]),
    ((6, 5.67, 1, 12.5), ["5.67 ml of error", "12.5 ml is segmented"]),
    ((150, 5.0, 1, 300.0), ["150 doubtful regions"]),
]


def judge(count: int, error_ml: float, labels: int, segmented_ml: float, **of_prediction: object) -> str | None:
    regions = [SimpleNamespace(expected_error_mm3=1000 * error_ml / count)] * count
    volumes = {f"organ {n}": segmented_ml / labels for n in range(labels)}
    fields = {"volumes_ml": lambda: volumes, "network_volumes": {}, "stated_volumes": {}, "suitability": None}
    fields |= of_prediction
    return unsuitable(regions, SimpleNamespace(**fields))


@pytest.mark.parametrize(("figures", "words"), [*((figures, []) for figures in SUITED), *UNSUITED])
def test_a_model_that_does_not_suit_is_called_so_with_the_reason(figures: tuple, words: list[str]) -> None:
    said = judge(*figures)
    assert (said is None) == (not words) and all(word in said for word in words)


def test_the_error_in_regions_counts_in_the_networks_voxels_and_not_beside_ordinary_cases() -> None:
    many, large = (150, 5.0, 1, 300.0), (6, 5.67, 1, 12.5)
    # The image's voxels double the error of the network's, which is half of the segmented volume.
    network, doubled = {"organ": StatedVolume(12.5, 6.25)}, {"organ": StatedVolume(12.5, 12.5)}
    assert judge(*large, network_volumes=network, stated_volumes=doubled) is None
    assert judge(*large, network_volumes=network, stated_volumes=network)
    compared = Suitability(deviations={"error": 0.3})
    assert judge(*large, suitability=compared) is None
    assert judge(*many, suitability=compared)


def test_an_image_of_something_else_is_noticed(stock: Model) -> None:
    image = tiny.make_ct()
    noise = np.random.default_rng(0).normal(0, 250, image.GetSize()[::-1]).astype(np.int16)
    other = sitk.GetImageFromArray(noise)
    other.CopyInformation(image)
    assert any("does not seem to suit" in text for text in warnings(stock, other))
