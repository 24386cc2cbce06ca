"""Whether an image is of the modality that a model takes, as far as the image and the model's channels say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from MoBUncertaintyLib.base.names import printable

if TYPE_CHECKING:
    import SimpleITK as sitk

_KEY = "0008|0060"  # ITK's name of DICOM's Modality, which NRRD and MetaImage files keep
_CHANNELS = {
    "CT": re.compile("(cb|ce|nc)?cta?"),
    "MR": re.compile("mr[ia]?|t[12](w|wi|c|ce|gd|map|star)?|flair|dwi|adc|dce|swi"),
    "PT": re.compile("pet|suv|fdg"),
}
_IMAGES = {
    "CT": "a CT",
    "MR": "an MR image",
    "PT": "a PET image",
    "NM": "a SPECT image or scintigram",
    "US": "an ultrasound image",
}
"""Those of DICOM's terms that tell what an image shows; others, such as OT, may be anything."""


def modality_of_channel(name: str) -> str | None:
    """Return DICOM's term for what a model's channel takes, by its name (CT, MRI, T1w, ...); None: it does not say."""
    words = re.split(r"[^a-z0-9]+", name.casefold())
    terms = {term for term, form in _CHANNELS.items() if any(form.fullmatch(word) for word in words)}
    return terms.pop() if len(terms) == 1 else None


def modality_of(image: sitk.Image) -> str | None:
    """Return DICOM's term for an image; None: it is not known, as of a NIfTI file."""
    return (image.GetMetaData(_KEY).strip() or None) if image.HasMetaDataKey(_KEY) else None


def set_modality(image: sitk.Image, modality: str | None) -> None:
    """Let an image say what it is; None: nothing."""
    if modality:
        image.SetMetaData(_KEY, modality)


def contradictions(channels: Sequence[str], modalities: Sequence[str | None]) -> list[str]:
    """Say in a sentence for each image that it is of another modality than the model takes.

    Args:
        channels: Names of the model's channels.
        modalities: DICOM's terms for their images; None: not known.
    """
    sentences = []
    for name, modality in zip(channels, modalities, strict=True):
        taken = modality_of_channel(name)
        if taken and modality in _IMAGES and modality != taken:
            which = f"The image of {printable(name)}" if len(channels) > 1 else "The image"
            sentences.append(
                f"{which} is {_IMAGES[modality]}, but the model takes {_IMAGES[taken]}; choose another image or model."
            )
    return sentences
