"""Predict images with the network on another computer: for commands, as a predictor like every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import reason_of
from MoBUncertaintyLib.base.publishing import make_private_folder, remove_private_folder
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.modality import check_modalities, modality_of
from MoBUncertaintyLib.images.reader import check_image
from MoBUncertaintyLib.inference.maps.members import together
from MoBUncertaintyLib.model.card import chosen_labels
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output.results_record import read_prediction
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    Prediction,
    PredictionSettings,
    Progress,
    ProgressCallback,
)
from MoBUncertaintyLib.worker.arrays import write_array
from MoBUncertaintyLib.worker.protocol import Command, Event, Fields
from MoBUncertaintyLib.worker.remote.connection import Connection
from MoBUncertaintyLib.worker.remote.ssh import RemoteError, check_host
from MoBUncertaintyLib.worker.server import Report

STAGES = ("send model", "send", "first_stage", "preprocess", "network", "resample", "receive")
"""Of the other computer's work, those that are shown; what follows is done here once more."""


class RemotePredictor:
    """Models on another computer, an ensemble if several, which are sent there unless it has them; see `Predictor`.

    The connection is made at the first image, and stays until `close`. Raises `SettingsError` if that is not the name
    of a computer, or a label is not one of the models'.
    """

    def __init__(self, host: str, models: Sequence[Model], settings: PredictionSettings) -> None:
        self._host = check_host(host)
        self._paths = [str(model.path.absolute()) for model in models]
        self._connection = Connection(host)
        self.model = models[0] if len(models) == 1 else together(models)
        self.use(settings)

    def use(self, settings: PredictionSettings) -> None:
        """Change how to predict from now on."""
        self.labels = chosen_labels(self.model.card.labels, settings.labels)
        self.settings = settings

    def predict(
        self,
        image: sitk.Image,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        exact: bool = False,
        channels: Mapping[str, sitk.Image] | None = None,
    ) -> Prediction:
        """Segment one image there; arguments and errors as for `Predictor.predict`, but that none is exact."""
        assert not exact, "numbers are rounded before they are sent"
        check_modalities(self.model.channels, image, channels or {}, self.settings.force)
        for volume in (image, *(channels or {}).values()):
            check_image(volume)
        folder = make_private_folder("MoBUncertainty")
        try:
            named = enumerate((channels or {}).items())
            request = {
                "command": Command.PREDICT,
                "models": self._paths,
                "ct": _write(folder, "image", image),
                "channels": {name: _write(folder, f"channel_{n}", volume) for n, (name, volume) in named},
                "settings": asdict(self.settings),
                "folder": str(folder),
            }

            def tell(event: Event, fields: Fields) -> None:
                if progress and event is Event.PROGRESS and fields["stage"] in STAGES:
                    progress(Progress(*(fields[name] for name in ("stage", "done", "total", "seconds_left"))))

            result = self._connection.predict(request, Report(tell), cancelled or (lambda: False))
            try:
                return read_prediction(result, grid_of(image), lambda path: np.load(path, allow_pickle=False))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise RemoteError(
                    f"{self._host} has sent a result that cannot be used ({reason_of(error)}); reinstall "
                    f"mob-uncertainty {__version__} there."
                ) from error
        except BaseException:
            self.close()  # what it still does is for nobody
            raise
        finally:
            remove_private_folder(folder)

    def close(self) -> None:
        """End the connection, and what is computed there."""
        self._connection.close()


def _write(folder: Path, name: str, image: sitk.Image) -> Fields:
    array = write_array(folder, name, sitk.GetArrayViewFromImage(image))
    matrix = grid_of(image).matrix().tolist()
    return {"array": array, "ijk_to_ras": matrix, "name": None, "modality": modality_of(image)}
