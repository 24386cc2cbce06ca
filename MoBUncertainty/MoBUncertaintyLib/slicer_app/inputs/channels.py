"""The volumes of a case for a model of several input channels: the CT's own, and others that it refers to.

The CT keeps the references, so that they are saved with the scene and each case has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

ROLE = "MoBUncertainty.channel"


def channelVolume(ct, name: str):
    """Return the volume of a channel, by its name; None where none was chosen."""
    return ct.GetNodeReference(f"{ROLE}.{name}")


def setChannelVolume(ct, name: str, volume) -> None:
    """Choose the volume of a channel, or none."""
    ct.SetNodeReferenceID(f"{ROLE}.{name}", volume.GetID() if volume else None)


def missingChannel(ct, names: Sequence[str]) -> str | None:
    """Return the first channel without a volume that holds voxels; None: all have one."""
    volumes = ((name, channelVolume(ct, name)) for name in names)
    return next((name for name, volume in volumes if volume is None or volume.GetImageData() is None), None)
