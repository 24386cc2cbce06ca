"""What a review comes to: volumes with their intervals, and the voxels that the reader has decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.base.geometry import hull, shape_of, within
from MoBUncertaintyLib.measurements.interval import AS_PREDICTED, Interval, volume_text
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.regions.measure import maps_in
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of, predicted_intervals
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review


def stated_volumes(review: Review) -> dict[str, StatedVolume]:
    """State each label's volume as corrected, by its name, and the error expected where nothing is decided."""
    volumes, boxes = dict(review.prediction.stated_volumes), [each.box for each in review.regions if each.decided]
    if shape_of(review.changed_box)[0]:
        boxes.append(review.changed_box)
    if not boxes:
        return volumes
    box, voxel_ml = hull(boxes), review.prediction.grid.voxel_mm3 / 1000
    before, corrected = maps_in(review.prediction, box), review.labels_in(box)
    now = review.state.maps_in(box, review.refiner)
    is_open = np.ones(shape_of(box), bool)
    for region in review.regions:
        if region.decided:
            is_open[within(region.box, box)] &= ~region.found.mask
    for label in review.prediction.labels:
        had, has, channels = (
            label.mask(before.segmentation),
            label.mask(corrected),
            channels_of(review.prediction, label),
        )
        error = np.abs(label.mask(now.segmentation) - now.probability[channels].sum(axis=0))[is_open].sum(dtype=float)
        error -= np.abs(had - before.probability[channels].sum(axis=0)).sum(dtype=float)
        ml = volumes[label.name].ml + voxel_ml * (np.count_nonzero(has) - np.count_nonzero(had))
        left = volumes[label.name].error_ml + voxel_ml * float(error)
        volumes[label.name] = StatedVolume(max(ml, 0.0), max(left, 0.0))
    return volumes


def volume_intervals(review: Review, volumes: Mapping[str, StatedVolume] | None = None) -> dict[str, Interval]:
    """Compute the interval of each label's `stated_volumes` as they are now; none for clicks without a decision."""
    bounds, reviewed = review.prediction.volume_bounds, review.reviewed
    if bounds is None or (review.drawn and not reviewed[0]):
        return {}
    volumes = stated_volumes(review) if volumes is None else volumes
    return bounds.intervals(review.prediction.compared(volumes), reviewed)


def volume_lines(review: Review) -> list[str]:
    """Write the volume of each label as it is now, with its interval; none where the model states no interval.

    Where none was measured of a review as it is now, the prediction's stands: it is about the true volume, which no
    review changes.
    """
    bounds = review.prediction.volume_bounds
    if bounds is None:
        return []
    volumes, predicted = stated_volumes(review), predicted_intervals(review.prediction)
    intervals = volume_intervals(review, volumes)
    lines = []
    for name in (name for name in volumes if name in bounds.labels):
        interval = intervals.get(name) or predicted.get(name)
        note = AS_PREDICTED if name in predicted and name not in intervals else ""
        lines.append(f"{readable(name)} {volume_text(volumes[name].ml, interval, note=note)}")
    return lines


def agreement_line(prediction: Prediction) -> str:
    """Write the Dice that is expected of a segmentation as it was before its review; of several labels the lowest."""
    if not prediction.agreement:
        return ""
    name, lowest = min(prediction.agreement.items(), key=lambda each: each[1].dice)
    origin = "drawn" if prediction.checked else "predicted"
    if len(prediction.agreement) == 1:
        return f"Expected Dice as {origin}: {lowest.text}"
    mean = float(np.mean([label.dice for label in prediction.agreement.values()]))
    return f"Expected Dice as {origin}: {mean:.2f} on average, lowest {readable(name)} {lowest.text}"


def decided_prediction(review: Review) -> Prediction:
    """Make the prediction as its reader leaves it: with clicks, and sure where regions are decided.

    Its segmentation is the corrected one, and nothing is promised of measurements: no such ones were calibrated.
    """
    if not review.clicks and not review.reviewed[0]:
        return review.prediction
    now, corrected = review.current(), review.corrected()
    probability = np.array(now.probability, np.float32)
    values = np.array([label.value for label in now.labels])[:, None]
    for region in review.regions:
        if region.decided:
            mask = region.found.mask
            probability[:, *region.box][:, mask] = corrected[region.box][mask] == values
    return replace(now, segmentation=corrected, probability=probability, stated_bounds=None, measured=())


def decided_voxels(review: Review) -> tuple[np.ndarray, ...]:
    """List the voxels whose label the reader has decided: z, y and x, (N,) each, no voxel twice.

    Their labels are those of `corrected`. They are all of a region with an edit, and those clicked. In regions with
    another verdict, and in those that clicks given in them have resolved, they are the ones that keep their
    predicted label: what a verdict or a click has changed around it, nobody has looked at voxel by voxel.
    """
    clicked, places = {click.region_id for click in review.clicks}, [np.empty((0, 3), int)]
    for region in review.regions:
        if region.frozen or (region.resolved and region.region_id in clicked):
            as_predicted = review.labels_in(region.box) == review.prediction.segmentation[region.box]
            mask = region.found.mask & (as_predicted | (region.verdict is Verdict.EDIT))
            places.append(np.argwhere(mask) + [part.start for part in region.box])
    places += [review.refiner.free_voxels(click, review.clicks) for click in review.clicks]
    return tuple(np.unique(np.concatenate(places), axis=0).T)
