"""What the worker does with catalogues of models on request: list one, fetch a picture, install a model.

The application's own process never waits for a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.worker.protocol import Command, Fields, ProtocolError
from MoBUncertaintyLib.worker.server import Handler, Report

if TYPE_CHECKING:
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry
    from MoBUncertaintyLib.regions.prediction import Progress

DOWNLOAD = 0.95
"""Fraction of an installation that the download is taken to be."""


def list_catalogue(request: Fields, _report: Report) -> Fields:
    """List the models of a catalogue: `models`, as `Entry` has them."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    return {"models": to_json(Place.of(request["index"]).entries())}


def fetch_picture(request: Fields, _report: Report) -> Fields:
    """Fetch the picture of a model's sample: `picture`, the path of a file in the request's folder, or null."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    content = Place.of(request["index"]).preview(_entry(request))
    if content is None:
        return {"picture": None}
    picture = Path(request["folder"]) / "picture.png"
    picture.write_bytes(content)
    return {"picture": str(picture)}


def install_model(request: Fields, report: Report) -> Fields:
    """Install a model that the user has agreed to: `path`, where it is."""
    from MoBUncertaintyLib.pipeline.catalogue.install import install
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    def tell(step: Progress) -> None:
        downloads = step.stage == "download"
        fraction = DOWNLOAD * step.done / step.total if downloads else DOWNLOAD + (1 - DOWNLOAD) * step.done
        report.progress(asdict(step) | {"fraction": round(fraction, 4)})

    folder = Path(request["output"]).parent
    return {"path": str(install(Place.of(request["index"]), _entry(request), tell, folder=folder))}


def _entry(request: Fields) -> Entry:
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry

    try:
        return from_json(Entry, request["entry"])
    except ValueError as error:
        raise ProtocolError(f"The request's entry is not understood ({error}).") from error


HANDLERS: Mapping[str, Handler] = {
    Command.LIST: list_catalogue,
    Command.PICTURE: fetch_picture,
    Command.INSTALL: install_model,
}
