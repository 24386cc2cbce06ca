"""The margin that holds the true surface, switched on in the panel."""

from dataclasses import replace

import numpy as np
import pytest

from support.sessions import as_answer
from support.small_panel import MATRIX, add_ct, decide, show_result, two_labels

pytestmark = pytest.mark.own_process

MARGINS = {"pancreas": 3.0, "adrenal_gland_left": 1.5}


@pytest.fixture
def calibrated(desktop):
    """A result of two labels whose model states a margin of each, and its session."""
    from MoBUncertaintyLib.conformal.calibration import LabelBounds, VolumeBounds
    from MoBUncertaintyLib.conformal.volumes import Scale

    prediction, regions = two_labels()
    bounds = {name: LabelBounds(Scale.NOTHING, 1.0, (), mm) for name, mm in MARGINS.items()}
    prediction.provenance["volume_bounds"] = VolumeBounds(0.9, 30, bounds).to_dict()
    return desktop, show_result(desktop, add_ct(desktop), as_answer(prediction, regions))


def bands(session) -> dict[str, np.ndarray]:
    """The voxels of each band that is shown, by its segment's name; none where they are hidden."""
    import slicer.util

    node = session.results.node("margin")
    if node is None or not node.GetDisplayNode().GetVisibility():
        return {}
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetSegment(each).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, each, session.ctNode)
        > 0
        for each in segmentation.GetSegmentIDs()
    }


def test_each_label_has_a_band_of_its_own_margin(calibrated):
    from scipy import ndimage

    desktop, session = calibrated
    box = desktop.ui.marginCheckBox
    assert (box.enabled, box.checked) == (True, False)
    assert box.toolTip.endswith("90 % of it, on average, within 3 mm (pancreas), 1.5 mm (adrenal gland left).")
    assert bands(session) == {}
    box.click()
    shown = bands(session)
    assert list(shown) == ["pancreas: within 3 mm of the outline", "adrenal gland left: within 1.5 mm of the outline"]
    for (band, mm), label in zip(zip(shown.values(), MARGINS.values(), strict=True), (1, 2), strict=True):
        mask = session.prediction.segmentation == label
        edge = mask & ~ndimage.binary_erosion(mask)
        spacing = np.abs(np.diag(MATRIX))[2::-1]
        assert np.array_equal(band, ndimage.distance_transform_edt(~edge, spacing) <= mm + 1e-6)
        assert band[mask].any() and band[~mask].any(), "inside and outside"
    box.click()
    assert bands(session) == {}


def test_it_is_that_of_the_prediction_and_goes_with_what_changes_that(calibrated):
    desktop, session = calibrated
    ui = desktop.ui
    ui.marginCheckBox.click()
    before = bands(session)
    ui.acceptButton.click()
    assert ui.marginCheckBox.enabled and bands(session).keys() == before.keys()
    ui.regionsTable.selectRow(1)
    decide(ui.excludeButton)
    assert (ui.marginCheckBox.enabled, bands(session)) == (False, {})
    assert "this review has changed" in ui.marginCheckBox.toolTip
    ui.undoButton.click()
    assert ui.marginCheckBox.enabled and all(np.array_equal(bands(session)[name], before[name]) for name in before)
    session.click([session.review.regions[0].region.centroid_ras], 0)
    desktop.widget.panel.update()
    assert bands(session) == {}


def test_it_is_kept_with_the_ct_and_made_anew_for_another_prediction(calibrated):
    desktop, session = calibrated
    desktop.ui.marginCheckBox.click()
    prediction, regions = two_labels()
    other = show_result(desktop, add_ct(desktop, "other"), as_answer(prediction, regions))
    assert (desktop.ui.marginCheckBox.enabled, desktop.ui.marginCheckBox.checked) == (False, False)
    assert "states no margin" in desktop.ui.marginCheckBox.toolTip
    assert bands(session) == bands(other) == {}
    desktop.ui.ctSelector.setCurrentNode(session.ctNode)
    desktop.process()
    assert desktop.ui.marginCheckBox.checked and len(bands(session)) == 2
    prediction.provenance["volume_bounds"] = session.prediction.provenance["volume_bounds"]
    shifted = np.roll(prediction.segmentation, 2, axis=2)
    before = bands(session)
    again = show_result(desktop, session.ctNode, as_answer(replace(prediction, segmentation=shifted), regions))
    assert all(np.array_equal(np.roll(before[name], 2, axis=2), band) for name, band in bands(again).items())
    assert len(bands(again)) == 2
