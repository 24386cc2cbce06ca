"""Figures of the comparison and overlays beside the truth: the numbers drawn, and that nothing breaks them."""

import numpy as np
import pytest
from matplotlib.image import imread

from mob_training.comparison import figures
from mob_training.comparison.runs import ORDER
from mob_training.evaluation.score_files import CONTROL, Run, flatten
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.region_settings import UNCERTAINTIES
from MoBUncertaintyLib.output.pictures.planes import PLANES
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.drawn_figures import looks_like_a_picture
from support.fake_scores import FakeModel, evaluate, run_of, write_dataset

# Empty bins and undefined values are no reason for numpy or matplotlib to complain.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
CPU = PredictionSettings(device="cpu")
AXIAL, CORONAL, SAGITTAL = PLANES
NAN = float("nan")


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> dict[str, list[Run]]:
    """Two seeds of two models, scored for real, with what is undefined as None, as it comes from a file."""
    dataset = write_dataset(tmp_path_factory.mktemp("scores"), "Parts", cases=3, classes=2)
    models = [FakeModel(Covariance.DETERMINISTIC, seed=seed, classes=2, steepness=3) for seed in (0, 1)]
    models += [FakeModel(Covariance.LOW_RANK, "low-rank", seed, classes=2) for seed in (0, 1)]
    found: dict[str, list[Run]] = {}
    for model in models:
        run = evaluate(model, dataset)
        found.setdefault(run.model, []).append(run)
    return found


def test_sizes_of_regions_are_those_asked_for(tmp_path):
    dataset = write_dataset(tmp_path, "Parts", cases=1, classes=2)
    model = FakeModel(Covariance.LOW_RANK, "low-rank", 0, classes=2)

    def regions(sizes: dict[str, float]) -> list[int]:
        (case,) = evaluate(model, dataset, regions=sizes).cases.values()
        return [case[f"{measure}.regions"] for measure in UNCERTAINTIES]

    assert min(regions({"depth_mm": 0, "grow_mm": 1})) > 0
    assert regions({"minimum_mm3": 1e9}) == [0] * len(UNCERTAINTIES)


def hollow_run(cases: int = 1, bins: int = 15) -> Run:
    """A run in which nothing is defined."""
    nothing = {"count": [0] * bins} | dict.fromkeys(("confidence", "frequency", "uncertainty", "error"), [None] * bins)
    pooled = {"volume": {"curve": {"part": nothing}, "nll": None}}
    pooled |= {measure.value: {"box": {"curve": nothing}} for measure in UNCERTAINTIES}
    case = {"dice": 1.0, "volume": {"nll": None, "ece": None}}
    case |= {measure.value: {"regions": 0} for measure in UNCERTAINTIES}
    scores = dict(flatten(case))
    return run_of({f"case{i}": scores for i in range(cases)}, dict(flatten(pooled)), bases=3)


def lines(axes, label: str) -> np.ndarray:
    """Points of the line of that name, (n, 2)."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xydata())


# Figures


def test_models_can_be_told_apart_in_colour_and_without():
    names = [*ORDER, *(f"Mixture-of-Bases ({word})" for word in ("tile", "local", "temperature", "analytic")), "Mine"]
    looks = figures.styles(names)
    for what in ("color", "marker"):
        assert len({look[what] for look in looks.values()}) == len(names)
    assert all(figures.styles([name])[name] == looks[name] for name in ORDER)  # whoever else is compared
    many = figures.styles([*ORDER, *(f"variant {number}" for number in range(12))])
    assert len({tuple(map(str, look.values())) for look in many.values()}) == len(many)
    assert len(figures.styles([f"variant {number}" for number in range(30)])) == 30


def test_calibration_shows_curve_gap_and_count_of_each_class(groups, drawn, tmp_path):
    figures.draw_calibration(groups, tmp_path / "new" / "calibration.png")
    (figure,) = drawn
    looks_like_a_picture(tmp_path / "new" / "calibration.png", (700, 1100), (500, 700))
    reliability, gap, count = np.reshape(figure.axes, (3, 2))[:, 1]
    assert reliability.get_title() == "part 2"
    pooled = [run.pooled for run in groups["Deterministic"]]
    p, frequency, voxels = (
        np.array([one[f"volume.curve.part_2.{name}"] for one in pooled], float)
        for name in ("confidence", "frequency", "count")
    )
    shown = voxels.mean(axis=0) >= 20
    assert 2 < shown.sum() < 15  # so sure a model leaves bins nearly empty
    expected = np.stack([np.nanmean(values[:, shown], axis=0) for values in (p, frequency)], axis=1)
    assert lines(reliability, "Deterministic") == pytest.approx(expected)
    assert gap.lines[0].get_ydata() == pytest.approx(expected[:, 1] - expected[:, 0])
    assert count.lines[0].get_ydata() == pytest.approx(voxels.mean(axis=0)[voxels.any(axis=0)])
    assert count.get_yscale() == "log"
    assert lines(reliability, "perfectly calibrated").tolist() == [[0, 0], [1, 1]]
    band = reliability.collections[0].get_paths()[0].vertices
    deviation = np.ma.masked_invalid(frequency[:, shown]).std(axis=0, ddof=1)
    assert band[:, 1].max() == pytest.approx((expected[:, 1] + deviation).max())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*groups, "perfectly calibrated"]


def test_error_rates_of_each_uncertainty_map(groups, drawn, tmp_path):
    figures.draw_uncertainty(groups, tmp_path / "uncertainty.png")
    (figure,) = drawn
    looks_like_a_picture(tmp_path / "uncertainty.png", (900, 1200), (400, 600))
    rates, counts = np.reshape(figure.axes, (2, 3))
    assert [axes.get_xlabel() for axes in counts] == ["predictive variance", "p (1 − p)", "entropy (nats)"]
    pooled = [run.pooled for run in groups["Diagonal + Low-rank"]]
    for axes, measure in zip(rates, UNCERTAINTIES, strict=True):
        x, error, voxels = (
            np.array([one[f"{measure}.box.curve.{name}"] for one in pooled], float)
            for name in ("uncertainty", "error", "count")
        )
        shown = voxels.mean(axis=0) >= 20
        expected = np.stack([np.nanmean(values[:, shown], axis=0) for values in (x, error)], axis=1)
        assert len(expected) > 3
        assert lines(axes, "Diagonal + Low-rank") == pytest.approx(expected)
    assert [line.get_label() for line in rates[0].lines] == ["Diagonal + Low-rank"]  # the other has no variance


def test_legend_of_many_long_names_is_as_wide_as_its_figure(groups, drawn, tmp_path):
    runs = groups["Deterministic"]
    many = {f"Deterministic, fine-tuned (a variant of number {number})": runs for number in range(10)}
    figures.draw_calibration(many, tmp_path / "many.png")
    (legend,) = drawn[-1].legends
    assert legend.get_window_extent().width <= drawn[-1].bbox.width
    assert legend._ncols >= 2


def test_bases_show_mean_deviation_and_seeds(drawn, tmp_path):
    def run(dice: float) -> Run:
        return run_of({"a": {"dice": dice, "volume.nll": 1 - dice, "volume.ece": 0.01}})

    figures.draw_bases({1: [run(0.7), run(0.9)], 2: [run(0.8)], 5: [run(0.85), run(0.85)]}, tmp_path / "bases.png")
    (figure,) = drawn
    looks_like_a_picture(tmp_path / "bases.png", (800, 1100), (250, 400))
    dice, nll, _ = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Dice ↑ in %", "NLL ↓", "ECE ↓"]
    (bars,) = dice.containers
    assert bars.lines[0].get_xydata() == pytest.approx(np.array([[1, 80], [2, 80], [5, 85]]))
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((80 - 10 * np.sqrt(2), 80 + 10 * np.sqrt(2)))
    assert sorted(dice.lines[0].get_ydata()) == pytest.approx([70, 80, 85, 85, 90])
    assert nll.containers[0].lines[0].get_ydata() == pytest.approx([0.2, 0.2, 0.15])


@pytest.mark.parametrize("draw", [figures.draw_calibration, figures.draw_uncertainty])
@pytest.mark.parametrize("runs", [1, 2])
def test_what_is_undefined_is_left_out(draw, runs, tmp_path):
    draw({"Deterministic": [hollow_run()] * runs, CONTROL: [hollow_run()]}, tmp_path / "hollow.png")
    assert imread(tmp_path / "hollow.png").shape[1] > 500


def test_bases_without_a_score(tmp_path):
    figures.draw_bases({1: [hollow_run()], 2: [hollow_run(), hollow_run()]}, tmp_path / "hollow.png")
    assert imread(tmp_path / "hollow.png").shape[1] > 500


def test_error_caught_is_the_mean_over_cases(drawn, tmp_path):
    def case(*shares: float) -> dict:
        caught = {"error": list(shares), "thick_error": [1.0] * len(shares)}
        nothing = {"error": [], "thick_error": []}
        return dict(flatten({"variance": {"caught": caught}, "bernoulli": {"caught": nothing}}))

    without_error: dict = {}
    run = run_of({"a": case(0.2, 0.6), "b": case(0.4), "c": without_error})
    figures.draw_error_caught(run, tmp_path / "caught.png", most=3)
    left = drawn[0].axes[0]
    assert lines(left, "predictive variance (median 1.5 regions)")[:, 1] == pytest.approx([0, 0.3, 0.5, 0.5])
    assert lines(left, "p (1 − p) (median 0 regions)")[:, 1].tolist() == [0, 0, 0, 0]
    looks_like_a_picture(tmp_path / "caught.png", (700, 1000), (250, 400))
