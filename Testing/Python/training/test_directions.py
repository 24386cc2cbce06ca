"""Along which directions neighbours share errors and noise, and the figure of them."""

import numpy as np
import pytest
import torch

from mob_training.comparison import figures
from mob_training.comparison.compare import compare
from mob_training.evaluation.bases import OrganTile
from mob_training.evaluation.directions import fractions_along, principal_directions, shared_errors
from mob_training.evaluation.score_files import Run, write_runs
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.drawn_figures import looks_like_a_picture
from support.fake_scores import run_of
from support.tiny import DETERMINISTIC, make_ct, make_dataset, make_model

LOCAL = {"rank": 3, "scope": Scope.LOCAL, "length_mm": (9.0, 9.0, 9.0)}
SPECS = {
    "mixture": CovarianceSpec(partitions=3, bases=4, **LOCAL),
    "low rank": CovarianceSpec(Covariance.LOW_RANK, **LOCAL),
    "diagonal": CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0)),
    "tile": CovarianceSpec(partitions=3, bases=4, rank=3, scope=Scope.TILE),
}
LEFT, RIGHT = np.array([-1, 1, 0]) / np.sqrt(2), np.array([-1, 0, 1]) / np.sqrt(2)


def tile_of(folder, spec) -> OrganTile:
    """Two labels, which the truth has beside each other in a volume that is larger than a tile."""
    model = make_model(folder / "model", dataset=make_dataset(("organ", "other"), orientation="RAS"), covariance=spec)
    truth = np.zeros((30, 28, 24), np.uint8)
    truth[6:12, 10:20, 6:12], truth[6:12, 10:20, 12:15] = 1, 2
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False)
    return OrganTile.of(Predictor(model, settings), make_ct(truth.shape), truth)


def of_pairs(factors: np.ndarray) -> np.ndarray:
    """The products of factors (C, Q, *S) over all pairs of neighbours, symmetric."""
    total = np.zeros((len(factors),) * 2)
    for axis in (2, 3, 4):
        first, second = (np.delete(factors, at, axis) for at in (-1, 0))
        total += np.einsum("cqzyx,dqzyx->cd", first, second)
    return (total + total.T) / 2


@pytest.mark.parametrize("name", SPECS)
def test_what_neighbours_share(tmp_path, name):
    """The factors of probabilities are derivatives of the softmax, as torch computes them."""
    tile, spec = tile_of(tmp_path, SPECS[name]), SPECS[name]
    shared, gaussian = {part: np.array(sums) for part, sums in shared_errors(tile).items()}, tile.gaussian

    def pushed(factors: torch.Tensor) -> np.ndarray:
        columns = factors[0].unbind(1)
        return np.stack(
            [torch.func.jvp(lambda z: z.softmax(1), (gaussian.logits,), (one[None],))[1][0] for one in columns], axis=1
        )

    p = gaussian.logits.softmax(1)[0].numpy()
    truth = np.stack([tile.true[tile.box] == value for value in range(3)])
    assert shared["errors"] == pytest.approx(of_pairs((truth - p)[:, None]), rel=1e-4, abs=1e-6)
    own = gaussian.variance().sqrt()[:, :, None] * torch.eye(3)[None, :, :, None, None, None]
    diagonal = of_pairs(pushed(own)) if spec.scope is Scope.LOCAL else np.zeros((3, 3))
    assert shared["diagonal"] == pytest.approx(diagonal, rel=1e-4, abs=1e-6)
    if spec.kind is Covariance.DIAGONAL:
        assert shared["columns"].size == 0
        return
    assert len(shared["columns"]) == (4 if spec.kind is Covariance.MIXTURE_OF_BASES else 1)
    assert shared["columns"].sum(axis=0) == pytest.approx(of_pairs(pushed(gaussian.loading.dense())), rel=1e-4)


def test_each_cell_counts_for_its_basis(tmp_path):
    tile = tile_of(tmp_path, SPECS["mixture"])
    loading = tile.gaussian.loading
    whole = shared_errors(tile)["columns"]
    (number,) = np.flatnonzero(np.any(whole, axis=(1, 2)))
    loading.choice = torch.zeros_like(loading.choice)
    loading.choice[:, number], loading.bases = (
        1,
        loading.bases[[number] * 4],
    )  # alike, so that a choice moves noise only
    loading.choice[:, number, 0], loading.choice[:, (number + 1) % 4, 0] = 0, 1
    moved = shared_errors(tile)["columns"]
    assert np.sum(moved, axis=0) == pytest.approx(np.sum(whole, axis=0), rel=1e-4)
    assert 0 < np.trace(moved[(number + 1) % 4]) < np.trace(whole[number])


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
    sums = {"errors": 3 * np.outer(RIGHT, RIGHT) + 2 * np.outer(*[LEFT - RIGHT / 2] * 2), "columns": columns}
    sums["diagonal"] = diagonal * (np.eye(3) - 1 / 3)
    pooled = {f"shared.{part}": np.array(values).tolist() for part, values in sums.items()}
    return run_of({"a": {"dice": 0.8}}, pooled, model=model, seed=seed, labels=["left_lung", "right_lung"])


def test_comparison_has_the_figure_of_scores_that_have_the_directions(tmp_path):
    for name, runs in (("with", [run("A", [], 1)]), ("without", [run_of({"a": {"dice": 0.8}})])):
        write_runs(runs, tmp_path / name)
        page = compare([tmp_path / name], tmp_path / f"{name}_out").read_text()
        assert (tmp_path / f"{name}_out" / "D_directions.png").exists() == (name == "with")
        assert ("D_directions.png" in page) == (name == "with")


def test_figure_sums_seeds_with_the_larger_basis_first(drawn, tmp_path):
    along = np.outer(RIGHT, RIGHT)
    groups = {
        "Control": [run_of({}, model="Control")],
        "Mixture": [run("Mixture", [along, 3 * along], 0), run("Mixture", [2 * along, along], 1, seed=1)],
        "Diagonal": [run("Diagonal", [], 1)],
    }
    figures.draw_directions(groups, tmp_path / "directions.png")
    looks_like_a_picture(tmp_path / "directions.png", (400, 900), (200, 500))
    strips, bars = drawn[0].axes
    assert [tick.get_text() for tick in strips.get_xticklabels()] == ["background", "left lung", "right lung"]
    widths = {one.get_label(): [bar.get_width() for bar in one] for one in bars.containers[:4]}
    assert list(widths) == ["errors", "columns, basis 1", "columns, basis 2", "diagonal"]
    assert sum(widths["errors"]) == pytest.approx(100)
    assert sum(widths["columns, basis 1"]) == pytest.approx(100 * 5 / 9)
    assert sum(widths["columns, basis 2"]) == pytest.approx(100 * 2 / 9)
    assert widths["diagonal"] == pytest.approx([100 / 9, 100 / 9])
    assert [bar.get_width() for bar in bars.containers[4]] == pytest.approx([50, 50])


def test_deterministic_model_shares_no_noise(tmp_path):
    shared = shared_errors(tile_of(tmp_path, DETERMINISTIC))
    assert shared["columns"] == [] and not np.any(shared["diagonal"])
    assert np.trace(shared["errors"]) > 0
