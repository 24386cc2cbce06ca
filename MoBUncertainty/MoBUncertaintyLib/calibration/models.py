"""From a model and folders of reviews or labelled cases to a model of the site."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from MoBUncertaintyLib.calibration.calibration import Calibration, calibrate, check_model
from MoBUncertaintyLib.calibration.cases import SiteCase, find_reviews, gather, read_reviews
from MoBUncertaintyLib.calibration.labelled import LabelledCases, holds_labels
from MoBUncertaintyLib.errors import CalibrationError
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network.export import check_exportable, check_new, export
from MoBUncertaintyLib.prediction import CancelledCallback, PredictionSettings, ProgressCallback

ADDED_NAME = ", calibrated"
LONGEST_NAME = 100


@dataclass(frozen=True)
class CalibratedModel:
    """A model of a site.

    Attributes:
        model: As written.
        calibration: What was changed.
        refused: One sentence on each case that was not used.
    """

    model: Model
    calibration: Calibration
    refused: list[str]


def calibrate_model(
    model: str | Path,
    folders: Iterable[Path],
    output: Path,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    device: str = "auto",
) -> CalibratedModel:
    """Calibrate a model on a site's cases, and write it under another name; it stays as it is.

    Args:
        model: Path or name.
        folders: Of signed-off reviews of the model's predictions (exports, or results with exports in them), or of
            labelled cases (`labelled.LabelledCases`), which are predicted as users' are.
        output: Model folder or `.zip` to make; must not exist.
        name: Of the new model; None: that of the model, with `ADDED_NAME`.
        progress, cancelled: As for `LabelledCases`.
        device: Predicts labelled cases.

    Raises:
        CalibrationError: There are too few cases, or the model would not be better; nothing is written.
        ReviewError, ImageError: A folder holds no case.
        ModelError, OutputError: As for `export`.
        Cancelled: `cancelled` said so; nothing is written.
    """
    check_new(output)
    with load_model(find_model(model)) as given:
        check_model(given.card)
        check_exportable(given)
        known = [*map(Path, folders)]
        labelled = [folder for folder in known if holds_labels(folder)]
        reads = read_reviews(find_reviews(folder for folder in known if folder not in labelled), given.digest)
        if labelled:
            reads += _labelled(given, labelled, progress, cancelled, device)
        cases, refused = gather(reads)
        try:
            found = calibrate(cases, given.card)
        except CalibrationError as error:
            raise CalibrationError(" ".join([str(error), *refused])) from error
        written = export(
            given.path,
            output,
            name=name or given.card.name[: LONGEST_NAME - len(ADDED_NAME)].rstrip() + ADDED_NAME,
            training={"calibration": found.description(given.card, given.digest)},
            regions=found.regions,
            click_settings=found.click_settings,
            fingerprint=found.fingerprint,
            volume_calibration=found.intervals.calibration if found.intervals else None,
            temperature=found.fit.temperature,
            half=None,
        )
    return CalibratedModel(written, found, refused)


def _labelled(
    model: Model,
    folders: list[Path],
    progress: ProgressCallback | None,
    cancelled: CancelledCallback | None,
    device: str,
) -> list[Callable[[], SiteCase]]:
    """Make what predicts labelled cases; only that needs the network."""
    from MoBUncertaintyLib.inference.predictor import Predictor

    predictor = Predictor(model, PredictionSettings(device=device))
    return LabelledCases(folders, predictor, progress, cancelled).reads()
