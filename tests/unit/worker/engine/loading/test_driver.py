"""Why there is no GPU. What the driver and its libraries answer is set."""

import ctypes

import pytest
import torch

from worker.engine.loading.driver import VISIBLE_DEVICES, driver_cuda, driver_fault, nvml_fault, why_no_gpu

TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please …"


class Libraries:
    """Of the driver, as a process finds them. Those that are None are missing."""

    def __init__(self) -> None:
        self.cuda: int | None = 12080
        self.nvml: int | None = 0
        self.fails = 0

    def load(self, name: str) -> object:
        answer = {"libcuda.so.1": self.cuda, "libnvidia-ml.so.1": self.nvml}[name]
        if answer is None:
            raise OSError(f"{name}: cannot open shared object file")
        return self

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802
        version._obj.value = self.cuda
        return self.fails

    def nvmlInit_v2(self) -> int | None:  # noqa: N802
        return self.nvml


@pytest.fixture
def libraries(monkeypatch) -> Libraries:
    """A driver that is whole, and a build of torch for its CUDA."""
    libraries = Libraries()
    monkeypatch.setattr(ctypes, "CDLL", libraries.load)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.delenv(VISIBLE_DEVICES, raising=False)
    return libraries


def test_a_build_without_cuda(libraries, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_gpu([]).why == "this build of torch has no CUDA"


def test_no_driver(libraries):
    libraries.cuda = None
    fault = why_no_gpu([])
    assert fault.why == "there is no NVIDIA driver"
    assert "--gpus all" in fault.advice


def test_a_driver_that_does_not_tell_its_version(libraries):
    libraries.fails = 999
    assert driver_cuda() is None


def test_a_driver_that_is_too_old(libraries):
    libraries.cuda = 11040
    fault = why_no_gpu([TOO_OLD])
    assert fault.why == "the driver serves CUDA up to 11.4, and this build of torch is for 12.8"
    assert "install a driver for CUDA 12, or a build of torch for CUDA 11" in fault.advice


@pytest.mark.parametrize("served", ["12.0", "12.8", "13.0"])
def test_any_driver_of_the_same_major_version_will_do(served: str):
    assert driver_fault("12.8", served) is None


@pytest.mark.parametrize(("names", "said"), [("", "is empty"), (" ", "is empty"), ("-1", "is '-1'")])
def test_every_gpu_is_hidden(libraries, monkeypatch, names, said):
    monkeypatch.setenv(VISIBLE_DEVICES, names)
    fault = why_no_gpu([])
    assert fault.why == f"CUDA_VISIBLE_DEVICES {said}, which hides every GPU"
    assert "unset it" in fault.advice


@pytest.mark.parametrize("names", ["7", "GPU-0123", "x"])
def test_a_gpu_is_called_by_a_name_that_it_has_not(libraries, monkeypatch, names):
    monkeypatch.setenv(VISIBLE_DEVICES, names)
    fault = why_no_gpu([])
    assert fault.why == f"CUDA_VISIBLE_DEVICES is {names!r}, and there is no such GPU that works"
    assert "nvidia-smi -L" in fault.advice


@pytest.mark.parametrize(
    ("answer", "why", "advice"),
    [
        (None, "the driver is not whole", "compute,utility"),
        (18, "libraries are newer than what runs", "restart the machine"),
        (9, "installed and not loaded", "modprobe"),
        (999, "NVML fails with error 999", "nvidia-smi"),
    ],
)
def test_without_nvml(libraries, answer, why, advice):
    libraries.nvml = answer
    fault = why_no_gpu([])
    assert fault == nvml_fault()
    assert why in fault.why
    assert advice in fault.advice


def test_nvml_that_works_is_no_fault(libraries):
    assert nvml_fault() is None


def test_anything_else_in_torchs_own_words(libraries):
    said = "CUDA initialization: Error 802: system not yet initialized (Triggered internally at /a.cpp:1.)"
    assert why_no_gpu([said, "another"]).why == "it says: Error 802: system not yet initialized"
    assert why_no_gpu([]).why == "CUDA lists none"
