"""From a model and folders of reviews to a model of the site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from MoBUncertaintyLib.calibration.calibration import Calibration, calibrate
from MoBUncertaintyLib.calibration.cases import find_reviews, read_cases
from MoBUncertaintyLib.errors import CalibrationError
from MoBUncertaintyLib.model.folder import Model, find_model, load_model
from MoBUncertaintyLib.network.export import check_new, export

ADDED_NAME = ", calibrated"
LONGEST_NAME = 100


@dataclass(frozen=True)
class CalibratedModel:
    """A model of a site.

    Attributes:
        model: As written.
        calibration: What was changed.
        refused: One sentence on each review that was not used.
    """

    model: Model
    calibration: Calibration
    refused: list[str]


def calibrate_model(
    model: str | Path, reviews: Iterable[Path], output: Path, name: str | None = None
) -> CalibratedModel:
    """Calibrate a model on signed-off reviews of its predictions, and write it under another name; it stays as it is.

    Args:
        model: Path or name.
        reviews: Folders of exports, or of results with exports in them.
        output: Model folder or `.zip` to make; must not exist.
        name: Of the new model; None: that of the model, with `ADDED_NAME`.

    Raises:
        CalibrationError: There are too few reviews, or the model would not be better; nothing is written.
        ReviewError: A folder holds no review.
        ModelError, OutputError: As for `export`.
    """
    check_new(output)
    with load_model(find_model(model)) as given:
        cases, refused = read_cases(find_reviews(map(Path, reviews)), given.digest)
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
