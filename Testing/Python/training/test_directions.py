"""Along which directions neighbours share errors and noise, and the figure of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mob_training.comparison import figures
from mob_training.comparison.compare import compare
from mob_training.evaluation.bases import OrganTile
from mob_training.evaluation.directions import shared_by_neighbours
from mob_training.evaluation.metrics.directions import fractions_along, principal_directions
from mob_training.evaluation.score_files import Run, write_runs
from MoBUncertaintyLib.gaussian.partitions import cell_bounds
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope, axis_correlation
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.drawn_figures import looks_like_a_picture
from support.fake_scores import run_of
from support.tiny import make_ct, make_dataset, make_model

LOCAL = {"rank": 3, "scope": Scope.LOCAL, "length_mm": (9.0, 9.0, 9.0)}
SPECS = {
    "mixture": CovarianceSpec(partitions=3, bases=4, **LOCAL),
    "low rank": CovarianceSpec(Covariance.LOW_RANK, **LOCAL),
    "diagonal": CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0)),
    "tile": CovarianceSpec(partitions=3, bases=4, rank=3, scope=Scope.TILE),
    "voxel": CovarianceSpec(partitions=3, bases=4, rank=3, scope=Scope.VOXEL),
}
LEFT, RIGHT = np.array([-1, 1, 0]) / np.sqrt(2), np.array([-1, 0, 1]) / np.sqrt(2)


def tile_of(folder, spec, shape=(30, 28, 24)) -> OrganTile:
    """Two labels, which the truth has beside each other."""
    model = make_model(folder / "model", dataset=make_dataset(("organ", "other"), orientation="RAS"), covariance=spec)
    truth = np.zeros(shape, np.uint8)
    truth[2:8, 10:20, 6:12], truth[2:8, 10:20, 12:15] = 1, 2
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False)
    return OrganTile.of(Predictor(model, settings), make_ct(shape), truth)


def of_pairs(factors: np.ndarray, shared=(1, 1, 1), cells: np.ndarray | None = None) -> np.ndarray:
    """The products of factors (C, Q, *S) over all pairs of neighbours; each voxel of a pair has half of it."""
    total, cells = np.zeros((len(factors),) * 2), np.ones(factors.shape[2:]) if cells is None else cells
    for axis, k in enumerate(shared):
        first, second = (np.delete(factors, at, axis + 2) for at in (-1, 0))
        for at in (-1, 0):
            total += k / 4 * np.einsum("cqzyx,dqzyx->cd", first * np.delete(cells, at, axis), second)
            total += k / 4 * np.einsum("cqzyx,dqzyx->cd", second * np.delete(cells, at, axis), first)
    return total


def sums_of(tile: OrganTile) -> dict[str, np.ndarray]:
    return {part: np.array(values) for part, values in shared_by_neighbours(tile).items()}


@pytest.mark.parametrize("shape", [(30, 28, 24), (12, 28, 24)], ids=["larger", "padded"])
@pytest.mark.parametrize("name", SPECS)
def test_what_neighbours_share(tmp_path, name, shape):
    """With little noise slopes are derivatives of the softmax at the mean, as torch computes them."""
    tile, spec = tile_of(tmp_path, SPECS[name], shape), SPECS[name]
    gaussian = tile.gaussian
    gaussian.log_variance -= 15
    loading = gaussian.loading
    numbers = np.random.default_rng(0).integers(4, size=(3, 3, 3))
    if spec.kind is Covariance.MIXTURE_OF_BASES:
        loading.bases = loading.bases * 1e-3
        loading.choice = torch.from_numpy(np.eye(4, dtype=np.float32)[numbers]).movedim(-1, 0)[None]
    elif spec.kind is Covariance.LOW_RANK:
        loading.values = loading.values * 1e-3
    inside = slice(6, 18) if shape[0] == 12 else slice(None)
    p = gaussian.logits.softmax(1)[0].numpy()

    def pushed(factors: torch.Tensor) -> np.ndarray:
        columns = [
            torch.func.jvp(lambda z: z.softmax(1), (gaussian.logits,), (one,))[1][0] for one in factors.unbind(2)
        ]
        return np.stack(columns, axis=1)[:, :, inside]

    shared, scope = sums_of(tile), spec.scope
    local = [float(axis_correlation(np.float64(1), float(length))) for length in gaussian.lengths or (1, 1, 1)]
    of_columns = {Scope.LOCAL: local, Scope.TILE: [1, 1, 1], Scope.VOXEL: [0, 0, 0]}[scope]
    truth = np.stack([tile.true[tile.box] == value for value in range(3)])
    assert shared["errors"] == pytest.approx(of_pairs((truth - p)[:, None, inside]), rel=0.01, abs=0.01)
    own = gaussian.variance().sqrt()[:, :, None] * torch.eye(3)[None, :, :, None, None, None]
    diagonal = of_pairs(pushed(own), local) if scope is Scope.LOCAL else np.zeros((3, 3))
    size = np.abs(diagonal).max()
    assert shared["diagonal"] == pytest.approx(diagonal, abs=0.01 * size)
    if loading is None:
        assert shared["columns"].size == 0
        return
    factors = pushed(loading.dense())
    parts = [None]
    if spec.kind is Covariance.MIXTURE_OF_BASES:
        bounds = [cell_bounds(size, 3) for size in p.shape[1:]]
        parts = np.zeros((4, *p.shape[1:]))
        for cell in np.ndindex(3, 3, 3):
            parts[(numbers[cell], *(slice(*bounds[axis][at]) for axis, at in enumerate(cell)))] = 1
        parts = parts[:, inside]
    expected = np.array([of_pairs(factors, of_columns, cells) for cells in parts])
    assert shared["columns"] == pytest.approx(expected, abs=0.01 * np.abs(expected).max())
    assert np.any(expected) == (scope is not Scope.VOXEL)


def test_noise_is_that_of_samples(tmp_path):
    """Much of it: the probability that the model states, and the directions of what samples share."""
    spec = replace(SPECS["low rank"], keep_probability=True)
    tile = tile_of(tmp_path, spec)
    gaussian = tile.gaussian
    gaussian.log_variance += 3
    samples = gaussian.rsample(150, torch.Generator().manual_seed(5))[:, 0].softmax(1).numpy()
    assert samples.mean(axis=0) == pytest.approx(gaussian.logits.softmax(1)[0].numpy(), abs=0.2)
    true = np.stack([tile.true[tile.box] == value for value in range(3)])
    sums = sums_of(tile)
    expected = of_pairs((true - samples.mean(axis=0))[:, None])
    assert sums["errors"] == pytest.approx(expected, abs=0.03 * np.abs(expected).max())
    drawn = of_pairs((samples - samples.mean(axis=0)).swapaxes(0, 1)) / len(samples)
    directions = principal_directions(drawn)
    noise = np.stack([*sums["columns"], sums["diagonal"]])
    fractions = fractions_along(directions, noise).sum(axis=1)
    assert fractions == pytest.approx(fractions_along(directions, drawn[None])[:, 0], abs=0.05)
    assert 0.6 < np.trace(noise.sum(axis=0)) / np.trace(drawn) < 1.1


def test_directions_are_those_with_most_errors():
    errors = 9 * np.outer(LEFT, LEFT) + np.outer(RIGHT, RIGHT)
    directions = principal_directions(errors)
    assert directions.sum(axis=1) == pytest.approx([0, 0])
    assert directions @ directions.T == pytest.approx(np.eye(2))
    assert directions[0, 1] > 0.6 and directions[1, 2] > 0.6
    fractions = fractions_along(directions, errors[None])[:, 0]
    assert fractions.sum() == pytest.approx(1) and fractions[0] > 0.9
    parts = np.stack([np.outer(one, one) for one in (*directions, 2 * directions[1])])
    assert fractions_along(directions, parts) == pytest.approx(np.array([[1, 0, 0], [0, 1, 4]]) / 6)


def run(model: str, columns: list, diagonal: float, seed: int = 0) -> Run:
    errors = 3 * np.outer(RIGHT, RIGHT) + (1 + seed) * np.outer(LEFT, LEFT)
    sums = {"errors": errors, "columns": columns, "diagonal": diagonal * (np.eye(3) - 1 / 3)}
    pooled = {f"shared.{part}": np.array(values).tolist() for part, values in sums.items()}
    return run_of({"a": {"dice": 0.8}}, pooled, model=model, seed=seed, labels=["left_lung", "right_lung"])


def test_comparison_has_the_figure_of_scores_that_have_the_directions(tmp_path):
    for name, runs in (
        ("with", [run("A", [np.outer(RIGHT, RIGHT), 2 * np.outer(LEFT, LEFT)], 1)]),
        ("without", [run_of({"a": {"dice": 0.8}})]),
    ):
        write_runs(runs, tmp_path / name)
        page = compare([tmp_path / name], tmp_path / f"{name}_out").read_text()
        assert (tmp_path / f"{name}_out" / "D_directions.png").exists() == (name == "with")
        assert ("D_directions.png" in page) == (name == "with")
    table = (tmp_path / "with_out" / "D_directions.csv").read_text().splitlines()
    assert table[0].startswith("Part,right lung − background")
    assert [line.split(",")[0] for line in table[1:]] == ["errors", "A: columns", '"A: columns', "A: diagonal"]
    assert [float(line.rsplit(",", 1)[1]) for line in table[1:]] == pytest.approx([100, 40, 20, 40])


def test_figure_sums_seeds_with_the_larger_basis_first(drawn, tmp_path):
    along = np.outer(RIGHT, RIGHT)
    groups = {
        "Control": [run_of({}, model="Control")],
        "Noise of voxels": [run("Noise of voxels", [], 0)],
        "Mixture": [run("Mixture", [along, 3 * along], 0), run("Mixture", [2 * along, along], 1, seed=1)],
        "Diagonal": [run("Diagonal", [], 1)],
    }
    figures.draw_directions(groups, tmp_path / "directions.png")
    looks_like_a_picture(tmp_path / "directions.png", (400, 900), (200, 500))
    classes, bars = drawn[0].axes
    assert [tick.get_text() for tick in classes.get_xticklabels()] == ["background", "left lung", "right lung"]
    entries = [float(text.get_text()) for text in classes.texts]
    expected = principal_directions(6 * along + 3 * np.outer(LEFT, LEFT))
    assert entries == pytest.approx(expected.ravel(), abs=0.006)
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["errors", "Mixture", "Diagonal"] * 2
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["errors", "columns", "columns, basis 2", "diagonal"]
    errors, first, second, own, alone = ([bar.get_width() for bar in container] for container in bars.containers)
    assert sum(errors) == pytest.approx(100)
    assert (sum(first), sum(second)) == pytest.approx((100 * 5 / 9, 100 * 2 / 9))
    assert own == pytest.approx([100 / 9, 100 / 9]) and alone == pytest.approx([50, 50])
    lefts = [[bar.get_x() for bar in container] for container in bars.containers[1:4]]
    assert lefts == pytest.approx(np.array([[0, 0], first, np.add(first, second)]))
    ends = [int(text.get_text()) for text in bars.texts]
    assert ends == pytest.approx([*errors, *np.sum([first, second, own], axis=0), 50, 50], abs=0.51)
