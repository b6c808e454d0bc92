"""What `python -m worker doctor` looks at: torch and GPU, the model, and Redis as a worker uses it.

Facts come from where they are known; what they mean, and what is to be done, is decided here. What was found
wrong does not keep the rest from being looked at.
"""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from producer.broker.advice import broker_unavailable
from producer.broker.checkup import check_server
from producer.broker.connections import address, connect
from producer.broker.findings import Finding, judge_rights, size
from producer.contract import Keys
from producer.contract.version import VERSION
from producer.ledger.rights import refused, worker_needs

from .engine_options import MIN_CONTEXT
from .errors import ConfigError
from .extras import worker_extra
from .models.checkup import check_files
from .models.config_loader import TINY, find_model, untrained_tiny
from .progress import ShownProgress
from .settings import WorkerSettings, load_settings

if TYPE_CHECKING:
    from .engine.loading.facts import MemoryFacts

TIMEOUT_S = 5.0


def examine(config_file: Path | None, *, with_redis: bool, **options: Any) -> Iterator[Finding]:
    """Each finding as it comes.  options: those of the command line; without a model in any setting, tiny."""
    yield _finding("Python", "ok", f"{platform.python_version()}, genqueue {VERSION}, {sys.executable}")
    try:
        settings = _settings(config_file, options)
    except ConfigError as error:
        yield _finding("settings", "wrong", str(error))
        return
    if with_redis:
        yield from _check_redis(settings)
    try:
        with worker_extra(), ShownProgress() as shown:
            shown("importing torch", 0, 0)  # which takes seconds
            from .engine.loading import facts  # noqa: F401, PLC0415 - brings torch, which is looked for here
    except ConfigError as error:
        yield _finding("torch", "wrong", str(error))
        return
    yield from _check_torch(settings)


def judge_cuda(version: str, built_for: str | None, driver: str | None) -> Finding:
    """built_for: torch.version.cuda; driver: the newest CUDA that it serves; each None where there is none."""
    from .engine.loading.driver import driver_fault  # noqa: PLC0415

    if built_for is None:
        return _finding("torch", "warning", f"{version}, a build without CUDA: it runs on the CPU alone")
    if fault := driver_fault(built_for, driver):
        return _finding("torch", "wrong", f"{version}, for CUDA {built_for}; {fault.why}: {fault.advice}")
    assert driver is not None, "that is a fault"
    said = f"{version}, for CUDA {built_for}; the driver serves up to {driver}"
    wanted, served = (tuple(map(int, text.split("."))) for text in (built_for, driver))
    if served < wanted:
        return _finding("torch", "warning", f"{said}: kernels that are compiled here may need a newer driver")
    return _finding("torch", "ok", said)


def judge_memory(name: str, facts: "MemoryFacts") -> Finding:
    """name: of the device."""
    said = f"{size(facts.weights_bytes)} of weights in {facts.dtype}; {name} has {size(facts.free_bytes)} free"
    fits = facts.context_that_fits
    if fits < min(MIN_CONTEXT, facts.model_context):
        advice = "free memory there, or take a smaller model, dtype (--dtype bfloat16) or form of weights"
        return _finding("memory", "wrong", f"{said}, which is too little: {advice}{_in_small_forms(facts)}")
    if facts.refused:
        return _finding("memory", "wrong", f"{said}; {facts.refused}")
    if fits < facts.model_context:
        of_all = f"a context of about {fits:,} of the model's {facts.model_context:,} tokens"
        return _finding("memory", "ok", f"{said}: {of_all}{_in_small_forms(facts)}")
    return _finding("memory", "ok", f"{said}: the model's whole context of {facts.model_context:,} tokens fits")


def _in_small_forms(facts: "MemoryFacts") -> str:
    forms = [f"{form} {size(taken)}" for form, taken in facts.smaller.items()]
    return f" (with engine.weights, weights take: {', '.join(forms)})" if forms else ""


def _settings(config_file: Path | None, options: dict[str, Any]) -> WorkerSettings:
    try:
        return load_settings(config_file, **options)
    except ConfigError:
        if options.get("model_name") or options.get("model_path"):
            raise
    return load_settings(config_file, **{**options, "model_name": TINY})


def _check_redis(settings: WorkerSettings) -> Iterator[Finding]:
    keys = Keys(settings.prefix)
    with connect(settings.redis_url, connect_timeout_s=TIMEOUT_S, socket_timeout_s=TIMEOUT_S) as client:
        try:
            yield from check_server(client)
            faults = refused(client, worker_needs(keys, settings.model_name))
        except redis.RedisError as error:
            yield _finding("Redis", "wrong", str(broker_unavailable(error, address(client))))
            return
    yield judge_rights("worker", faults)


def _check_torch(settings: WorkerSettings) -> Iterator[Finding]:
    from .engine import Tokenizer, resolve_device  # noqa: PLC0415
    from .engine.loading import facts  # noqa: PLC0415

    found = facts.torch_facts()
    needs_gpu = settings.device != "cpu"
    yield _bearable(
        settings,
        judge_cuda(found.version, found.cuda, found.driver_cuda)
        if needs_gpu
        else _finding("torch", "ok", f"{found.version}, on the CPU"),
    )
    device = None
    try:
        device = resolve_device(settings.device)
        yield from _describe_device(device)
    except ConfigError as error:
        yield _bearable(settings, _finding("device", "wrong", str(error)))
    try:
        if settings.model_path is None and settings.model_name == TINY and untrained_tiny(settings.model_paths):
            yield _finding("model", "ok", "tiny is trained on its first use, in well under a minute")
            return
        folder = find_model(settings.model_name, settings.model_path, settings.model_paths)
    except ConfigError as error:
        yield _finding("model", "wrong", str(error))
        return
    findings, weights = check_files(folder)
    yield from findings
    unfit = None if findings[0].state == "wrong" else facts.why_not_served(folder)
    if unfit:
        yield _finding("model", "wrong", unfit)
    elif findings[0].state == "ok" and weights is not None and device is not None:
        try:
            needed = facts.memory_facts(folder, device, settings.dtype, weights.parameters, settings.engine)
            yield judge_memory(settings.device, needed)
        except ConfigError as error:
            yield _finding("dtype", "wrong", str(error))
    yield from _check_tokenizer(Tokenizer, folder)


def _bearable(settings: WorkerSettings, finding: Finding) -> Finding:
    """What is wrong with the GPU is a warning where none was asked for: `genqueue up` runs tiny on the CPU."""
    is_tiny = settings.model_name == TINY and settings.model_path is None
    if finding.state != "wrong" or not is_tiny or "device" in settings.model_fields_set:
        return finding
    return _finding(finding.name, "warning", f"{finding.message}. tiny needs none: `genqueue up` takes the CPU")


def _describe_device(device: Any) -> Iterator[Finding]:
    """device: torch's, of which the engine knows, and which can be used."""
    from .engine.loading import driver, facts  # noqa: PLC0415

    if device.type == "cpu":
        yield _finding("device", "ok", f"cpu, {platform.processor() or platform.machine()}")
        return
    gpu = facts.gpu_facts(device)
    yield _finding("device", "ok", f"{device}, {gpu.name}, {gpu.architecture}")
    if fault := driver.nvml_fault():
        yield _finding("NVML", "warning", f"{fault.why}: {fault.advice}. A worker runs without it")


def _check_tokenizer(load: Any, folder: Path) -> Iterator[Finding]:
    try:
        tokenizer = load(folder)
    except ConfigError as error:
        yield _finding("tokenizer", "wrong", str(error))
        return
    kind = {"byte-level": "byte-level BPE", "pieces": "SentencePiece's kind"}[tokenizer.decoding]
    yield _finding("tokenizer", "ok", f"{kind}, {tokenizer.backend.get_vocab_size():,} tokens")
    if tokenizer.has_chat_template:
        end = tokenizer.end_of_turn_id
        ends = "" if end is None else f". An answer ends at {tokenizer.content(end)}"
        form = tokenizer.chat_template.tool_format
        tools = f". It takes `tools`, and calls them as {form}" if form else ". It takes no `tools`"
        yield _finding("chat template", "ok", f"there is one: `messages`, `submit --chat`, `up`{ends}{tools}")
    else:
        yield _finding(
            "chat template", "warning", "there is none, as in base models: send `prompt`, not `messages`"
        )


def _finding(name: str, state: Any, message: str) -> Finding:
    return Finding(name=name, state=state, message=message)
