"""From --device to torch.device. The counts of GPUs are set, so that it runs on a machine with any number."""

import pytest
import torch

from worker.engine import resolve_device
from worker.errors import ConfigError


@pytest.fixture
def gpus(monkeypatch):
    def set_count(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


def test_cpu():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_that_is_there(gpus, name, index):
    gpus(2)
    assert resolve_device(name) == torch.device("cuda", index)


def test_cuda_on_a_machine_without_it(gpus):
    gpus(0)
    with pytest.raises(ConfigError, match=r"'cuda:7' cannot be used: .* no CUDA GPU.*Use --device cpu"):
        resolve_device("cuda:7")


@pytest.mark.parametrize(("count", "usable"), [(1, r"1 GPU\(s\), cuda:0$"), (4, "cuda:0 to cuda:3")])
def test_an_index_beyond_the_last_gpu(gpus, count, usable):
    gpus(count)
    with pytest.raises(ConfigError, match=usable):
        resolve_device("cuda:7")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:¹", "cpu:0", "CUDA:0", "mps"])
def test_nonsense(gpus, name):
    gpus(1)
    with pytest.raises(ConfigError, match="use cpu, cuda or cuda:N"):
        resolve_device(name)
