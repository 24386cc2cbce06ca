"""Predict images with the network on another computer: for commands, as a predictor like every other."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import Cancelled, UserError, reason_of
from MoBUncertaintyLib.files.publishing import make_private_folder, remove_private_folder
from MoBUncertaintyLib.images.channels import check_modalities
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.modality import modality_of
from MoBUncertaintyLib.images.reader import check_image
from MoBUncertaintyLib.inference.maps.members import together
from MoBUncertaintyLib.model.card import chosen_labels
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output.exchange import read_prediction
from MoBUncertaintyLib.prediction import CancelledCallback, Prediction, PredictionSettings, Progress, ProgressCallback
from MoBUncertaintyLib.worker.arrays import write_array
from MoBUncertaintyLib.worker.protocol import Command, Decoder, Event, check_event, encode
from MoBUncertaintyLib.worker.remote.connection import RemoteError, check_host

if TYPE_CHECKING:
    from MoBUncertaintyLib.worker.remote.stream import Fields

STAGES = ("send model", "send", "first_stage", "preprocess", "network", "resample", "receive")
"""Of the other computer's work, those that are shown; what follows is done here once more."""


class RemotePredictor:
    """Models on another computer; see `inference.predictor.Predictor`.

    The connection is made at the first image, and stays until `close`.

    Args:
        host: The computer, as ssh knows it.
        models: The models, which are sent there unless it has them; several make an ensemble.
        settings: How to predict.

    Raises:
        SettingsError: That is not the name of a computer, or a label is not one of the models'.
    """

    def __init__(self, host: str, models: Sequence[Model], settings: PredictionSettings) -> None:
        self._host = check_host(host)
        self._paths = [str(model.path.absolute()) for model in models]
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0
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
        for each in (image, *(channels or {}).values()):
            check_image(each)
        folder = make_private_folder("MoBUncertainty")
        try:
            named = enumerate((channels or {}).items())
            request = {
                "ct": _write(folder, "image", image),
                "channels": {name: _write(folder, f"channel_{n}", each) for n, (name, each) in named},
                "settings": asdict(self.settings),
                "folder": str(folder),
            }
            result = self._ask(request, progress or (lambda _: None), cancelled or (lambda: False))
            try:
                return read_prediction(result, grid_of(image), lambda path: np.load(path, allow_pickle=False))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise RemoteError(
                    f"{self._host} has sent a result that cannot be used ({reason_of(error)}); install mob-uncertainty "
                    f"{__version__} there anew."
                ) from error
        except BaseException:
            self.close()  # what it still does is for nobody
            raise
        finally:
            remove_private_folder(folder)

    def close(self) -> None:
        """End the connection, and what is computed there."""
        process, self._process = self._process, None
        if process and process.stdin and process.stdout:
            with suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()

    def _ask(self, request: Fields, progress: ProgressCallback, cancelled: CancelledCallback) -> Fields:
        """Send a request, and follow it until it is answered."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "MoBUncertaintyLib.worker.remote", self._host],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what ssh says is in the errors
                # Ctrl-C in the terminal is for the command, which then ends the connection.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        self._asked += 1
        assert self._process.stdin
        message = {"id": self._asked, "command": Command.PREDICT, "models": self._paths, **request}
        with suppress(BrokenPipeError):  # why it has ended is said by its last event
            self._process.stdin.write(encode(message))
            self._process.stdin.flush()
        for event in _events(self._process):
            if cancelled():
                raise Cancelled("The prediction was cancelled; nothing was kept.")
            kind = event["event"]
            if kind == Event.PROGRESS and event["stage"] in STAGES:
                progress(Progress(event["stage"], event["done"], event["total"], event["seconds_left"]))
            elif kind == Event.RESULT:
                result: Fields = event["result"]
                return result
            elif kind == Event.ERROR:
                raise _ToldError(event["message"], event["code"])
        raise RemoteError(f"The connection to {self._host} ended without a reason; try again.")


class _ToldError(UserError):
    """What the other computer, or the connection to it, says."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def _events(process: subprocess.Popen[bytes]) -> Iterator[Fields]:
    decoder = Decoder()
    assert isinstance(process.stdout, io.BufferedReader)
    while data := process.stdout.read1():
        for event in decoder.feed(data):
            check_event(event)
            yield event


def _write(folder: Path, name: str, image: sitk.Image) -> Fields:
    array = write_array(folder, name, sitk.GetArrayViewFromImage(image))
    matrix = grid_of(image).matrix().tolist()
    return {"array": array, "ijk_to_ras": matrix, "name": None, "modality": modality_of(image)}
