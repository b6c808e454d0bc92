"""Settings come from the environment, and a wrong one is named without showing a password."""

import os

import pytest
from pydantic import ValidationError

from producer import InvalidRequest, ProducerSettings

EVERY_SETTING = {
    "redis_url": "redis://elsewhere/3",
    "prefix": "mine",
    "timeout_s": 30,
    "queue_ttl_s": 31.5,
    "result_ttl_s": 32,
    "group_max_queued": 33,
    "wait_s": 33.5,
    "connect_timeout_s": 34.5,
    "socket_timeout_s": 35.5,
}
"""None of them at its default."""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("GENQUEUE_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


def test_the_defaults() -> None:
    settings = ProducerSettings()

    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.prefix == "gen"
    assert (settings.timeout_s, settings.queue_ttl_s, settings.result_ttl_s) == (600, 86_400, 3_600)


def test_our_own_url_comes_before_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://common")
    assert ProducerSettings.load().redis_url == "redis://common"

    monkeypatch.setenv("GENQUEUE_REDIS_URL", "redis://ours")
    assert ProducerSettings.load().redis_url == "redis://ours"

    assert ProducerSettings.load(redis_url="redis://given").redis_url == "redis://given"


def test_the_environment_sets_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = ProducerSettings().model_dump()
    assert EVERY_SETTING.keys() == defaults.keys()
    assert [name for name in defaults if EVERY_SETTING[name] == defaults[name]] == []

    for name, value in EVERY_SETTING.items():
        monkeypatch.setenv(f"GENQUEUE_{name.upper()}", str(value))

    assert ProducerSettings.load().model_dump() == EVERY_SETTING


def test_what_is_none_is_not_given() -> None:
    assert ProducerSettings.load(prefix=None, redis_url=None) == ProducerSettings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ProducerSettings().prefix = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"redis_url": "http://user:hunter2@host"}, "redis_url: it is not the URL of a Redis: use redis://"),
        ({"redis_url": "hunter2"}, "redis_url: it is not the URL of a Redis: use redis://"),
        ({"prefix": "{hunter2}"}, "braces"),
        ({"prefix": ""}, "braces"),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"result_ttl_s": -1}, "result_ttl_s: "),
        ({"queue_ttl_s": float("nan")}, "queue_ttl_s: "),
        ({"wait_s": float("nan")}, "wait_s: "),
        ({"wait_s": 0}, "wait_s: "),
        ({"no_such_setting": "hunter2"}, "no_such_setting: "),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match="settings are not valid") as refused:
        ProducerSettings.load(**overrides)

    assert said in str(refused.value)
    if "prefix" not in overrides:
        assert "hunter2" not in str(refused.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENQUEUE_TIMEOUT_S", "soon")

    with pytest.raises(InvalidRequest, match="timeout_s: "):
        ProducerSettings.load()

    monkeypatch.delenv("GENQUEUE_TIMEOUT_S")
    monkeypatch.setenv("REDIS_URL", "localhost")
    with pytest.raises(InvalidRequest, match="settings are not valid: redis_url: it is not the URL"):
        ProducerSettings.load()


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(ProducerSettings.load(redis_url="redis://:hunter2@host"))
