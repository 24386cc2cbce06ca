"""Which bases a model takes at the outline, and how much of the variance they carry."""

import numpy as np
import pytest
import torch

from mob_training.contrasts import contrasts
from mob_training.evaluation.bases import OrganTile, case_bases, used_bases
from MoBUncertaintyLib.gaussian.partitions import cell_bounds
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.tiny import DETERMINISTIC, PATCH, make_ct, make_dataset, make_model

MIXTURE = CovarianceSpec(rank=3, partitions=3, bases=4, scope=Scope.TILE)
SINGLE = CovarianceSpec(Covariance.SINGLE_BASIS, rank=3, scope=Scope.LOCAL, length_mm=(9.0, 9.0, 9.0))


def predictor_of(folder, spec, labels=("organ",)) -> Predictor:
    model = make_model(folder, dataset=make_dataset(labels, orientation="RAS"), covariance=spec)
    return Predictor(model, PredictionSettings(device="cpu", precision="float32", body_box=False))


def organ(shape) -> np.ndarray:
    truth = np.zeros(shape, np.uint8)
    truth[4:9, 10:20, 6:12] = 1
    return truth


@pytest.mark.parametrize("spec", [MIXTURE, SINGLE], ids=["mixture", "single"])
def test_share_is_that_of_the_contrast(tmp_path, spec):
    """One tile: the tile's own Gaussian, and the factors that the likelihood uses."""
    predictor, ct = predictor_of(tmp_path / "m", spec, ("organ", "other")), make_ct(PATCH)
    truth = organ(PATCH)
    bases = case_bases(OrganTile.of(predictor, ct, truth))
    engine = predictor.pytorch()
    data = engine.uploaded(predictor.prepare(ct).data[None])
    with torch.no_grad():
        gaussian = engine.gaussian(engine.run(data))
        laws = list(contrasts(gaussian, torch.from_numpy(truth)[None]))
    shares = [law.factors[: spec.rank].square().sum(dim=0) / law.variance() for law in laws]
    expected = np.mean([share.numpy() for share in shares], axis=0).reshape(PATCH)
    np.testing.assert_allclose(bases.share, expected, rtol=1e-4)
    at = bases.outline
    assert np.count_nonzero(at) == 5 * 10 * 6 - 3 * 8 * 4
    assert bases.share_at_outline() == pytest.approx(expected[at].mean(), rel=1e-4)


def test_cells_are_those_that_the_outline_meets(tmp_path):
    predictor, truth = predictor_of(tmp_path / "m", MIXTURE), organ(PATCH)
    bases = case_bases(OrganTile.of(predictor, make_ct(PATCH), truth))
    counted = np.zeros(MIXTURE.bases, int)
    bounds = [cell_bounds(size, MIXTURE.partitions) for size in PATCH]
    for cell in np.ndindex(3, 3, 3):
        box = tuple(slice(*bounds[axis][at]) for axis, at in enumerate(cell))
        (number,) = np.unique(bases.chosen[box])
        counted[number - 1] += bool(bases.outline[box].any())
    assert counted.sum() > 1
    np.testing.assert_array_equal(bases.cells, counted)


def test_tile_lies_about_the_organ_of_a_larger_image(tmp_path):
    predictor = predictor_of(tmp_path / "m", SINGLE)
    image = make_ct((30, 60, 40))
    truth = np.zeros((30, 60, 40), np.uint8)
    truth[2:6, 50:58, 30:36] = 1
    bases = case_bases(OrganTile.of(predictor, image, truth))
    seen = bases.in_image(bases.chosen) > 0
    assert np.count_nonzero(seen) == np.prod(PATCH)
    assert seen[truth > 0].all()


def test_model_without_bases_has_none(tmp_path):
    for spec in (DETERMINISTIC, CovarianceSpec(Covariance.LOW_RANK, rank=2, scope=Scope.TILE)):
        assert (
            case_bases(OrganTile.of(predictor_of(tmp_path / spec.kind.value, spec), make_ct(PATCH), organ(PATCH)))
            is None
        )


def test_truth_without_organ_has_no_share(tmp_path):
    bases = case_bases(OrganTile.of(predictor_of(tmp_path / "m", MIXTURE), make_ct(PATCH), np.zeros(PATCH, np.uint8)))
    assert np.isnan(bases.share_at_outline())
    assert used_bases(bases.cells) == 0


def test_basis_counts_from_a_twentieth_of_the_cells_on():
    assert used_bases(np.array([95, 5, 0])) == 2
    assert used_bases(np.array([96, 4, 0])) == 1
