"""Preprocessing against nnU-Net's own and against SimpleITK's geometry; body box and region of interest."""

import itertools
from copy import deepcopy

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.inference.preprocessing import Frame, Preprocessor, find_body
from support.tiny import CONFIGURATION, make_ct, make_dataset, make_plans

CODES = ["".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)]
EVERYWHERE = (-1e4, 1e4) * 3


def rotation(degrees: float) -> tuple[float, ...]:
    """A SimpleITK direction turned about an axis that is none of the image's."""
    transform = sitk.VersorTransform(np.array([1.0, 2.0, 3.0]).tolist(), np.deg2rad(degrees))
    return transform.GetMatrix()


def preprocessor(orientation: str | None = "RAS", channel: str = "CT", **plans: object) -> Preprocessor:
    return Preprocessor(make_plans(**plans), make_dataset(channel=channel), CONFIGURATION, orientation)


def mr(shape: tuple[int, ...] = (20, 24, 28)) -> sitk.Image:
    """Positive values with a border of 0, as around a skull-stripped brain."""
    values = np.random.default_rng(0).uniform(100, 300, shape).astype(np.float32)
    values[:3], values[:, -4:], values[..., :5] = 0, 0, 0
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((3.0, 2.0, 2.5))
    return image


def as_nnunet_does(image: sitk.Image, plans: dict) -> np.ndarray:
    manager = PlansManager(deepcopy(plans))
    properties = {"spacing": list(image.GetSpacing())[::-1]}
    data, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        sitk.GetArrayFromImage(image)[None], None, properties, manager, manager.get_configuration(CONFIGURATION), {}
    )
    return data


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(
    ("image", "channel", "normalisation", "use_mask"),
    [
        (make_ct((30, 26, 22), (2.0, 2.6, 4.0)), "CT", "CTNormalization", False),
        (make_ct((20, 20, 12), (0.9, 0.9, 5.0)), "CT", "CTNormalization", False),
        (mr(), "MR", "ZScoreNormalization", True),
        (mr(), "MR", "ZScoreNormalization", False),
        (mr(), "MR", "RescaleTo01Normalization", False),
    ],
)
def test_without_a_body_box_the_array_is_nnunets(
    image: sitk.Image, channel: str, normalisation: str, use_mask: bool, transpose: tuple[int, ...]
) -> None:
    plans = make_plans(transpose=transpose, spacing=(3.0, 2.5, 3.5), normalisation=normalisation, use_mask=use_mask)
    before = deepcopy(plans)
    case = Preprocessor(plans, make_dataset(channel=channel), CONFIGURATION, None).prepare(image, body_box=False)
    # Resampled by another way, which differs by rounding; the values are around 1.
    np.testing.assert_allclose(case.data, as_nnunet_does(image, plans), rtol=0, atol=5e-6)
    assert plans == before


@pytest.mark.parametrize("code", CODES)
def test_the_frame_sees_what_dicom_orient_makes(code: str) -> None:
    image = sitk.DICOMOrient(make_ct((5, 6, 7), (1, 2, 3)), code)
    frame = Frame.of(image, "RAS")
    oriented = sitk.DICOMOrient(image, "RAS")
    assert np.array_equal(frame.view(sitk.GetArrayFromImage(image)), sitk.GetArrayFromImage(oriented))
    assert frame.shape == oriented.GetSize()[::-1]
    assert frame.spacing == oriented.GetSpacing()[::-1]


def test_without_an_orientation_the_axes_are_taken_as_stored() -> None:
    values = sitk.GetArrayFromImage(make_ct((5, 6, 7)))
    frame = Frame.of(sitk.DICOMOrient(make_ct((5, 6, 7)), "RAS"), None, (2, 0, 1))
    assert np.array_equal(frame.view(values), values.transpose(2, 0, 1))


@pytest.mark.parametrize("spacing", [(3, 3, 3), (2.0, 2.6, 4.0), (5.0, 4.0, 3.5)])
def test_results_come_back_to_the_grid_as_nnunets_do(spacing: tuple[float, ...]) -> None:
    image = make_ct((21, 26, 23), spacing)
    ours = preprocessor(None, transpose=(1, 2, 0))
    case = ours.prepare(image, body_box=False)
    probability = np.random.default_rng(0).random(case.data.shape).astype(np.float32)
    planned = PlansManager(make_plans(transpose=(1, 2, 0))).get_configuration(CONFIGURATION)
    theirs = planned.resampling_fn_probabilities(
        probability, case.frame.shape, ours.spacing(case.frame), case.frame.spacing
    )
    found = np.stack(list(case.planes(probability)), axis=1)
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def body(*boxes: tuple[slice, ...], shape: tuple[int, ...] = (40, 60, 80)) -> np.ndarray:
    volume = np.full(shape, -1000, np.int16)
    for box in boxes:
        volume[box] = 40
    return volume


def test_body_box_is_the_largest_component_with_a_margin_of_10_mm() -> None:
    trunk = (slice(10, 30), slice(15, 40), slice(20, 60))
    table = (slice(0, 40), slice(50, 51), slice(20, 60))
    box = find_body(body(trunk, table), (2.0, 2.0, 4.0))
    for found, part, size, spacing in zip(box, trunk, (40, 60, 80), (2.0, 2.0, 4.0), strict=True):
        margin = 10 / spacing
        # The search grid is 4 mm coarse, so the margin may be up to that much less or more.
        assert max(part.start - margin - 2, 0) <= found.start <= max(part.start - margin + 2, 0)
        assert min(part.stop + margin - 2, size) <= found.stop <= min(part.stop + margin + 2, size)
    assert box[1].stop < 50


def test_both_legs_are_body() -> None:
    left, right = (slice(0, 40), slice(20, 40), slice(5, 30)), (slice(0, 40), slice(20, 40), slice(50, 70))
    box = find_body(body(left, right), (2.0, 2.0, 2.0))
    assert box[2].start <= 5
    assert box[2].stop >= 70


def test_a_ct_of_air_is_processed_whole_with_a_warning() -> None:
    values = np.full((10, 12, 14), -1000, np.int16)
    values[0, 0, 0] = -900
    case = preprocessor().prepare(sitk.GetImageFromArray(values))
    assert [part.stop for part in case.target] == [10, 12, 14]
    assert "No body was found" in case.warnings[0]


def test_values_that_are_no_hounsfield_units_are_reported() -> None:
    case = preprocessor().prepare(mr())
    assert "do not look like Hounsfield units" in case.warnings[0]


def test_the_body_box_crops_and_changes_nothing_inside() -> None:
    image = make_ct((60, 60, 60))
    whole = preprocessor("RAS").prepare(image, body_box=False)
    cropped = preprocessor("RAS").prepare(image)
    assert cropped.data.size < 0.8 * whole.data.size
    assert np.array_equal(cropped.data, whole.data[(slice(None), *cropped.box)])
    # All that was cropped away is air.
    outside = np.ones(whole.data.shape[1:], bool)
    outside[cropped.box] = False
    assert (whole.data[0][outside] == whole.data.min()).all()


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "SLA"])
@pytest.mark.parametrize("degrees", [0, 15])
def test_a_region_of_interest_holds_the_voxels_whose_centres_lie_in_it(code: str, degrees: float) -> None:
    image = sitk.DICOMOrient(make_ct((30, 40, 50), (2, 3, 4), rotation(degrees), centre=(10, 20, 30)), code)
    bounds = (-30, 10, -40, 0, 20, 45)  # RAS
    box = Frame.of(image, "RAS", (1, 0, 2)).box(bounds)
    marked = np.zeros(image.GetSize()[::-1], bool)
    Frame.of(image, "RAS", (1, 0, 2)).view(marked)[box] = True
    geometry = image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    lps = sitk.GetArrayFromImage(sitk.PhysicalPointSource(sitk.sitkVectorFloat64, image.GetSize(), *geometry))
    low, high = np.reshape(bounds, (3, 2)).T
    inside = ((low <= lps * (-1, -1, 1)) & (lps * (-1, -1, 1) <= high)).all(axis=-1)
    assert inside.any()
    if degrees == 0:
        assert np.array_equal(marked, inside)
    else:  # the box around them
        assert not (inside & ~marked).any()


def test_the_network_is_shown_half_a_tile_around_a_region_of_interest() -> None:
    image = make_ct((60, 60, 60))
    case = preprocessor("LPS").prepare(image, region=(-20, 20, -20, 20, -20, 20), body_box=False)
    for target, shown in zip(case.target, case.box, strict=True):
        assert (target.start - shown.start, shown.stop - target.stop) == (12, 12)
    whole = preprocessor("LPS").prepare(image, body_box=False)
    assert np.array_equal(case.data, whole.data[(slice(None), *case.box)])
    part = np.stack(list(case.planes(case.data)), axis=1)
    assert np.array_equal(part, whole.data[(slice(None), *case.target)])


def test_statistics_come_from_the_whole_image_though_a_region_of_interest_is_cropped() -> None:
    image = mr()
    options = {"channel": "MR", "normalisation": "ZScoreNormalization", "spacing": (2.5, 2.0, 3.0)}
    whole = preprocessor(None, **options).prepare(image)
    part = preprocessor(None, **options, patch=(4, 4, 4)).prepare(image, region=(-60, -30, -40, -20, 15, 40))
    assert part.data.size < whole.data.size
    inside = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part.box, whole.box, strict=True))
    assert np.array_equal(part.data, whole.data[(slice(None), *inside)])


@pytest.mark.parametrize(
    "bounds",
    [
        (5000, 5100, 0, 10, 0, 10),
        (10, -10, 0, 10, 0, 10),
        (float("nan"), 10, 0, 10, 0, 10),
    ],
)
def test_a_region_of_interest_that_does_not_fit_is_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError):
        preprocessor().prepare(make_ct(), region=bounds)


def test_a_region_of_interest_thinner_than_a_voxel_is_one_voxel_thick() -> None:
    case = preprocessor().prepare(make_ct((30, 30, 30)), region=(-10, 10, -10, 10, 0.1, 0.2))
    assert min(part.stop - part.start for part in case.target) == 1


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (1.0, 1.2, 2.0), (5.0, 4.0, 3.5)])
def test_the_networks_voxels_of_a_region_of_interest_have_their_middles_in_it(spacing: tuple[float, ...]) -> None:
    image = make_ct((40, 48, 56), spacing)
    case = preprocessor("LPS", patch=(8, 8, 8)).prepare(image, region=(-20, 20, -20, 20, -20, 20), body_box=False)
    axes = zip(
        case.box, case.target, case.frame.spacing, case.data.shape[1:], case.grid.spacing, case.inner, strict=True
    )
    for box, target, step, size, network_step, inner in axes:
        assert size * network_step == pytest.approx(step * (box.stop - box.start))
        middles = step * box.start + network_step * (np.arange(size) + 0.5)
        assert np.array_equal(
            np.flatnonzero((middles > step * target.start) & (middles < step * target.stop)), np.r_[inner]
        )


def test_a_region_of_interest_in_air_is_processed_with_a_warning() -> None:
    image = make_ct((60, 60, 70))
    case = preprocessor("LPS").prepare(image, region=(92, 100, 78, 85, -88, -80))
    assert "only air" in case.warnings[0]
    assert all(part.start < part.stop for part in case.target)


@pytest.mark.parametrize("use_mask", [True, False])
def test_a_region_of_interest_in_an_mr_volumes_background_is_normalised_by_what_is_not(use_mask: bool) -> None:
    plans = make_plans(normalisation="ZScoreNormalization", use_mask=use_mask)
    image = mr((40, 24, 28))
    background = (-200.0, 200.0, -200.0, 200.0, 0.0, 5.0)  # the first three slices are 0
    case = Preprocessor(plans, make_dataset(channel="MR"), CONFIGURATION, None).prepare(image, background)
    assert "only air or background" in case.warnings[0]
    values = sitk.GetArrayFromImage(image)
    inside = values[values > 0] if use_mask else values
    shown = case.data[case.data > case.data.min()]
    assert shown.size and abs(shown.max() - (inside.max() - inside.mean()) / inside.std()) < 0.5


def test_an_image_that_would_become_absurdly_large_is_refused_before_it_does() -> None:
    with pytest.raises(ImageError):
        preprocessor(spacing=(0.05, 0.05, 0.05)).prepare(make_ct())
