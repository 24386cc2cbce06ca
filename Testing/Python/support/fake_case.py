"""A fake prediction, small and with everything in it that a real one has; no network needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.images.grid import grid_of, image_on
from MoBUncertaintyLib.images.reader import digest
from MoBUncertaintyLib.model.card import Label, ModelCard
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output import results_folder
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.results_folder import Written
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, Regions

SIZE = (40, 36, 28)  # x, y, z
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
LEFT_HANDED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MARKER_HU = 2000

ANATOMY = ("SCT", "123037004", "Anatomical Structure")
PANCREAS = Label(
    1, "pancreas", (249, 180, 111), {"category": ANATOMY, "type": ("SCT", "15776009", "Pancreas"), "modifier": None}
)
LEFT_KIDNEY = Label(
    2,
    "kidney_left",
    (185, 102, 83),
    {"category": ANATOMY, "type": ("SCT", "64033007", "Kidney"), "modifier": ("SCT", "7771000", "Left")},
)


@dataclass
class FakeCase:
    """What `write_results` and `draw_overlay` take."""

    image: sitk.Image
    prediction: Prediction
    regions: Regions
    card: ModelCard


def region_row(number: int, centroid_ras: tuple[float, float, float], **changes: Any) -> Region:
    """A row as the finder makes it, of made-up numbers."""
    row = Region(number, number, centroid_ras, 690.0, 1234.5 / number, 0.15, 0.22, 0.5, 0.4, 11.0, "left")
    return replace(row, **changes)


def fake_case(
    direction: tuple[float, ...] = OBLIQUE,
    spacing: tuple[float, float, float] = (2.0, 2.0, 3.0),
    labels: tuple[Label, ...] = (PANCREAS,),
    with_regions: bool = True,
) -> FakeCase:
    """A ball of an organ (one half each for two labels) with two doubtful places at its surface and a bright marker."""
    z, y, x = np.indices(SIZE[::-1]).astype(float)
    position = np.stack([x, y, z], axis=-1) * spacing
    middle = np.array(SIZE) * spacing / 2

    def distance(centre: np.ndarray) -> np.ndarray:
        return np.linalg.norm(position - centre, axis=-1)

    organ = 1 / (1 + np.exp((distance(middle) - 14) / 0.8))
    ct = np.full(SIZE[::-1], -80, np.int16) + (120 * organ).astype(np.int16)
    ct[:, :2] = -1000  # air
    ct[4, 6, 8] = MARKER_HU
    places = [middle + np.array((14.0, 0.0, 0.0)), middle + np.array((0.0, -13.0, 6.0))]
    doubt = sum(
        height * np.exp(-((distance(place) / 6) ** 2)) for place, height in zip(places, (0.2, 0.15), strict=True)
    )
    probability = np.clip(organ + 0.4 * doubt, 0, 1)
    variance = np.minimum(doubt + 0.3 * probability * (1 - probability), 0.25) * (doubt > 0.002)
    region_map = np.zeros(SIZE[::-1], np.uint16)
    for rank, place in reversed(list(enumerate(places, 1))):
        region_map[distance(place) < 5.5] = rank if with_regions else 0

    segmentation = (probability > 0.5).astype(np.uint8)
    if len(labels) == 2:
        half = (x > SIZE[0] / 2)[..., None] == np.array([False, True])
        segmentation *= np.where(half[..., 1], 2, 1).astype(np.uint8)
        probability, variance = (np.moveaxis(values[..., None] * half, -1, 0) for values in (probability, variance))
    else:
        probability, variance = probability[None], variance[None]
    image = sitk.GetImageFromArray(ct)
    image.SetSpacing(spacing)
    image.SetOrigin((-30.0, 45.0, -210.0))
    image.SetDirection(direction)
    found = []
    for rank, (place, location) in enumerate(zip(places, ("left", "superior anterior"), strict=True), 1):
        r, a, s = image.TransformContinuousIndexToPhysicalPoint((place / spacing).tolist()) * np.array((-1, -1, 1))
        found.append(region_row(rank, (r, a, s), location=location))
    prediction = Prediction(
        segmentation=segmentation,
        probability=np.ascontiguousarray(probability, np.float32),
        variance=np.ascontiguousarray(variance, np.float32),
        grid=grid_of(image),
        labels=labels,
        provenance={"model": {"name": "Fake", "digest": "0" * 64}, "settings": {"samples": None}, "device": "cpu"},
        warnings=["one voxel was not finite"],
        timings={"network": 1.25},
    )
    card = ModelCard("Fake", "Nothing.", labels, CovarianceSpec(), "3d_fullres", "RAS", (2.0, 2.0, 2.0))
    return FakeCase(image, prediction, regions_of(region_map, found if with_regions else ()), card)


def write_case(folder: Path) -> FakeCase:
    """Write a CT and its results, without a network."""
    case = fake_case()
    sitk.WriteImage(case.image, folder / "ct.nii.gz")
    write_results(folder / "results", case, source_of(folder / "ct.nii.gz"))
    return case


def source_of(path: Path) -> Source:
    """Where the image of a file or DICOM folder is from."""
    return Source(path, sha256=digest(path), dicom_files=tuple(sorted(path.glob("*.dcm"))))


def write_results(
    folder: Path, case: FakeCase, source: Source | None = None, overwrite: bool = False, **options: Any
) -> Written:
    """Write a results folder; options as for `results_folder.write_results`, without a scene unless it is wanted."""
    whole_case = Case(case.image, case.prediction, case.regions, source or Source())
    with results_folder.FOLDER.reserve(folder, overwrite) as place:
        return results_folder.write_results(place, whole_case, **{"scene": False} | options)


def changed_prediction(prediction: Prediction, change: Callable[[sitk.Image], sitk.Image]) -> Prediction:
    """The prediction with all its volumes changed as images, such as flipped."""

    def on(array: np.ndarray) -> np.ndarray:
        return sitk.GetArrayFromImage(change(image_on(prediction.grid, array)))

    return replace(
        prediction,
        segmentation=on(prediction.segmentation),
        probability=np.stack([on(each) for each in prediction.probability]),
        variance=np.stack([on(each) for each in prediction.variance]),
        grid=grid_of(change(image_on(prediction.grid, prediction.segmentation))),
    )


def changed_case(
    case: FakeCase, change: Callable[[sitk.Image], sitk.Image], of_ct: Callable[[sitk.Image], sitk.Image] | None = None
) -> FakeCase:
    """The case with all its volumes changed as images; the CT in a way of its own, if need be."""
    region_map = sitk.GetArrayFromImage(change(image_on(case.prediction.grid, case.regions.whole_map())))
    return FakeCase(
        (of_ct or change)(case.image),
        changed_prediction(case.prediction, change),
        replace(regions_of(region_map, case.regions.ranked), settings=case.regions.settings),
        case.card,
    )


def regions_of(region_map: np.ndarray, ranked: Sequence[Region], **settings: Any) -> Regions:
    """Regions with a map of all of the CT."""
    return Regions(tuple(ranked), region_map, whole(region_map.shape), region_map.shape, RegionSettings(**settings))
