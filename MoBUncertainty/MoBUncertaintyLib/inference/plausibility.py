"""Warn of a prediction that is implausible: an organ is missing or cut off, or the model does not suit the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from MoBUncertaintyLib.model.card import readable

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.preprocessing import Case
    from MoBUncertaintyLib.model.card import Label
    from MoBUncertaintyLib.model.fingerprint import Fingerprint
    from MoBUncertaintyLib.regions.region import Region

# On images like its training images (20 phantoms, 50 hippocampi) a model finds 3 to 11 regions per label, with an
# expected error of 0.05 to 0.18 of the organ's volume in them. On others (the hippocampus model on an abdomen, the
# phantoms' model on a real CT) looser regions were 748 and 1,462, or held 0.26 to 0.45 of the volume.
MAX_REGIONS, MAX_REGIONS_PER_LABEL = 100, 25
MAX_ERROR_FRACTION = 0.25

_TOWARDS = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))  # against and along each axis, LPS


def unsuitable(regions: Sequence[Region], volumes_ml: Mapping[str, float]) -> str | None:
    """Warn in a sentence if the model evidently does not suit the image; None if it may.

    Args:
        regions: All doubtful regions.
        volumes_ml: Segmented volume of each label of the model.
    """
    reasons = []
    if len(regions) > max(MAX_REGIONS, MAX_REGIONS_PER_LABEL * len(volumes_ml)):
        reasons.append(f"{len(regions):,} doubtful regions were found")
    error, segmented = sum(region.expected_error_mm3 for region in regions) / 1000, sum(volumes_ml.values())
    if error > MAX_ERROR_FRACTION * segmented > 0:
        reasons.append(
            f"{error:,.1f} ml in doubtful regions are expected to be wrong where {segmented:,.1f} ml are segmented"
        )
    if not reasons:
        return None
    return (
        f"The model does not seem to suit this image: {', and '.join(reasons)}; check that the image shows what the "
        "model was trained on, and the threshold if you changed it."
    )


def not_found(volumes_ml: Mapping[str, float]) -> list[str]:
    """Warn of each label that has no voxel, in a sentence."""
    return [f"No {readable(name)} was found in this image." for name, volume in volumes_ml.items() if not volume]


class Edges(NamedTuple):
    """Where labels reach an edge: by the label's name, the patient's sides; labels that reach none are left out.

    Attributes:
        image: Edges of the image.
        part: Other edges of the part of it that was processed.
    """

    image: dict[str, tuple[str, ...]]
    part: dict[str, tuple[str, ...]]


def reached_edges(segmentation: np.ndarray, labels: Sequence[Label], case: Case) -> Edges:
    """Find the labels that reach an edge and may continue beyond it.

    Args:
        segmentation: Of the whole image.
        labels: Its foreground classes.
        case: The network's input, which tells the part of the image that was processed.
    """
    inside = case.view(segmentation)
    found = Edges({}, {})
    for axis, (kept, size) in enumerate(zip(case.kept, case.frame.shape, strict=True)):
        for end, at_image in ((0, kept.start == 0), (-1, kept.stop == size)):
            here, reached = np.unique(inside.take(end, axis)), found.image if at_image else found.part
            for name in (label.name for label in labels if label.mask(here).any()):
                reached[name] = (*reached.get(name, ()), _side(case, axis, end))
    return found


def cut_off(edges: Edges, region_of_interest: bool, fingerprint: Fingerprint | None) -> list[str]:
    """Warn of labels that reach an edge, in a sentence for each kind of edge; not where ordinary cases do.

    Args:
        edges: Which they reach.
        region_of_interest: Whether the user chose the part of the image that was processed.
        fingerprint: Of the model; None: it states none.
    """
    usual = fingerprint.usual_edges if fingerprint else {}
    image = {
        name: tuple(side for side in sides if side not in usual.get(name, ())) for name, sides in edges.image.items()
    }
    part = "region of interest" if region_of_interest else "part of the image that was processed"
    return [
        f"The segmentation reaches the edge of the {edge}: {_listed(sides_of)} may be cut off there."
        for edge, sides_of in (("image", image), (part, edges.part))
        if any(sides_of.values())
    ]


def _side(case: Case, axis: int, end: int) -> str:
    """Name the patient's side beyond the first (0) or last (-1) plane along an axis of the network."""
    direction = np.reshape(case.frame.image.GetDirection(), (3, 3))[:, 2 - case.frame.axes[axis]]
    outward = direction * (-1 if (end == 0) != case.frame.flips[axis] else 1)
    nearest = int(np.abs(outward).argmax())
    return _TOWARDS[nearest][int(outward[nearest] > 0)]


def _listed(sides_of: Mapping[str, Sequence[str]]) -> str:
    named = [f"{readable(name)} ({', '.join(sides)})" for name, sides in sides_of.items() if sides]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
