"""Which device is taken, on computers that pretend to have others."""

import pytest
import torch

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.inference.devices import (
    autocast_dtype,
    cuda_settings,
    exact_dtype,
    select_device,
    uploaded,
    wide_precision,
)
from MoBUncertaintyLib.regions.prediction import Precision

CUDA = ["sm_75", "sm_80", "sm_90a", "compute_90"]


def pretend(monkeypatch, capability: tuple[int, int], built: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)


@pytest.mark.parametrize(
    ("capability", "built", "taken"),
    [
        ((8, 6), CUDA, "cuda"),  # code for 8.0 runs on 8.6
        ((9, 0), CUDA, "cuda"),
        ((12, 0), CUDA, "cuda"),  # compiled when it is loaded, from compute_90
        ((12, 0), ["sm_75", "sm_80"], "cpu"),  # too new
        ((6, 1), CUDA, "cpu"),  # too old
        ((9, 4), ["gfx90a", "gfx942"], "cuda"),  # AMD
        ((8, 0), [], "cuda"),  # unknown
    ],
)
def test_auto_takes_a_gpu_that_pytorch_has_code_for(monkeypatch, capability, built, taken):
    pretend(monkeypatch, capability, built)
    assert select_device("auto").type == taken
    if taken == "cpu":
        with pytest.raises(SettingsError):
            select_device("cuda")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    pretend(monkeypatch, (8, 0), CUDA)
    assert select_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(SettingsError):
        select_device("cuda:3")
    with pytest.raises(SettingsError):
        select_device("tpu")


def test_auto_on_cuda_is_float16_as_in_nnunet_and_fits_take_the_wider_format(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert autocast_dtype(torch.device("cuda")) is torch.float16
    assert wide_precision(torch.device("cuda")) is Precision.BFLOAT16
    assert wide_precision(torch.device("cpu")) is Precision.AUTO
    assert exact_dtype(torch.device("cpu")) is exact_dtype(torch.device("cuda")) is torch.float64
    assert exact_dtype(torch.device("mps")) is torch.float32


def test_float32_on_cuda_is_no_tf32_and_convolutions_are_tried_out() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    with cuda_settings():
        assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == (True, False, False)
    assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == before


def test_a_tile_is_copied_to_cuda_from_pinned_memory_without_waiting(monkeypatch) -> None:
    whole, cuda, empty = torch.rand(2, 6, 6), torch.device("cuda"), torch.empty
    pinned, copies = [], []
    monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory, **options: pinned.append(empty(*sizes)) or pinned[0])
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *where, **how: copies.append((tensor, where, how)))
    uploaded(whole[:, 1:4, 2:5], cuda)
    assert copies == [(pinned[0], (cuda,), {"non_blocking": True})]
    assert torch.equal(pinned[0], whole[:, 1:4, 2:5])


def test_on_the_cpu_a_tile_stays_where_it_is() -> None:
    whole = torch.rand(2, 6, 6)
    assert uploaded(whole, torch.device("cpu")) is whole
