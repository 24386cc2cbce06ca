"""One case: an image, what is predicted of it, and what its reader says of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import absolute
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Source:
    """Where an image was read from, so that it can be named and read again."""

    path: Path | None = None  # the file or DICOM folder
    name: str = ""  # what the case is called; default: as the file
    sha256: str | None = None  # of what was read there; see `images.digest`
    series: str | None = None  # series instance UID, where the folder has several
    channels: tuple[Mapping[str, str], ...] = ()  # name, path and sha256 of the other input channels' images
    dicom_files: tuple[Path, ...] = ()  # the image's slices, if it came from DICOM

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name or (self.path.name if self.path else "")))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Source:
        """Read what `to_dict` has made; entries may be missing."""
        path = values.get("path")
        return cls(
            path and Path(path),
            values.get("name") or "",
            values.get("sha256"),
            values.get("series"),
            tuple(values.get("channels", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON; of DICOM files the folder is enough."""
        return {
            "name": self.name or None,
            "sha256": self.sha256,
            "path": printable(str(absolute(self.path))) if self.path else None,
            "series": self.series,
            **({"channels": list(self.channels)} if self.channels else {}),
        }


@dataclass(frozen=True, eq=False)
class Case:
    """One case, whole: from the reader of its image to its report. A review's prediction has no overlapping labels."""

    image: sitk.Image
    prediction: Prediction
    regions: Regions
    source: Source = Source()
    begun: Review | None = None
    measured: tuple[Measured, ...] = ()  # of the segmentation as reviewed; that as predicted is in the prediction

    @classmethod
    def of(cls, image: sitk.Image, review: Review, source: Source | None = None) -> Case:
        """Make the case of a review that is begun."""
        return cls(image, review.prediction, review.listed(), source or Source(), review)

    @cached_property
    def review(self) -> Review:
        """The review of the prediction."""
        return self.begun or Review(self.prediction, self.regions)
