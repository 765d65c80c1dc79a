"""torch's CUDA path on a stand-in for a GPU: what it refuses, and a GPU or library that fails."""

import pytest
import torch

from gatecore.backends.cuda import cublas, driver, nvrtc
from tests.cuda.torch_calls import called, case, warm


@pytest.mark.parametrize(("time", "batch", "word"), [(5, 0, "batch 0"), (0, 2, "time 0")])
def test_an_empty_batch_or_sequence_is_not_for_the_kernels(gpu, time, batch, word):
    call = case(time=time or 1, batch=batch)
    call = call._replace(x=call.x[:time])
    with pytest.raises(ValueError, match=word):
        called(call, impl="fused")
    assert gpu.compiled == []


def test_memory_that_was_freed_is_refused(gpu):
    warm(gpu)
    for name in ("x", "weight_hh"):
        call = case()
        tensor = (call.x if name == "x" else call.params[name]).detach()
        tensor.untyped_storage().resize_(0)
        with torch.no_grad(), pytest.raises(ValueError, match=f"{name} of shape.*freed or resized"):
            called(call, "fused")


@pytest.mark.parametrize(
    ("argument", "change", "word"),
    [
        ("state", lambda c: c._replace(states=(c.states[0][:1], c.states[1])), "state must be"),
        ("weight", lambda c: c._replace(params=c.params | {"weight_hh": c.params["weight_ih"]}),
         "weight_hh must be"),
        ("device", lambda c: c._replace(params=c.params | {"bias": c.params["bias"].to("meta")}),
         r"bias must be .* on cpu, got .* on meta"),
        ("resets", lambda c: c._replace(resets=torch.ones(5, 2)), "resets must be torch.bool"),
        ("mask", lambda c: c._replace(zoneout=(torch.ones(2, 6), 0.5)), "zoneout mask must be"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_before_a_kernel_reads_them(
    gpu, argument, change, word
):
    warm(gpu)
    launched = len(gpu.launched)
    with pytest.raises(ValueError, match=word):
        called(change(case()), impl="fused")
    assert len(gpu.launched) == launched


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        ("compiler", "NVRTC_ERROR_COMPILATION"),
        ("module", r"cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE \(200\)"),
        ("launch", r"cuLaunchKernel: CUDA_ERROR_INVALID_VALUE \(1\)"),
        ("numbers", "wrong numbers when launched: relative error"),
    ],
)
def test_a_device_that_fails_its_test_is_passed_over_and_the_reason_is_kept(gpu, stage, word):
    gpu.fails.add(stage)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"'fused' is not available: a test of them.*{word}"):
            called(case(), impl="fused")
        assert called(case()).impl == "plain"
    assert len(gpu.compiled) == 1
    gpu.fails.clear()
    assert called(case()).impl == "plain"  # for the rest of the process


def test_a_compiler_newer_than_the_driver_is_not_used(gpu, monkeypatch):
    gpu.version = 12040
    monkeypatch.setattr(nvrtc, "library", lambda version: gpu if version == 13 else None)
    with pytest.raises(ValueError, match=r"NVRTC 13\.5 is newer than the driver.*CUDA 12\.4"):
        called(case(), impl="fused")
    assert gpu.compiled == []


@pytest.mark.parametrize(
    ("module", "error", "word"),
    [
        (driver, OSError("libcuda.so.1: cannot open shared object file"), "libcuda"),
        (cublas, OSError("none of libcublas.so.13 is loaded"), "libcublas"),
    ],
)
def test_without_a_library_the_reason_names_it(gpu, monkeypatch, module, error, word):
    def absent():
        raise error

    monkeypatch.setattr(module, "library", absent)
    with pytest.raises(ValueError, match=word):
        called(case(), impl="fused")


def test_without_a_compiler_the_reason_says_how_to_install_one(gpu, monkeypatch):
    monkeypatch.setattr(nvrtc, "library", lambda version: None)
    with pytest.raises(ValueError, match=r"NVRTC is missing.*pip install nvidia-cuda-nvrtc"):
        called(case(), impl="fused")
