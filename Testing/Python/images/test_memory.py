"""Results that do not fit into memory are refused before anything is computed."""

import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.memory import check_memory, check_tile, lazy_zeros
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import tiny
from support.dicom_files import hounsfield, write_slices


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes of memory and of swap space are free."""

    def set_free(memory: int, swap: int = 0) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=swap))

    return set_free


def test_what_fits_is_allowed_to_the_last_byte(free):
    free(1000 * 17)
    check_memory(1000, labels=2)
    free(1000 * 17 - 1, swap=1)
    check_memory(1000, labels=2)
    free(1000 * 17 - 1)
    with pytest.raises(SettingsError):
        check_memory(1000, labels=2)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.mha", "dicom"])
def test_image_that_does_not_fit_is_refused_before_it_is_read(free, tmp_path, name):
    if name == "dicom":
        write_slices(tmp_path / name, hounsfield())
    else:
        sitk.WriteImage(tiny.make_ct(), tmp_path / name)
    free(1000)
    with pytest.raises(SettingsError, match=r"The image needs 0\.0 GB of memory, but only 0\.0 GB are free; close"):
        read_image(tmp_path / name)
    free(10**9)
    read_image(tmp_path / name)


def test_where_nobody_knows_what_is_free_nothing_is_refused(free, monkeypatch):
    free(0)

    def fail():
        raise RuntimeError("PdhAddEnglishCounterW failed. Performance counters may be disabled.")

    monkeypatch.setattr(psutil, "swap_memory", fail)
    check_memory(1000, labels=1)


def test_results_that_are_held_twice_take_twice_as_much(free):
    free(2 * 1000 * 9 - 1)
    check_memory(1000, labels=1)
    with pytest.raises(SettingsError):
        check_memory(1000, labels=1, holders=2)


def test_nothing_is_computed_for_results_that_do_not_fit(free, tmp_path, monkeypatch):
    model = tiny.make_model_folder(tmp_path / "model")
    predictor = Predictor(model, PredictionSettings(device="cpu"))
    monkeypatch.setattr(predictor, "_window", lambda: pytest.fail("it was computed"))
    free(9)
    with pytest.raises(SettingsError, match="close other programs"):
        predictor.predict(tiny.make_ct((12, 20, 20)))


def test_a_tile_that_does_not_fit_is_refused_before_it_is_computed(free, tmp_path, monkeypatch):
    """The tile counts, not the image: that is padded to it."""
    needed = 3 * 1024 * 1024 * 32 * 4 * 4
    free(needed)
    check_tile((1024, 1024, 32), 4, 4)
    free(needed - 1)
    with pytest.raises(SettingsError):
        check_tile((1024, 1024, 32), 4, 4)
    plans = tiny.make_plans((512, 512, 96))
    model = load_model(tiny.make_results_folder(tmp_path / "large", plans=plans))
    predictor = Predictor(model, PredictionSettings(device="cpu"))
    monkeypatch.setattr(predictor, "_window", lambda: pytest.fail("it was computed"))
    free(500 * 10**6)
    with pytest.raises(SettingsError, match="tiles of 512 x 512 x 96 voxels"):
        predictor.predict(tiny.make_ct((12, 20, 20)))


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages of Linux")
def test_of_lazy_zeros_only_what_is_written_to_takes_memory():
    before = psutil.Process().memory_info().rss
    maps = [lazy_zeros((2, 100, 512, 512), np.float32) for _ in range(2)]  # 0.4 GB
    for each in maps:
        each[1, ::10, 200:220] = 1
    assert psutil.Process().memory_info().rss - before < 20e6
    assert all(each.sum() == 10 * 20 * 512 for each in maps)
    assert maps[0].shape == (2, 100, 512, 512) and maps[0].flags.writeable and maps[0].dtype == np.float32
    assert lazy_zeros((0, 3), np.uint8).shape == (0, 3)
