"""Where an option comes from, and what a mistake in one says."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from worker.engine.loading.memory import MIN_CONTEXT
from worker.engine_options import EngineOptions
from worker.errors import ConfigError
from worker.settings import SETTINGS_FILE, WorkerSettings, load_settings

ROOT = Path(__file__).parents[3]

EVERY_OPTION: dict[str, Any] = {
    "redis_url": "redis://elsewhere/3",
    "prefix": "mine",
    "broker_wait_s": 31.5,
    "model_name": "other",
    "model_path": "/srv/models/other",
    "model_paths": "/srv/paths.yaml",
    "device": "cpu",
    "dtype": "float16",
    "engine": {
        "path": "dynamic",
        "compile": "never",
        "context_length": 4096,
        "prefill_chunk": 64,
        "prefix_cache_bytes": 0,
        "parked_cache_bytes": 0,
        "prompt_lookup": False,
        "weights": "int4",
        "weights_group": 64,
        "deterministic": True,
    },
    "threads": 3,
    "name": "w",
    "heartbeat_interval_s": 2.5,
    "heartbeat_ttl_s": 7,
    "shutdown_grace_s": 30.5,
    "max_attempts": 4,
    "group_max_running": 2,
    "engine_start_s": 60.5,
    "engine_stop_s": 61.5,
    "preempt": "all",
    "max_preemptions": 3,
    "max_parked_s": 5.0,
    "result_ttl_s": 3601,
    "max_result_ttl_s": 3602,
    "max_job_timeout_s": 3603.5,
    "max_request_bytes": 1000,
    "cancel_poll_s": 0.5,
    "progress_interval_s": 1.5,
    "maintenance_interval_s": 60.5,
    "allowed_callbacks": ["a.b"],
    "allowed_webhooks": ["https://hooks.example.org/"],
    "metrics_port": 0,
    "metrics_host": "0.0.0.0",
    "log_level": "debug",
    "log_format": "json",
}
"""None of them at its default."""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("GENQUEUE_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path):
    def write(content: str):
        (tmp_path / "worker.yaml").write_text(content)
        return tmp_path / "worker.yaml"

    return write


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(write, monkeypatch):
    file = write("dtype: float16\nheartbeat_ttl_s: 7\nmax_attempts: 9\n")
    monkeypatch.setenv("GENQUEUE_DTYPE", "bfloat16")
    monkeypatch.setenv("GENQUEUE_HEARTBEAT_TTL_S", "8")
    settings = load_settings(file, model_name="tiny", dtype="float32")
    assert (settings.dtype, settings.heartbeat_ttl_s, settings.max_attempts) == ("float32", 8, 9)
    assert settings.broker_wait_s == 30


def test_an_option_that_was_not_given_is_no_none(write):
    assert load_settings(write("dtype: float16"), model_name="tiny", dtype=None).dtype == "float16"


def as_json(settings: BaseModel) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(settings.model_dump_json())
    return loaded


def test_every_option_is_here():
    """What follows is about all of them."""
    defaults = as_json(WorkerSettings(model_name="tiny"))
    assert EVERY_OPTION.keys() == defaults.keys()
    assert EVERY_OPTION["engine"].keys() == defaults["engine"].keys()
    for given, default in ((EVERY_OPTION, defaults), (EVERY_OPTION["engine"], defaults["engine"])):
        assert [name for name in default if given[name] == default[name]] == []


def test_every_option_can_come_from_the_environment(write, monkeypatch):
    flat = EVERY_OPTION | {f"engine__{name}": value for name, value in EVERY_OPTION["engine"].items()}
    for name, value in flat.items():
        if name != "engine":
            monkeypatch.setenv(f"GENQUEUE_{name.upper()}", value if isinstance(value, str) else json.dumps(value))
    assert as_json(load_settings(write(""))) == EVERY_OPTION


def test_every_option_can_come_from_the_file(write):
    assert as_json(load_settings(write(yaml.safe_dump(EVERY_OPTION)))) == EVERY_OPTION


def test_every_option_can_be_given(write):
    assert as_json(load_settings(write(""), **EVERY_OPTION)) == EVERY_OPTION


def test_redis_url_has_two_names_in_the_environment(write, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://second/0")
    assert load_settings(write(""), model_name="tiny").redis_url == "redis://second/0"
    monkeypatch.setenv("GENQUEUE_REDIS_URL", "redis://first/0")
    assert load_settings(write(""), model_name="tiny").redis_url == "redis://first/0"
    assert load_settings(write(""), model_name="tiny", redis_url="redis://zero/0").redis_url == "redis://zero/0"


def test_the_file_that_comes_with_the_project_changes_nothing_and_is_valid(write):
    """Its lines are the defaults, commented out; with the `# ` gone they are a settings file."""
    shipped = ROOT / "configs" / SETTINGS_FILE
    defaults = WorkerSettings(model_name="tiny")
    assert load_settings(shipped, model_name="tiny").model_dump() == defaults.model_dump()
    options = "\n".join(re.findall(r"^# ((?:  )?\w+:(?: .*)?)$", shipped.read_text(), re.MULTILINE))
    loaded = load_settings(write(options), model_name="tiny")
    assert loaded.engine.context_length == 8192  # an example: its default is not a number
    assert _with_context(loaded, None).model_dump() == defaults.model_dump()


def _with_context(settings: WorkerSettings, context_length: int | None) -> WorkerSettings:
    engine = settings.engine.model_copy(update={"context_length": context_length})
    return settings.model_copy(update={"engine": engine})


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current folder of a worker that is installed, and not in a checkout."""
    monkeypatch.setattr("worker.models.config_loader._ROOT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_in_the_current_folder_is_taken(here):
    (here / "configs").mkdir()
    (here / "configs" / SETTINGS_FILE).write_text("max_attempts: 9")
    assert load_settings(model_name="tiny").max_attempts == 9


def test_a_default_file_that_is_missing_is_no_mistake(here):
    assert load_settings(model_name="tiny").model_dump() == WorkerSettings(model_name="tiny").model_dump()


def test_a_mistake_without_a_file_says_where_one_was_looked_for(here):
    with pytest.raises(ConfigError, match=f"looked for {here}/configs/{SETTINGS_FILE}.*model_name"):
        load_settings()


def test_a_file_that_was_asked_for_and_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"no settings file .*none\.yaml.*--config or GENQUEUE_CONFIG"):
        load_settings(tmp_path / "none.yaml", model_name="tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("heartbeat_ttl: 6", r"worker\.yaml.*heartbeat_ttl: .* did you mean heartbeat_ttl_s\?"),
        ("heartbeat_ttl_s: soon", "heartbeat_ttl_s: "),
        ("heartbeat_ttl_s: 0", "heartbeat_ttl_s: .*greater than 0"),
        ("heartbeat_ttl_s: 0.4", "heartbeat_ttl_s: .*integer"),
        ("heartbeat_ttl_s: .inf", "heartbeat_ttl_s: .*finite"),
        ("heartbeat_interval_s: .inf", "heartbeat_interval_s: .*finite"),
        ("heartbeat_interval_s: 6", r"heartbeat_interval_s \(6\) must be below heartbeat_ttl_s \(6\).*third"),
        ("max_result_ttl_s: 6", r"max_result_ttl_s \(6\) must be above heartbeat_ttl_s \(6\).*raise it"),
        ("result_ttl_s: 0", "result_ttl_s: "),
        (f"engine: {{context_length: {MIN_CONTEXT - 1}}}", rf"engine\.context_length: .*{MIN_CONTEXT}"),
        ("max_attempts: 0", "max_attempts: "),
        ("dtype: float8", "dtype: .*'float32'"),
        ("metrics_port: 70000", "metrics_port: "),
        ("prefix: 'a{b'", "prefix: .*braces"),
        ("prefix: ''", "prefix: .*1 to 64 characters"),
        ("redis_url: localhost", r"worker\.yaml\): redis_url: .*redis://"),
        ("a: [", r"worker\.yaml.*YAML"),
        ("- a", r"worker\.yaml"),
    ],
)
def test_a_mistake_names_file_and_key(write, content, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_settings(write(content), model_name="tiny")


def test_the_shortest_context_is_the_engines():
    assert EngineOptions(context_length=MIN_CONTEXT).context_length == MIN_CONTEXT


def test_a_variable_that_is_no_json_is_named(write, monkeypatch):
    monkeypatch.setenv("GENQUEUE_ALLOWED_CALLBACKS", "a.b")
    with pytest.raises(ConfigError, match=r'GENQUEUE_….*"allowed_callbacks".*JSON'):
        load_settings(write(""), model_name="tiny")


def test_a_worker_needs_a_model(write):
    with pytest.raises(ConfigError, match="model_name"):
        load_settings(write(""))


@pytest.mark.parametrize("url", ["redis://:secret@host:port/0", "http://:secret@host", "redis://:secret@[::1/0"])
def test_a_mistake_in_the_url_does_not_show_its_password(write, url):
    with pytest.raises(ConfigError) as caught:
        load_settings(write(""), model_name="tiny", redis_url=url)
    assert "secret" not in str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        WorkerSettings(model_name="tiny").model_name = "other"


# -- the model: a name, or a folder


def choice(settings: WorkerSettings) -> tuple[str, str | None]:
    return settings.model_name, None if settings.model_path is None else str(settings.model_path)


MODEL = ("model_name", "model_path")


@pytest.mark.parametrize(
    ("given", "environment", "file", "chosen"),
    [
        (("a", None), (None, None), (None, None), ("a", None)),
        ((None, "/m/Qwen2-7B"), (None, None), (None, None), ("Qwen2-7B", "/m/Qwen2-7B")),
        (("a", "/m/Qwen2-7B"), (None, None), (None, None), ("a", "/m/Qwen2-7B")),
        ((None, "/m/a"), (None, None), ("b", None), ("a", "/m/a")),
        (("a", None), (None, None), (None, "/m/b"), ("a", None)),
        (("a", None), (None, "/m/b"), ("c", "/m/c"), ("a", None)),
        ((None, None), ("a", None), (None, "/m/b"), ("a", None)),
        ((None, None), (None, "/m/a"), ("b", None), ("a", "/m/a")),
        ((None, None), (None, None), ("b", "/m/a"), ("b", "/m/a")),
        ((None, None), (None, None), (None, "/m/a/"), ("a", "/m/a")),
        (
            (None, "/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/7ae557604adf67be50417f59c2c2f167def9a775"),
            (None, None),
            (None, None),
            (
                "Qwen2.5-0.5B-Instruct",
                "/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/7ae557604adf67be50417f59c2c2f167def9a775",
            ),
        ),
    ],
)
def test_name_and_folder_are_one_choice(write, monkeypatch, *, given, environment, file, chosen):
    """A folder on the command line was called by the name in the file, and another queue was served with it."""
    written = {key: value for key, value in zip(MODEL, file, strict=True) if value}
    path = write(yaml.safe_dump(written))
    for key, value in zip(MODEL, environment, strict=True):
        if value:
            monkeypatch.setenv(f"GENQUEUE_{key.upper()}", value)
    assert choice(load_settings(path, **dict(zip(MODEL, given, strict=True)))) == chosen


def test_the_current_folder_has_a_name_too(write, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert load_settings(write("{}"), model_path=Path()).model_name == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"model_name is missing: give --model-name NAME \(GENQUEUE_MODEL_NAME\).*--model-path FOLDER"),
        ({"model_path": "/m/Qwen 2"}, "'Qwen 2' is not valid.*give --model-name"),
        ({"model_path": "/m/a.high"}, "give --model-name"),
        ({"model_path": "~nobody-of-that-name/x"}, "there is no such home folder: write an absolute path"),
        ({"model_path": 5}, "model_path: Input is not a valid path"),
    ],
)
def test_a_model_without_a_name(write, options, said):
    with pytest.raises(ConfigError, match=said):
        load_settings(write("{}"), **options)
