"""Add a model to a catalogue's folder, or update it there: its zip, its card page, its picture and its entry.

The card page has the fields of RSNA's ATLAS for models (schema of November 2025, https://atlas.rsna.org/documentation);
what a model's card does not state is unknown. The index is replaced last, so that what it says is there at any time.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from datetime import date
from pathlib import Path

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import CatalogueError, OutputError, reason_of
from MoBUncertaintyLib.base.integrity import file_digest
from MoBUncertaintyLib.base.publishing import absolute, reserve, write_file
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.images.modality import modality_of_channel
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.card import NOT_STATED, overlap, readable
from MoBUncertaintyLib.model.card_text import LENGTH, covariance_text, score_lines, training_lines
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output.pages.templates import fill
from MoBUncertaintyLib.pipeline.catalogue.place import INDEX_FILE, Entry, index_text, is_model_name, parse_index

TEMPLATE = RESOURCES / "Report" / "model.html.jinja"
STYLE = RESOURCES / "Report" / "cohort.css"
_MODALITIES = {
    "CT": "Computed tomography (RID10321)",
    "MR": "Magnetic resonance imaging (RID10312)",
    "PT": "Positron emission tomography (RID10337)",
}


def publish(model: Model, folder: Path, picture: Path | None = None) -> Entry:
    """Add a model to a catalogue's folder, or update it there, where its picture (PNG) stays if no other is given.

    Raises `CatalogueError` if the catalogue cannot be read, or the model not be named there, and `OutputError`.
    """
    folder, card = absolute(folder), model.card
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", card.name).strip("-._")
    if not is_model_name(name):
        raise CatalogueError(f"The model's name '{card.name}' cannot be a file's name; export it with another --name.")
    if len(card.files) == 0:
        raise CatalogueError(f"{model.path} is not a model folder; export the model before you publish it.")
    try:
        with reserve(folder / INDEX_FILE) as index:
            earlier = parse_index(index.target.read_bytes(), str(index.target)) if index.target.exists() else ()
            before = next((entry for entry in earlier if entry.name == name), None)
            packed = f"{name}-{model.digest[:8]}.zip"  # each version's own, so that a download under way goes on
            write_file(folder / packed, lambda partial: _pack(model, partial))
            preview = before.preview if before and before.digest == model.digest else None
            if picture:
                preview = f"{name}.png"
                write_file(folder / preview, lambda partial: shutil.copyfile(picture, partial))
            entry = _entry(model, name, folder / packed, preview)
            page = render(model, entry, date.today())
            write_file(folder / f"{name}.html", lambda partial: partial.write_text(page, encoding="utf-8"))
            others = [other for other in earlier if other is not before]
            entries = sorted([*others, entry], key=lambda other: other.name)
            index.partial.write_text(index_text(entries), encoding="utf-8")
            index.replace()
            named = {name for other in entries for name in (other.file, other.preview)}
            for unused in {before.file, before.preview} - named if before else ():
                with suppress(OSError):
                    (folder / str(unused)).unlink()
            return entry
    except OSError as error:
        reason = reason_of(error)
        raise OutputError(f"The catalogue {folder} cannot be written ({reason}); choose another folder.") from error


def _entry(model: Model, name: str, packed: Path, preview: str | None) -> Entry:
    card = model.card
    try:
        return Entry(
            name=name,
            title=card.name,
            task=card.task or NOT_STATED,
            labels=tuple(label.name for label in card.labels),
            scores={key[:LENGTH]: text for key, text in score_lines(card.scores) if key and key != "more"},
            licence=card.licence or NOT_STATED,
            minimum_version=__version__,
            digest=model.digest,
            file=packed.name,
            size=packed.stat().st_size,
            sha256=file_digest(packed),
            page=f"{name}.html",
            preview=preview,
        )
    except ValueError as error:
        raise CatalogueError(f"The model cannot be published: {error}; change its card.") from error


def _pack(model: Model, target: Path) -> None:
    if model.path.is_file():
        shutil.copyfile(model.path, target)
    else:
        archive.pack(model.path, ["model.json", *model.card.files], target)


def render(model: Model, entry: Entry, published: date) -> str:
    """Make the page, HTML, beside the files of the entry; raises `OutputError` if the template is not installed."""
    card = model.card
    codes = [kind[1] for label in card.labels if (kind := label.terminology["type"]) and kind[0] == "SCT"]
    modalities = [_MODALITIES.get(modality_of_channel(name) or "", name) for name in model.channels]
    return fill(
        TEMPLATE,
        entry=entry,
        card=card,
        published=published.isoformat(),
        labels=", ".join(readable(label.name) for label in card.labels),
        overlapping=overlap(card.labels),
        snomed=", ".join(dict.fromkeys(codes)),
        modalities=", ".join(dict.fromkeys(modalities)),
        resolution=f"{' x '.join(f'{step:g}' for step in card.spacing)} mm",
        covariance=covariance_text(card.covariance),
        scores=[(name, text) for name, text in score_lines(card.scores) if name],
        training=[(name, text) for name, text in training_lines(card.training) if name],
        css=STYLE.read_text(encoding="utf-8"),
    )
