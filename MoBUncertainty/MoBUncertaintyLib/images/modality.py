"""Whether images are those that a model takes, one for each of its input channels, as far as both say what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.names import printable

if TYPE_CHECKING:
    import SimpleITK as sitk

T = TypeVar("T")

AIR_HU = -1024.0
HOUNSFIELD_BELOW = -100.0
"""An image with voxels below this (air, fat) is taken to be in Hounsfield units; others have no such values."""

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
    """Return DICOM's term for what a model's channel takes, by its name (CT, MRI, T1w, ...), if it says."""
    words = re.split(r"[^a-z0-9]+", name.casefold())
    terms = {term for term, form in _CHANNELS.items() if any(form.fullmatch(word) for word in words)}
    return terms.pop() if len(terms) == 1 else None


def modality_of(image: sitk.Image) -> str | None:
    """Return DICOM's term for an image, if it is known; that of a NIfTI file is not."""
    return (image.GetMetaData(_KEY).strip() or None) if image.HasMetaDataKey(_KEY) else None


def set_modality(image: sitk.Image, modality: str | None) -> None:
    """Let an image say what it is, if that is known."""
    if modality:
        image.SetMetaData(_KEY, modality)


def contradictions(channels: Sequence[str], modalities: Sequence[str | None]) -> list[str]:
    """Say in a sentence for each image that its modality (DICOM's term, if known) is not that of its channel."""
    sentences = []
    for name, modality in zip(channels, modalities, strict=True):
        taken = modality_of_channel(name)
        if taken and modality in _IMAGES and modality != taken:
            which = f"The image of {printable(name)}" if len(channels) > 1 else "The image"
            sentences.append(
                f"{which} is {_IMAGES[modality]}, but the model takes {_IMAGES[taken]}; choose another image or model."
            )
    return sentences


def in_order(names: Sequence[str], first: T, others: Mapping[str, T]) -> list[T]:
    """Put what belongs to a model's channels in their order: `first` is of the one that `others` does not name.

    Raises `SettingsError` if a name is unknown, or another number of channels than one is left.
    """
    named = {name.casefold(): value for name, value in others.items()}
    folded = [name.casefold() for name in names]
    if unknown := [name for name in others if name.casefold() not in folded]:
        raise SettingsError(
            f"The model has no input channel {printable(unknown[0])}; its channels are {', '.join(names)}."
        )
    left = [name for name in names if name.casefold() not in named]
    if len(left) > 1:
        raise SettingsError(
            f"The model needs {len(names)} images of each case ({', '.join(names)}), but {' and '.join(left[1:])} is "
            f"missing; add it (--channel {left[1]}=FILE, or a volume for each channel in the panel)."
        )
    if not left:
        raise SettingsError(
            f"All input channels are assigned ({', '.join(names)}); leave one of them for the image to predict."
        )
    return [named.get(name, first) for name in folded]


def check_modalities(
    names: Sequence[str], first: sitk.Image, others: Mapping[str, sitk.Image], force: bool
) -> list[str]:
    """Refuse an image of another modality than its channel (`ImageError`), or say so in sentences if it is forced."""
    sentences = contradictions(names, [modality_of(image) for image in in_order(names, first, others)])
    if sentences and not force:
        raise ImageError(f"{sentences[0].rstrip('.')}, or use --force to predict this one anyway.")
    return sentences
