"""Where an option comes from, and what a mistake in one says."""

import pytest
from pydantic import ValidationError

from worker.errors import ConfigError
from worker.settings import DEFAULT_SETTINGS_FILE, WorkerSettings, load_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("REDIS_URL", *(f"GENQUEUE_{field.upper()}" for field in WorkerSettings.model_fields)):
        monkeypatch.delenv(name, raising=False)


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


def test_every_option_can_come_from_the_environment(write, monkeypatch):
    values = {"GENQUEUE_MODEL_NAME": "mine", "GENQUEUE_ALLOWED_CALLBACKS": '["a.b"]', "GENQUEUE_METRICS_PORT": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(write(""))
    assert (settings.model_name, settings.allowed_callbacks, settings.metrics_port) == ("mine", ("a.b",), 0)


def test_redis_url_has_two_names_in_the_environment(write, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://second/0")
    assert load_settings(write(""), model_name="tiny").redis_url == "redis://second/0"
    monkeypatch.setenv("GENQUEUE_REDIS_URL", "redis://first/0")
    assert load_settings(write(""), model_name="tiny").redis_url == "redis://first/0"
    assert load_settings(write(""), model_name="tiny", redis_url="redis://zero/0").redis_url == "redis://zero/0"


def test_the_file_that_comes_with_the_project_is_valid():
    assert load_settings(DEFAULT_SETTINGS_FILE, model_name="tiny").heartbeat_ttl_s == 6


def test_a_default_file_that_is_missing_is_no_mistake(monkeypatch, tmp_path):
    monkeypatch.setattr("worker.settings.DEFAULT_SETTINGS_FILE", tmp_path / "none.yaml")
    assert load_settings(model_name="tiny").model_name == "tiny"


def test_a_file_that_was_asked_for_and_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"no settings file .*none\.yaml"):
        load_settings(tmp_path / "none.yaml", model_name="tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("heartbeat_ttl: 6", r"worker\.yaml.*heartbeat_ttl: .*[Ee]xtra"),
        ("heartbeat_ttl_s: soon", "heartbeat_ttl_s: "),
        ("heartbeat_ttl_s: 0", "heartbeat_ttl_s: .*greater than 0"),
        ("heartbeat_ttl_s: .inf", "heartbeat_ttl_s: .*finite"),
        ("max_attempts: 0", "max_attempts: "),
        ("dtype: float8", "dtype: .*'float32'"),
        ("metrics_port: 70000", "metrics_port: "),
        ("prefix: 'a{b'", "prefix: .*braces"),
        ("prefix: ''", "prefix: .*empty"),
        ("redis_url: localhost", "REDIS_URL: .*redis://"),
        ("a: [", r"worker\.yaml.*YAML"),
        ("- a", r"worker\.yaml"),
    ],
)
def test_a_mistake_names_file_and_key(write, content, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_settings(write(content), model_name="tiny")


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
