"""The page of a model's card, with the fields of RSNA's ATLAS for models (schema of November 2025).

What a model's card does not state is said to be unknown; nothing is guessed.
https://atlas.rsna.org/documentation
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from MoBUncertaintyLib.catalogue.index import Entry
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.files.resources import RESOURCES
from MoBUncertaintyLib.images.modality import modality_of_channel
from MoBUncertaintyLib.model.card import NOT_STATED, overlap, readable
from MoBUncertaintyLib.model.card_text import covariance_text, score_lines, training_lines
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output.pages.templates import make_environment

TEMPLATE = RESOURCES / "Report" / "model.html.jinja"
STYLE = RESOURCES / "Report" / "cohort.css"
_MODALITIES = {
    "CT": "Computed tomography (RID10321)",
    "MR": "Magnetic resonance imaging (RID10312)",
    "PT": "Positron emission tomography (RID10337)",
}

Fields = dict[str, str | None]
"""Names and texts; None where nothing is known."""


def render(model: Model, entry: Entry, published: date) -> str:
    """Make the page, HTML.

    Args:
        model: The model.
        entry: Its entry in the catalogue, beside whose files the page lies.
        published: When it is published.

    Raises:
        OutputError: The template is not installed.
    """
    if not TEMPLATE.is_file():
        raise OutputError(f"The card's template {TEMPLATE} is not installed; install MoB Uncertainty again.")
    return (
        make_environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            entry=entry,
            sections=card_fields(model, entry, published),
            training=[(name, text) for name, text in training_lines(model.card.training) if name],
            css=STYLE.read_text(encoding="utf-8"),
        )
    )


def card_fields(model: Model, entry: Entry, published: date) -> dict[str, Fields]:
    """Fill in ATLAS's fields from what is known of a model, by section."""
    card = model.card
    labels = ", ".join(readable(label.name) for label in card.labels)
    snomed = [kind[1] for label in card.labels if (kind := label.terminology["type"]) and kind[0] == "SCT"]
    maps = "a probability" + ("" if card.covariance.kind is Covariance.DETERMINISTIC else " and its variance")
    known = card.fingerprint
    spacing = " x ".join(f"{step:g}" for step in card.spacing)
    scores = {name: text for name, text in score_lines(card.scores) if name}
    return {
        "Model": {
            "Name": card.name,
            "Link": entry.file,
            "Task": entry.task,
        },
        "Descriptors": {
            "Authors": None,
            "Contact": None,
            "Date created": None,
            "Date published": published.isoformat(),
            "Ethical review": None,
            "Funding": None,
            "License": None if entry.licence == NOT_STATED else entry.licence,
            "Organizations": None,
            "References": None,
            "Version": f"SHA-256 of model.json: {entry.digest}",
        },
        "Indexing": {
            "Content": None,
            "RadLex": None,
            "SNOMED": ", ".join(dict.fromkeys(snomed)) or None,
            "Keywords": labels,
        },
        "Imaging": {
            "Modalities": _modalities(model.dataset),
            "Procedures": None,
            "File format": "DICOM, NIfTI, NRRD, MetaImage",
            "Resolution": f"{spacing} mm",
        },
        "Model properties": {
            "Architecture": f"nnU-Net, {card.configuration}; covariance: {covariance_text(card.covariance)}",
            "Availability": f"{entry.file}, {entry.megabytes}, SHA-256 {entry.sha256}",
            "Clinical benefit": None,
            "Clinical workflow phase": None,
            "Decision threshold": "0.5 for each label, which may overlap"
            if overlap(card.labels)
            else "none: each voxel has the most probable label",
            "Degree of automation": None,
            "Indications for use": None,
            "Input": entry.task,
            "Instructions": f"mob-uncertainty models install {entry.name} --index ADDRESS",
            "Limitations": None,
            "Output": f"Segmentation of {labels}, with {maps} for each label and voxel",
            "Recommendation": None,
            "Regulatory information": None,
            "Reproducibility": None,
            "Sustainability": None,
            "Intended use": "Image segmentation",
            "Out-of-scope use": None,
            "Excluded use": "Clinical use",
            "Intended user": "Researcher",
            "Ordinary cases": "; ".join(known.lines) if known else None,
        },
        "Model performance": dict(scores) or {"Metrics": None},
    }


def _modalities(dataset: Mapping[str, Any]) -> str | None:
    """Name the modality of each channel, in RadLex's words where nnU-Net's tell it."""
    channels = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(channels, dict):
        return None
    names = [str(name) for name in channels.values()]
    return ", ".join(dict.fromkeys(_MODALITIES.get(modality_of_channel(name) or "", name) for name in names)) or None
