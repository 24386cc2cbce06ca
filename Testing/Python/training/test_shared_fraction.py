"""The fraction of the noise that a whole volume shares, fitted to volumes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from mob_training.evaluation import shared_fraction as module
from mob_training.evaluation.shared_fraction import FRACTIONS, fit_shared_fraction, fraction_scores
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.model.covariance import CovarianceSpec, Scope
from support.tiny import make_ct, make_dataset, make_model, write_raw

SHAPE = (10, 10, 10)


def ball(classes: int) -> LogitGaussian:
    """Organs whose border is uncertain, by noise of a few voxels."""
    place = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    centres = np.linspace(4, 6, classes - 1)
    mean = np.stack([np.zeros(SHAPE), *(4 - np.linalg.norm(place - c, axis=0) for c in centres)])
    spread = torch.zeros(1, classes, *SHAPE)
    return LogitGaussian(torch.from_numpy(mean[None]).float(), spread, scope=Scope.LOCAL, lengths=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("true", "classes"), [(0.0, 2), (0.3, 2), (0.3, 3)])
def test_the_fraction_that_drew_the_truth_is_found(true: float, classes: int) -> None:
    """20 truths, drawn from the law with a known fraction; that of the model that is scored does not matter."""
    gaussian = ball(classes)
    generator = torch.Generator().manual_seed(5)
    drawn = replace(gaussian, shared_fraction=true).rsample(20, generator)[:, 0].softmax(dim=1)
    labels = torch.multinomial(drawn.movedim(1, -1).flatten(0, -2), 1, generator=generator).view(20, *SHAPE).numpy()
    scores = [
        fraction_scores(gaussian, label, one == label, FRACTIONS[::3]) for one in labels for label in range(1, classes)
    ]
    found = FRACTIONS[::3][int(np.argmin(np.mean(scores, axis=0)))]
    assert found == 0 if not true else 0.1 <= found <= 0.7


def test_all_cases_that_are_not_held_out_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    model = make_model(tmp_path / "m", covariance=CovarianceSpec(rank=2, scope=Scope.LOCAL, length_mm=(9.0,) * 3))
    image = make_ct((16, 16, 16))
    cases = dict.fromkeys("abc", (image, sitk.Cast(image > -500, sitk.sitkUInt8)))
    dataset = write_raw(tmp_path / "raw", make_dataset(), cases, "Tr")
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["b"], "val": ["a"]}]))
    monkeypatch.setattr(module, "SAMPLES", 4)
    found = fit_shared_fraction(model.path, dataset, "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a: volumes drawn", "b: volumes drawn"]
    scores = [float(line.split()[-1]) for line in lines[2:]]
    assert found == FRACTIONS[int(np.argmin(scores))] and len(set(scores)) > 1
