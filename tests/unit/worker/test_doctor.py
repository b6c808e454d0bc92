"""What the worker's doctor makes of facts, of model folders and of Redis."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from producer.broker.embedded import EmbeddedBroker
from producer.broker.findings import Finding
from tests.models import random_model, save_random_model, save_tokenizer, tiny_model_paths
from worker import cli
from worker.doctor import examine, judge_cuda, judge_memory
from worker.engine.loading import driver, facts
from worker.engine.loading.facts import MemoryFacts
from worker.engine.loading.memory import Room

from .engine.text.piece_tokenizers import save_piece_tokenizer

GIB = 2**30


@pytest.mark.parametrize(
    ("built_for", "driver", "state", "said"),
    [
        ("12.8", "12.8", "ok", "for CUDA 12.8; the driver serves up to 12.8"),
        ("12.8", "13.0", "ok", "up to 13.0"),
        ("12.8", "12.4", "warning", "may need a newer driver"),
        ("13.0", "12.9", "wrong", "a driver for CUDA 13, or a build of torch for CUDA 12"),
        ("12.8", None, "wrong", "for CUDA 12.8; there is no NVIDIA driver: install it"),
        (None, "12.8", "warning", "without CUDA"),
        (None, None, "warning", "without CUDA"),
    ],
)
def test_torch_against_the_driver(built_for: str | None, driver: str | None, state: str, said: str) -> None:
    found = judge_cuda("2.13.0", built_for, driver)
    assert (found.name, found.state) == ("torch", state)
    assert said in found.message


class TestGpu:
    """What torch.cuda answers is set."""

    @pytest.fixture(autouse=True)
    def gpu(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # the model first: it is made on a CPU
        for name, answer in {
            "is_available": True,
            "device_count": 1,
            "get_device_name": "Tesla T4",
            "get_device_capability": (7, 5),
            "get_arch_list": ["sm_75", "sm_90"],
            "mem_get_info": (14 * GIB, 15 * GIB),
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_device, answer=answer: answer)
        monkeypatch.setattr(driver, "nvml_fault", lambda: None)

    def test_that_can_be_used(self, folder: Path) -> None:
        findings = found(model_path=folder, device="cuda:0")
        assert findings["device"].state == "ok"
        assert findings["device"].message == "cuda:0, Tesla T4, sm_75"
        assert "of weights in float16; cuda:0 has 14.0 GiB free" in findings["memory"].message
        assert "NVML" not in findings

    def test_that_this_build_of_torch_has_no_kernels_for(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
        findings = found(model_path=folder, device="cuda:0")
        assert findings["device"].state == "wrong"
        assert "no kernels (it has sm_90)" in findings["device"].message

    def test_that_does_not_compute_in_what_is_asked_for(self, folder: Path) -> None:
        findings = found(model_path=folder, device="cuda:0", dtype="bfloat16")
        assert findings["dtype"].state == "wrong"
        assert "leave dtype at auto" in findings["dtype"].message

    def test_whose_driver_lacks_nvml(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver, "nvml_fault", lambda: driver.Fault("NVML is missing", "install it"))
        findings = found(model_path=folder, device="cuda:0")
        assert findings["NVML"].state == "warning"
        assert findings["NVML"].message.startswith("NVML is missing: install it")


@pytest.mark.parametrize(
    ("free_gib", "context_that_fits", "state", "said"),
    [
        (78, 600_000, "ok", "whole context of 32,768"),
        (18, 20_000, "ok", "about 20,000 of the model's 32,768"),
        (10, -1, "wrong", "too little"),
        (15, 3, "wrong", "take a smaller model, dtype"),
    ],
)
def test_memory_against_the_model(free_gib: int, context_that_fits: int, state: str, said: str) -> None:
    memory = MemoryFacts(
        dtype="bfloat16",
        weights_bytes=15 * GIB,
        free_bytes=free_gib * GIB,
        model_context=32_768,
        context_that_fits=context_that_fits,
        smaller={"int8": 8 * GIB, "int4": 5 * GIB},
    )
    found = judge_memory("cuda:0", memory)
    assert (found.name, found.state) == ("memory", state)
    assert said in found.message
    assert f"cuda:0 has {free_gib}.0 GiB free" in found.message
    in_small_forms = "with engine.weights, weights take: int8 8.0 GiB, int4 5.0 GiB"
    assert (in_small_forms in found.message) == (context_that_fits < 32_768), "where it would help"


@pytest.mark.parametrize(
    ("tokens", "state", "said"),
    [
        ("128", "ok", "whole context of 512"),
        ("513", "wrong", "context_length 513 cannot be: this model takes 16 to 512 tokens"),
        ("400", "wrong", r"context_length 400 does not fit: .* Set context_length to 300 or less"),
    ],
)
def test_a_context_length_that_a_worker_would_refuse(
    tokens: str, state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_random_model(tmp_path / "short", context_length=512)
    room = 300 if tokens == "400" else 10_000
    monkeypatch.setattr(facts, "room_in", lambda *_: Room(most=room, usual=room))
    monkeypatch.setenv("GENQUEUE_ENGINE__CONTEXT_LENGTH", tokens)
    memory = found(model_path=folder)["memory"]
    assert memory.state == state
    assert re.search(said, memory.message)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither of the environment nor of a file."""
    for name in ("GENQUEUE_MODEL_NAME", "GENQUEUE_MODEL_PATH", "GENQUEUE_DEVICE", "GENQUEUE_MODEL_PATHS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "worker.yaml").write_text("{}\n")
    monkeypatch.setenv("GENQUEUE_CONFIG", str(tmp_path / "worker.yaml"))


def found(**options: object) -> dict[str, Finding]:
    """By name; each is found once."""
    findings = list(examine(None, with_redis=False, **{"device": "cpu", **options}))
    by_name = {finding.name: finding for finding in findings}
    assert len(by_name) == len(findings)
    return by_name


def states(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.state for name, finding in findings.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return save_random_model(tmp_path / "mine")


def test_a_whole_model(folder: Path) -> None:
    findings = found(model_path=folder)
    assert states(findings) == dict.fromkeys(
        ["Python", "torch", "device", "config.json", "weights", "memory", "tokenizer", "chat template"], "ok"
    )
    assert (
        f"{sum(p.numel() for p in random_model().parameters()) / 1e6:,.1f}M parameters"
        in findings["weights"].message
    )


def test_a_base_model(folder: Path) -> None:
    for name in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    save_tokenizer(folder, chat_template=False)
    assert found(model_path=folder)["chat template"].state == "warning"


@pytest.mark.parametrize(("options", "state"), [({}, "warning"), ({"device": "cuda:0"}, "wrong")])
def test_a_gpu_that_nobody_asked_for_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], state: str
) -> None:
    """Without a model and a device it is tiny that is looked at, which `genqueue up` runs on the CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("GENQUEUE_MODEL_PATHS", str(tiny_model_paths()))
    findings = found(**{"device": None, **options})
    assert findings["device"].state == state
    assert ("`genqueue up` takes the CPU" in findings["device"].message) == (state == "warning")


def test_what_is_wrong_keeps_nothing_else_from_being_looked_at(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "tokenizer.json").write_text("{}")
    findings = found(model_path=folder, device="cuda:99")
    wrong = {name for name, state in states(findings).items() if state == "wrong"}
    assert wrong == {"device", "weights", "tokenizer"} | ({"torch"} & wrong)
    assert "was cut off" in findings["weights"].message
    assert "download it again" in findings["weights"].message


def test_a_model_that_generates_no_text(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')
    findings = found(model_path=folder)
    assert {name for name, state in states(findings).items() if state == "wrong"} == {"model"}
    assert "a t5 model has an encoder" in findings["model"].message


def test_a_config_that_is_cut_off_is_said_once(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen2",')
    findings = found(model_path=folder)
    assert {name for name, state in states(findings).items() if state == "wrong"} == {"config.json"}


def test_a_tokenizer_of_sentencepieces_kind(folder: Path) -> None:
    save_piece_tokenizer(folder, "Gemma")
    findings = found(model_path=folder)
    assert findings["tokenizer"].message == "SentencePiece's kind, 276 tokens"


def test_a_model_that_is_not_there() -> None:
    findings = found(model_path=Path("/no/such/folder"))
    assert findings["model"].state == "wrong"
    assert "hf download" in findings["model"].message


def test_without_a_model_it_is_tiny(tmp_path: Path) -> None:
    (tmp_path / "paths.yaml").write_text("tiny: tiny\n")
    model = found(model_paths=tmp_path / "paths.yaml")["model"]
    assert (model.state, "trained on its first use" in model.message) == ("ok", True)
    assert found(model_paths=tiny_model_paths())["weights"].state == "ok"


def test_a_setting_that_cannot_be() -> None:
    assert states(found(model_name="tiny", threads=0)) == {"Python": "ok", "settings": "wrong"}


def test_redis_is_looked_at_as_a_worker_uses_it(broker: EmbeddedBroker, folder: Path) -> None:
    findings = list(examine(None, with_redis=True, model_path=folder, device="cpu", redis_url=broker.url))
    assert [finding.name for finding in findings[1:6]] == ["Redis", "persistence", "eviction", "clocks", "rights"]
    assert "worker" in findings[5].message


def test_a_server_that_is_not_there(folder: Path) -> None:
    with EmbeddedBroker() as gone:
        url = gone.url
    findings = list(examine(None, with_redis=True, model_path=folder, device="cpu", redis_url=url))
    assert findings[1].state == "wrong"
    assert findings[-1].name == "chat template"


def test_the_command_prints_what_it_found_and_its_exit_code_says_whether_all_is_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[int, str]:
        command = ["python -m worker", "doctor", "--no-redis", "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    code, out = run("--model-path", str(folder), "--json")
    assert code == 0
    assert {each["state"] for each in json.loads(out)} == {"ok"}
    code, out = run("--model-path", "/no/such/folder")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["ok", "ok", "ok", "wrong"]
