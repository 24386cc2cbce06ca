"""Check whether a model tells its own cases from foreign ones, and ranks its own by their Dice.

    python Testing/Benchmarks/suitability.py MODEL DATASET OUTPUT [--foreign IMAGE ...]

The held-out cases of DATASET (a raw nnU-Net data set, or a folder of phantoms, `mob-training phantom`) are to be
ordinary. The first of them are changed: upside down, cut through the organ, noise in their place, a network with random
weights; these and the foreign images are to be noticed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.pipeline import analyse
from MoBUncertaintyLib.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.regions.agreement import dice
from region_frontier import cases

CHANGED = 4
"""Held-out cases that are changed in each way."""
BOOTSTRAP = 2000


def aurc(risk: np.ndarray, doubt: np.ndarray) -> float:
    """Compute the area under the risk-coverage curve: the mean risk of the n least doubtful cases, over all n."""
    return float(np.mean(np.cumsum(risk[np.argsort(doubt, kind="stable")]) / np.arange(1, len(risk) + 1)))


def doubts(prediction: Prediction) -> dict[str, float]:
    """Return what cases are ranked by: our score, and three baselines."""
    p, measures = np.asarray(prediction.probability[0], float), prediction.measures
    assert measures is not None and prediction.suitability is not None
    q, organ = np.clip(p, 1e-7, 1 - 1e-7), max(np.count_nonzero(prediction.segmentation), 1)
    draws = np.random.default_rng(0).random((8, *p.shape)) < p
    overlaps = [dice(a.astype(np.uint8), b.astype(np.uint8)) for i, a in enumerate(draws) for b in draws[:i]]
    return {
        "largest deviation": max(prediction.suitability.deviations.values(), default=np.inf),
        "expected error / volume": measures.values["error"],
        "pairwise Dice of samples": 1 - float(np.mean(overlaps)),
        "mean entropy": float(-(q * np.log(q) + (1 - q) * np.log(1 - q)).sum()) / organ,
    }


def changes(image: sitk.Image, truth: np.ndarray, seed: int) -> Iterator[tuple[str, sitk.Image]]:
    """Yield ways in which a case is not as it should be."""
    voxels = sitk.GetArrayFromImage(image)
    noise = np.random.default_rng(seed).normal(voxels.mean(), voxels.std(), voxels.shape).astype(np.float32)
    for name, array in (("upside down", voxels[::-1].copy()), ("noise", noise)):
        made = sitk.GetImageFromArray(array)
        made.CopyInformation(image)
        yield name, made
    yield "half the organ outside", image[:, :, : int(np.median(np.nonzero(truth)[0]))]


def main() -> None:
    """Measure, and write `suitability.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model"), parser.add_argument("dataset", type=Path), parser.add_argument("output", type=Path)
    parser.add_argument("--foreign", type=Path, nargs="*", default=[])
    asked = parser.parse_args()
    predictor = Predictor(load_model(find_model(asked.model)), PredictionSettings(device="cpu"))
    files = list(cases(asked.dataset, predictor.model.card.labels))
    rows: list[dict[str, object]] = []

    def judge(kind: str, image: sitk.Image) -> Prediction:
        prediction = analyse(image, predictor).prediction
        found = prediction.suitability
        assert found is not None
        rows.append(
            {"kind": kind, "level": found.level.value} | ({"reason": found.reasons[0]} if found.reasons else {})
        )
        print(f"{kind}: {found.text}", flush=True)
        return prediction

    risks, ranked = [], []
    for name, image, truth in files:
        prediction = judge("ordinary", read_image(image).image)
        risks.append(1 - dice(prediction.segmentation, truth))
        ranked.append(doubts(prediction))
        rows[-1] |= {"case": name, "dice": round(1 - risks[-1], 4)}
    for number, (_, image, truth) in enumerate(files[:CHANGED]):
        for kind, changed in changes(read_image(image).image, truth, number):
            judge(kind, changed)
    for path in asked.foreign:
        judge(path.name, read_image(path).image)
    torch.manual_seed(0)
    predictor = Predictor(load_model(find_model(asked.model)), PredictionSettings(device="cpu", engine="torch"))
    for module in predictor.network_of(predictor.folds[0]).modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for _, image, _ in files[:CHANGED]:
        judge("random weights", read_image(image).image)

    risk, rng = np.array(risks), np.random.default_rng(0)
    resamples = rng.integers(0, len(risk), (BOOTSTRAP, len(risk)))
    scores = {}
    for name in ranked[0]:
        doubt = np.array([each[name] for each in ranked])
        spread = np.quantile([aurc(risk[i], doubt[i]) for i in resamples], [0.025, 0.975])
        scores[name] = {"aurc": round(aurc(risk, doubt), 5), "interval": [round(float(x), 5) for x in spread]}
    scores["the best order"] = {"aurc": round(aurc(risk, risk), 5)}
    scores["no order"] = {"aurc": round(float(risk.mean()), 5)}
    own = [row for row in rows if row["kind"] == "ordinary"]
    flagged = sum(row["level"] != Level.ORDINARY.value for row in own)
    foreign = [row for row in rows if row["kind"] != "ordinary"]
    noticed = sum(row["level"] != Level.ORDINARY.value for row in foreign)
    print(f"flagged: {flagged} of {len(own)} own cases, {noticed} of {len(foreign)} others")
    print(json.dumps(scores, indent=1))
    asked.output.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"model": predictor.model.card.name, "aurc_of_cases": scores}, indent=1)[:-2]
    text = head + ',\n "cases": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]\n}\n"
    (asked.output / f"suitability-{predictor.model.card.name}.json").write_text(text)


if __name__ == "__main__":
    main()
