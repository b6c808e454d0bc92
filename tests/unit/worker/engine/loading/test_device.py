"""From --device to torch.device. What torch.cuda answers is set: it runs on a machine with any GPU or none."""

import warnings

import pytest
import torch

from tests.models import CPU, random_model
from worker.engine import Engine, Tokenizer, resolve_device
from worker.engine.loading import driver
from worker.engine.loading.device import check_dtype, default_dtype, set_up_device
from worker.engine.loading.model_loader import torch_dtype
from worker.errors import ConfigError

GPU = torch.device("cuda", 0)
BUILT_FOR = ["sm_80", "sm_86", "sm_90a", "compute_100"]


@pytest.fixture
def gpus(monkeypatch):
    """Say how many GPUs there are, and what they are."""

    def set_up(count: int, name: str = "Some GPU", capability: tuple[int, int] = (8, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT_FOR)

    return set_up


def test_cpu():
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_that_is_there(gpus, name, index):
    gpus(2)
    assert resolve_device(name) == torch.device("cuda", index)


def test_cuda_on_a_machine_without_it(gpus):
    gpus(0)
    with pytest.raises(
        ConfigError, match=r"'cuda:7' cannot be used: .* no CUDA GPU, because .*\. Use --device cpu, or"
    ):
        resolve_device("cuda:7")


@pytest.mark.parametrize("how", ["warns", "raises"])
def test_what_torch_says_is_the_reason_and_goes_nowhere_else(how, gpus, monkeypatch):
    """Where its warnings are errors, as in this suite, it would have raised one."""
    gpus(0)

    def is_available() -> bool:
        if how == "raises":
            raise RuntimeError("CUDA initialization: the driver is asleep\nDetails follow")
        warnings.warn("CUDA initialization: the driver is asleep", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    for fault in ("build_fault", "nvml_fault"):
        monkeypatch.setattr(driver, fault, lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        ConfigError, match=r"because it says: the driver is asleep\. Use --device cpu, or check nvidia"
    ):
        resolve_device("cuda")


@pytest.mark.parametrize(("count", "usable"), [(1, r"1 GPU\(s\), cuda:0$"), (4, "cuda:0 to cuda:3")])
def test_an_index_beyond_the_last_gpu(gpus, count, usable, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus(count)
    with pytest.raises(ConfigError, match=usable):
        resolve_device("cuda:7")


def test_an_index_beyond_those_that_may_be_seen(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,9")
    gpus(1)
    with pytest.raises(ConfigError, match=r"'cuda:1' is not there.*cuda:0 \(CUDA_VISIBLE_DEVICES is '1,9'\)"):
        resolve_device("cuda:1")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:¹", "cpu:0", "CUDA:0", "mps"])
def test_nonsense(gpus, name):
    gpus(1)
    with pytest.raises(ConfigError, match="use cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(
            "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors …"
        ),
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
    ],
)
def test_a_card_that_does_not_answer(gpus, monkeypatch, error):
    gpus(1)

    def busy(_device: torch.device) -> tuple[int, int]:
        raise error

    monkeypatch.setattr(torch.cuda, "get_device_capability", busy)
    with pytest.raises(
        ConfigError, match=r"'cuda' cannot be used: CUDA error: all .* unavailable\. See with nvidia-smi"
    ):
        resolve_device("cuda")


class TestKernels:
    """Those of this build of torch; without any for the card, every operation would fail."""

    @pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
    def test_that_run_there(self, gpus, capability):
        gpus(1, capability=capability)
        assert resolve_device("cuda") == GPU

    @pytest.mark.parametrize("capability", [(5, 2), (7, 0), (7, 5), (9, 1)])
    def test_that_do_not(self, gpus, capability):
        gpus(1, "Tesla V100", capability)
        sm = "".join(map(str, capability))
        with pytest.raises(
            ConfigError,
            match=rf"cuda:0 is a Tesla V100 \(sm_{sm}\), .* no kernels \(it has sm_80, .*\): install one that has",
        ):
            resolve_device("cuda")

    def test_of_which_nothing_is_known(self, gpus, monkeypatch):
        gpus(1)
        for built_for in ([], ["gfx90a"]):
            monkeypatch.setattr(torch.cuda, "get_arch_list", lambda built_for=built_for: built_for)
            assert resolve_device("cuda") == GPU


class TestDtype:
    @pytest.mark.parametrize(
        ("capability", "dtype"),
        [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
    )
    def test_auto_is_what_the_card_computes_in(self, gpus, capability, dtype):
        gpus(1, capability=capability)
        assert default_dtype(GPU) == torch_dtype("auto", GPU) == dtype

    def test_auto_on_a_cpu(self):
        assert torch_dtype("auto", CPU) == torch.float32

    def test_bfloat16_on_an_older_card_is_refused(self, gpus):
        gpus(1, "Tesla T4", (7, 5))
        with pytest.raises(
            ConfigError,
            match=r"cuda:0 is a Tesla T4, .*not compute in bfloat16 .*this is 7\.5\): leave dtype at auto",
        ):
            torch_dtype("bfloat16", GPU)

    @pytest.mark.parametrize("name", ["float16", "float32"])
    def test_the_others_are_not(self, gpus, name):
        gpus(1, capability=(7, 5))
        assert torch_dtype(name, GPU) == getattr(torch, name)

    def test_bfloat16_elsewhere(self, gpus):
        gpus(1)
        check_dtype(torch.bfloat16, GPU)
        check_dtype(torch.bfloat16, CPU)


class TestSetUp:
    @pytest.fixture(autouse=True)
    def backends(self, monkeypatch):
        """As torch has them at its start, and again after the test; the device that is made current."""
        cuda = torch.backends.cuda
        before = cuda.cudnn_sdp_enabled()
        cuda.enable_cudnn_sdp(True)
        self.current = []
        monkeypatch.setattr(torch.cuda, "set_device", self.current.append)
        yield
        cuda.enable_cudnn_sdp(before)

    @staticmethod
    def enabled() -> tuple[bool, ...]:
        cuda = torch.backends.cuda
        return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()

    def test_of_a_gpu_turns_cudnns_attention_off_and_no_other(self):
        others = self.enabled()
        set_up_device(GPU)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert self.enabled() == others
        assert self.current == [GPU]

    def test_of_a_cpu_leaves_everything_as_it_is(self):
        set_up_device(CPU)
        assert torch.backends.cuda.cudnn_sdp_enabled()
        assert self.current == []

    def test_is_done_wherever_an_engine_is_made(self, tokenizer: Tokenizer, monkeypatch):
        """It was done in the worker's engine process alone, and not in a script's own, nor in the benchmark."""
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 0))
        with pytest.raises(ConfigError, match="too little"):
            Engine(random_model(), tokenizer, GPU)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
