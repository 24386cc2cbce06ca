"""The review page, one HTML file: a reader looks at the regions' slices, clicks, decides and saves decisions.

Alone it shows the prediction; `pipeline.review_server` answers each step with what comes of it. The voxels around each
region are in the page, their axes turned to the patient's (S, A, R).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.geometry import Box, Grid, intersection, shape_of, widened
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pages.templates import PAGE_TEMPLATE, fill
from MoBUncertaintyLib.output.pictures.planes import central_voxel
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, LISTED_REGIONS, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.output.report import build_report
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.region import discrepancy_text
from MoBUncertaintyLib.review.outcome import agreement_line, volume_lines
from MoBUncertaintyLib.review.record import BY_HAND, SCHEMA, write_click
from MoBUncertaintyLib.review.region import ReviewRegion

NOT_ORGAN_COLOUR = "#ff5a4f"
"""Of clicks that say "not organ"."""

_MARGIN_MM = 15.0
_LARGEST_VOXELS = 30_000_000  # of all crops: about 10 MB of page


class ReviewPage:
    """The page of one case, whose review may have begun, and what it must be told after each step."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._describer = RegionDescriber(case.review.prediction)
        grid = case.review.prediction.grid
        self._axes, self._flipped = patient_axes(grid)
        self._scale = Scale.of(case.image, case.review.settings)
        self._boxes: dict[str, Box] = {}
        left = _LARGEST_VOXELS
        for region in case.review.regions[:DRAWN_REGIONS]:
            box = widened(region.box, np.ceil(_MARGIN_MM / grid.spacing).tolist(), case.review.prediction.shape)
            left -= int(np.prod(shape_of(box)))
            if left < 0 and self._boxes:
                break
            self._boxes[region.region_id] = box

    def render(self, served: bool = False) -> str:
        """Write the page's text, served or standing alone; raises `OutputError` without its template."""
        case, review = self._case, self._case.review
        report = build_report(case)
        palette = palette_beside(label.colour for label in case.prediction.labels)
        data = self.state() | {
            "served": served,
            "origin": "drawn" if case.prediction.checked else "predicted",
            "kind": case.prediction.region_kind,
            "schema": SCHEMA,
            "schema_version": BY_HAND,
            "predicted_sha256": review.digest,
            "labels": [
                {"value": each.value, "name": each.name, "title": readable(each.name), "colour": _css(each.colour)}
                for each in review.prediction.labels
            ],
            "heat": {"colours": heat_colours(64).tolist(), "threshold": self._scale.threshold, "top": self._scale.top},
            "suitability": report["suitability"],
            "colours": {"region": _css(palette.region), "other": NOT_ORGAN_COLOUR},
            "crops": {region_id: self._crop(region_id) for region_id in self._boxes},
        }
        text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no text in it can end the script element
        stops = ", ".join(_css(colour) for colour in heat_colours(9))
        return fill(
            PAGE_TEMPLATE,
            name=case.source.name or "Image",
            **report,
            report=report,
            default_length_mm=DEFAULT_LENGTH_MM,
            scale=self._scale,
            stops=stops,
            case=data | {"regions_left": max(len(review.regions) - LISTED_REGIONS, 0)},
            case_json=text,
            nonce=hashlib.sha256(text.encode()).hexdigest()[:24],
        )

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside pictures, ready for JSON."""
        review = self._case.review
        return {
            "regions": [self._describe(region) for region in review.regions[:LISTED_REGIONS]],
            "clicks": [
                write_click(click) | {"conflict": click.click_id in review.conflicts} for click in review.clicks
            ],
            "counter": [volume_text(mm3 / 1000) for mm3 in review.expected_error_mm3],
            "volumes": [*volume_lines(review), *filter(None, [agreement_line(review.prediction)])],
            "signature": review.signature and review.signature.name,
            "can_undo": review.can_undo,
        }

    def maps(self, boxes: Iterable[Box]) -> dict[str, str]:
        """Pack label, uncertainty and mask of the crops that changed boxes meet, by region id."""
        changed = list(boxes)
        return {
            region_id: self._maps(region_id)
            for region_id, own in self._boxes.items()
            if any(intersection(own, box) for box in changed)
        }

    def _describe(self, region: ReviewRegion) -> dict[str, Any]:
        prediction = self._case.review.prediction
        grid, several = prediction.grid, len(prediction.labels) > 1
        focus = grid.to_ras(central_voxel(region.mask, grid.spacing) + [part.start for part in region.box])
        organ = self._describer.organ(region.region, region.box, region.found.mask)
        return asdict(region.region) | {
            "id": region.region_id,
            "verdict": "resolved" if region.resolved else region.verdict.value,
            "label": region.label,
            "discrepancy": discrepancy_text(region.region),
            "comment": region.comment,
            "organ": readable(organ.name) if several and organ else "",
            "held": [click.click_id for click in region.clicks],
            "focus_ras": focus.tolist(),
        }

    def _crop(self, region_id: str) -> dict[str, Any]:
        box, grid = self._boxes[region_id], self._case.review.prediction.grid
        view = sitk.GetArrayViewFromImage(self._case.image)[box].astype(np.float32)
        grey = np.clip((view - self._scale.black) / (self._scale.white - self._scale.black), 0, 1)
        axes, signs = list(self._axes), np.where(self._flipped, -1.0, 1.0)
        corner = np.empty(3)
        for axis, back in zip(self._axes, self._flipped, strict=True):
            corner[axis] = box[axis].stop - 1 if back else box[axis].start
        predicted, labels = self._case.review.prediction.segmentation[box], self._case.review.labels_in(box)
        crop = Grid(grid.spacing[axes], grid.rotation[:, axes] * signs, grid.to_ras(corner))
        return {
            "shape": [shape_of(box)[axis] for axis in axes],
            "spacing": crop.spacing.tolist(),
            "ijk_to_ras": crop.matrix().tolist(),
            "ras_to_ijk": np.linalg.inv(crop.matrix()).tolist(),
            "ct": _pack(self._turned(np.round(grey * 85) * 3)),  # 86 greys pack well, and no eye tells them from 256
            "maps": self._maps(region_id),
            "predicted": None if np.array_equal(predicted, labels) else _pack(self._turned(predicted)),
        }

    def _maps(self, region_id: str) -> str:
        review, box = self._case.review, self._boxes[region_id]
        uncertainty = review.uncertainty_in(box, self._scale.measure)
        mask = review.region(region_id).mask_in(box)
        heat = np.clip(np.round(uncertainty / self._scale.top * 255), 0, 255)
        return _pack(*(self._turned(each) for each in (review.labels_in(box), heat, mask)))

    def _turned(self, array: np.ndarray) -> np.ndarray:
        turned = array.transpose(self._axes)[tuple(slice(None, None, -1 if back else 1) for back in self._flipped)]
        return np.asarray(turned.astype(np.uint8))


def write_review_page(path: Path, case: Case) -> None:
    """Write the page as a file that stands alone; raises `OutputError` without the template, and `OSError`."""
    path.write_text(ReviewPage(case).render(), encoding="utf-8")


def patient_axes(grid: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Find the array's axes that run nearest to S, A and R, and which of them run backwards.

    Example:
        >>> patient_axes(Grid.from_matrix(np.diag([-1.0, -1.0, 2.0, 1.0])))
        ((0, 1, 2), (False, True, True))
    """
    rows = (2, 1, 0)  # of the rotation, which is in the order R, A, S

    def along(order: Sequence[int]) -> list[float]:
        return [float(grid.rotation[row, axis]) for row, axis in zip(rows, order, strict=True)]

    axes = max(permutations(range(3)), key=lambda order: sum(map(abs, along(order))))
    return axes, tuple(part < 0 for part in along(axes))


def _pack(*arrays: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(b"".join(each.tobytes() for each in arrays), 2)).decode()


def _css(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(each) for each in colour))
