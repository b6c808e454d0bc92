"""What an error says of memory and of the device, in the words that torch and the libraries behind it use."""

import errno

import pytest
import torch

from tests.models import CPU
from worker.engine.faults import chain, device_answers, is_device_fault, is_out_of_memory, memory_for_the_model
from worker.errors import ConfigError

GPU = torch.device("cuda", 0)


def accelerator_error(message: str, code: int | None = None) -> Exception:
    """As torch raises it: the code is set where it is known."""
    error = torch.AcceleratorError(message)
    if code is not None:
        error.error_code = code
    return error


NO_MEMORY = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
    "torch, by its code": accelerator_error("CUDA error: the text is another one", 2),
    "torch, by its words": accelerator_error(
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/…"
    ),
    "the driver": RuntimeError("CUDA driver error: out of memory"),
    "Triton": RuntimeError("Triton Error [CUDA]: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuBLAS, as the code of its own": RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `…`"),
    "cuDNN 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "the compiler": RuntimeError("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    "a tensor on the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "1152921504606846976 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "a mapped file": RuntimeError("unable to mmap 988097824 bytes from file </m>: Cannot allocate memory (12)"),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
FAULTS = {
    "an illegal address": accelerator_error(
        "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in …", 700
    ),
    "an assert": accelerator_error("CUDA error: device-side assert triggered", 710),
    "a launch that failed": accelerator_error("CUDA error: unspecified launch failure", 719),
    "ECC": accelerator_error("CUDA error: uncorrectable ECC error encountered", 214),
    "before there was a class": RuntimeError("CUDA error: misaligned address"),
    "the driver": RuntimeError("CUDA driver error: an illegal instruction was encountered"),
    "Triton": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
}
NEITHER = {
    "a misfit": RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
    "another error with these words": ValueError("DefaultCPUAllocator: CUDA error: out of memory"),
    "a file": OSError(errno.ENOENT, "No such file"),
    "a build without CUDA": AssertionError("Torch not compiled with CUDA enabled"),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_out_of_memory(error: Exception):
    assert is_out_of_memory(error)
    assert not is_device_fault(error), "the device is as good as it was"


@pytest.mark.parametrize("error", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_device(error: Exception):
    assert is_device_fault(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", NEITHER.values(), ids=NEITHER)
def test_what_is_neither(error: Exception):
    assert not is_device_fault(error)
    assert not is_out_of_memory(error)


def test_out_of_memory_of_this_machine():
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60, dtype=torch.int8)
    with pytest.raises(RuntimeError) as misfit:
        torch.zeros(2) @ torch.zeros(3)
    assert is_out_of_memory(too_much.value)
    assert not is_out_of_memory(misfit.value)


def raised(outer: Exception, inner: Exception, *, how: str) -> Exception:
    """`outer`, as it is after `inner` has led to it."""
    outer.__context__ = inner  # as Python does in any case
    outer.__cause__ = inner if how == "from it" else None
    outer.__suppress_context__ = how != "while it was handled"
    return outer


@pytest.mark.parametrize(
    ("how", "is_seen"), [("from it", True), ("while it was handled", True), ("instead of it", False)]
)
def test_what_led_to_an_error_counts(how: str, is_seen: bool):
    compiler = raised(RuntimeError("backend='inductor' raised:"), torch.OutOfMemoryError("CUDA …"), how=how)
    tidying = raised(ValueError("no such slot"), accelerator_error("CUDA error: …", 700), how=how)
    assert is_out_of_memory(compiler) is is_seen
    assert is_device_fault(tidying) is is_seen


def test_a_fault_while_a_lack_of_memory_was_handled_is_one():
    both = raised(
        accelerator_error("CUDA error: …", 700), torch.OutOfMemoryError("CUDA …"), how="while it was handled"
    )
    assert is_device_fault(both)


def test_errors_that_led_to_each_other_have_an_end():
    some, other = ValueError(), KeyError()
    some.__cause__, other.__cause__ = other, some
    assert list(chain(some)) == [some, other]


class TestDeviceAnswers:
    def test_of_a_cpu(self):
        assert device_answers(CPU)

    def test_of_a_gpu(self, monkeypatch):
        asked = []
        monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
        assert device_answers(GPU)
        assert asked == [GPU]

    def test_of_a_gpu_that_has_failed(self, monkeypatch):
        def fail(_device: torch.device) -> None:
            raise accelerator_error("CUDA error: an illegal memory access was encountered", 700)

        monkeypatch.setattr(torch.cuda, "synchronize", fail)
        assert not device_answers(GPU)


def test_no_memory_for_a_model_is_said_in_words():
    said = "cuda:0 has not the memory for this model: free memory there, or use a"
    with pytest.raises(ConfigError, match=said), memory_for_the_model("cuda:0"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shapes"), memory_for_the_model("cuda:0"):
        raise RuntimeError("shapes")
