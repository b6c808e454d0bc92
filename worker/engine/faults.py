"""What an error says of memory and of the device.

    out of memory    the job's own: it fails, and the next one runs
    a device fault   the process's: nothing that it does on the device succeeds any more; a new one can go on

torch has classes for a part of them. The rest are RuntimeErrors of libraries and are known by their words, or hide
behind an error of a compiler.
Sources: pytorch, c10/cuda/CUDAException.cpp, aten/src/ATen/cuda/Exceptions.h, aten/src/ATen/cudnn/Exceptions.h,
c10/core/impl/alloc_cpu.cpp; triton, third_party/nvidia/backend/driver.c.
"""

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from producer.contract import OutOfMemory

from ..errors import ConfigError

_CUDA_ERROR_MEMORY_ALLOCATION = 2  # driver_types.h
_NO_MEMORY = re.compile(
    r"(CUDA|HIP|Triton).*\bout of memory"  # also in place of `CUDA error: `, for pinned memory of the host
    r"|_STATUS_\w*ALLOC(ATION)?_FAILED"  # cuBLAS, cuDNN, cuSOLVER
    r"|DefaultCPUAllocator|std::bad_alloc|Cannot allocate memory"
)
_FAULT = re.compile(r"(CUDA|HIP)( driver)? error|Triton Error \[(CUDA|HIP)\]|CU[A-Z]+_STATUS_[A-Z]")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for a tensor, on the device or in host memory; also as a cause."""
    return any(map(_is_no_memory, chain(error)))


def out_of_memory(error: Exception, tokens: int) -> OutOfMemory:
    """What is said of a generation that had no memory at so many tokens. Lets go of the memory that it holds."""
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
    torch.cuda.empty_cache()  # fragments may be what was in the way; without a GPU this does nothing
    return OutOfMemory(
        f"the device ran out of memory at {tokens} tokens: shorten the prompt or lower max_new_tokens"
    )


def is_device_fault(error: BaseException) -> bool:
    """Whether the device has failed: an illegal address, an assert, a launch that failed, ECC; also as a cause."""
    return any(_is_fault(link) and not _is_no_memory(link) for link in chain(error))


def device_answers(device: torch.device) -> bool:
    """Whether what was launched on the device came to its end. A fault stays, whatever the first error said."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


@contextmanager
def memory_for_the_model(device: str) -> Iterator[None]:
    """For loading a model: a lack of memory is a ConfigError, which says what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{device} has not the memory for this model: free memory there, or use a smaller model, a smaller "
            "dtype or form of weights (engine.weights int8 or int4), or a shorter context_length"
        ) from error


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from, as a traceback shows them."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_no_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    return (
        getattr(error, "error_code", None) == _CUDA_ERROR_MEMORY_ALLOCATION
        or _NO_MEMORY.search(str(error)) is not None
    )


def _is_fault(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError | torch.cuda.CudaError) or (
        isinstance(error, RuntimeError) and _FAULT.search(str(error)) is not None
    )
