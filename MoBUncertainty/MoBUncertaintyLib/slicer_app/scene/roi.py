"""The region of interest: a box that the user draws around the organ."""

from __future__ import annotations

import itertools

from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.slicer_app.scene.nodes import fromWorld


def fitRoi(roi, ct) -> None:
    """Let a new box hold the whole image, if there is one, and be drawn as lines with handles, as Crop Volume does."""
    roi.CreateDefaultDisplayNodes()
    roi.GetDisplayNode().SetHandlesInteractive(True)
    roi.GetDisplayNode().SetFillVisibility(False)
    if ct is not None:
        bounds = [0.0] * 6
        ct.GetRASBounds(bounds)
        roi.SetCenterWorld([(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)])
        roi.SetSizeWorld([bounds[axis + 1] - bounds[axis] for axis in (0, 2, 4)])


def roiBounds(roi, ct) -> list[float] | None:
    """Return the box around a region of interest, (R-, R+, A-, A+, S-, S+) in mm of the image's own coordinates.

    Raises `SettingsError` if the region has no size.
    """
    if roi is None:
        return None
    world = [0.0] * 6
    roi.GetRASBounds(world)
    if not all(world[axis] < world[axis + 1] for axis in (0, 2, 4)):
        raise SettingsError(_("The region of interest has no size yet; drag its handles, or choose the whole image."))
    corners = fromWorld(ct, itertools.product(world[:2], world[2:4], world[4:]))
    return [end(values) for values in zip(*corners, strict=True) for end in (min, max)]
