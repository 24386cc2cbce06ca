"""What is put around the body of a CT whose surroundings were erased: nothing within it, and the table at its back."""

import numpy as np
import pytest
import torch

from mob_training.training.augmentation import (
    FieldOfView,
    Frame,
    Sharper,
    Surroundings,
    outside_of,
    training_transforms,
)

SHAPE = (40, 32, 48)
FRAME = Frame(mean=100, deviation=400, lowest=-1000, posterior=(0, 1), height=1)
EVERYTHING = {"noise": 20.0, "mask": -300.0, "rest": (3, -700.0), "table": (2, 5, 200.0)}


def plans(lowest: float = -990.0, scheme: str = "CTNormalization", order: tuple[int, int, int] = (1, 0, 2)) -> dict:
    known = {"mean": 100.0, "std": 400.0, "percentile_00_5": lowest}
    return {
        "configurations": {"3d_fullres": {"normalization_schemes": [scheme]}},
        "foreground_intensity_properties_per_channel": {"0": known},
        "transpose_forward": list(order),
    }


def patient() -> tuple[torch.Tensor, torch.Tensor]:
    """A body of water with an airway, in erased air: its image (1, *SHAPE), and where the body is."""
    y, _, x = np.indices(SHAPE)
    body = ((y - 15) / 12) ** 2 + ((x - 24) / 16) ** 2 < 1
    airway = (y - 12) ** 2 + (x - 24) ** 2 < 40  # from end to end of the scan
    hu = np.where(body & ~airway, 0.0, -1024.0)
    return FRAME.value(torch.from_numpy(hu))[None], torch.from_numpy(body)


@pytest.mark.parametrize(
    ("orientation", "order", "expected"),
    [
        ("LPI", (1, 0, 2), ((0, 1), 1)),
        ("LPS", (0, 1, 2), ((1, 1), 0)),
        ("RAS", (0, 1, 2), ((1, -1), 0)),
        ("PIR", (2, 0, 1), ((0, 1), 2)),
    ],
)
def test_the_back_is_where_the_axes_say(orientation, order, expected):
    frame = Frame.of(plans(order=order), "3d_fullres", orientation)
    assert (frame.posterior, frame.height) == expected
    assert float(frame.value(500.0)) == 1 and float(frame.value(-2000.0)) == float(frame.value(-990.0))


def test_nothing_is_put_around_other_images():
    assert Frame.of(plans(scheme="ZScoreNormalization"), "3d_fullres", "LPI") is None
    assert Frame.of(plans(lowest=-160.0), "3d_fullres", "LPI") is None, "air is clipped"
    assert Frame.of(plans(), "3d_fullres", None) is None


def test_airways_are_not_outside():
    image, body = patient()
    assert torch.equal(outside_of(image[0] <= FRAME.value(-900), FRAME.height), ~body)
    assert not outside_of(torch.zeros(SHAPE, dtype=torch.bool), 0).any()


def test_the_body_stays_and_a_table_lies_behind_it():
    image, body = patient()
    before = image.clone()
    made = Surroundings(FRAME)._apply_to_image(image, **EVERYTHING)
    assert torch.equal(image, before)
    assert torch.equal(made[0][body], before[0][body])
    hu = made[0] * FRAME.deviation + FRAME.mean
    assert hu.min() >= FRAME.lowest - 1e-3
    back = int(body.nonzero()[:, 0].max())
    profile = hu.mean(dim=(1, 2))[back + 1 :]
    assert {int(place) for place in (profile > 100).nonzero()} == {4, 9}, "the table's shells, behind the rest"
    assert (profile[5:9] < -850).all()
    mask = (~body) & ((hu + 300).abs() < 100)
    assert mask.nonzero()[:, 0].float().mean() < 12 < 15 < ((hu + 700).abs() < 100).nonzero()[:, 0].float().mean()
    air = hu[0]
    assert 0.3 < (air > -1000).float().mean() < 0.7 and air[air > -1000].std() > 5


def test_patches_without_surroundings_stay():
    inside = torch.zeros(1, *SHAPE)
    erased = FRAME.value(torch.full((1, *SHAPE), -1024.0))
    for image in (inside, erased):
        assert torch.equal(Surroundings(FRAME)._apply_to_image(image, **EVERYTHING), image)


def test_beyond_the_scan_there_is_padding_and_no_label():
    np.random.seed(0)
    image, label = torch.ones(1, *SHAPE), torch.ones(1, *SHAPE, dtype=torch.int16)
    for _ in range(20):
        made = FieldOfView()(image=image.clone(), segmentation=label.clone())
        lost = made["image"] == 0
        assert torch.equal(made["segmentation"] == -1, lost)
        assert 0 < lost.float().mean() <= 0.5


def test_sharpening_keeps_what_is_even():
    image = torch.ones(1, *SHAPE)
    image[..., 24:] = 2
    made = Sharper()._apply_to_image(image, strength=1.0)
    torch.testing.assert_close(made[..., :22], image[..., :22])
    assert made[..., 24].mean() > 2.2 and made[..., 23].mean() < 0.8


def test_all_transforms_together_keep_shape_and_labels():
    np.random.seed(0)
    torch.manual_seed(0)
    image, body = patient()
    transform = training_transforms(SHAPE, frame=FRAME)
    for _ in range(30):
        made = transform(image=image.clone(), segmentation=(3 * body).to(torch.int16)[None])
        assert made["image"].shape == image.shape and torch.isfinite(made["image"]).all()
        assert set(made["segmentation"].unique().tolist()) <= {0, 3}
