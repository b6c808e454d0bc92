"""The command line: what goes to stdout, what to stderr, and which exit code says what."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import redis
from fakeredis import FakeRedis, FakeServer

from producer import cli as producer_cli, demo
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BrokerUnavailable, EngineError, InvalidRequest, PromptTooLong
from producer.contract.version import VERSION
from tests.models import tiny_model_paths
from worker import cli
from worker.errors import ConfigError
from worker.models.tiny_corpus import DEFAULT_PROMPT, INTRODUCTION


def bare_environment() -> dict[str, str]:
    """For a fresh process: without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GENQUEUE_", "REDIS_URL"))}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def run(monkeypatch) -> Callable[..., int]:
    """Runs a command line in this process; its exit code."""
    for name in os.environ.keys() - bare_environment():
        monkeypatch.delenv(name)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["python -m worker", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no such model"), 2),
        (InvalidRequest("no prompt"), 2),
        (PromptTooLong("too long"), 2),
        (EngineError("out of order"), 1),
        (BrokerUnavailable("nobody there"), 3),
        (click.UsageError("what?"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_that_a_person_can_mend_is_one_line_and_a_code(run, monkeypatch, capsys, error, code):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("worker.standalone.generate", fail)
    assert run("generate", "--model-name", "tiny") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert str(error) in err


def test_an_error_that_is_ours_shows_its_traceback(monkeypatch):
    monkeypatch.setattr("worker.standalone.generate", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["python -m worker", "generate", "--model-name", "tiny"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_without_the_worker_extra_it_says_what_to_install(run, monkeypatch, capsys):
    """A bare install is the producer alone, and has the command all the same."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in ("worker.starting", "worker.service", "worker.metrics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    options = ["--model-name", "tiny", "--device", "cpu", "--model-paths", str(tiny_model_paths())]
    assert run("run", *options) == 2
    err = capsys.readouterr().err
    assert err == "error: prometheus_client is not installed: pip install 'genqueue[worker]'\n"


def test_a_module_of_ours_that_is_missing_is_our_fault(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("no module", name="worker.gone")

    monkeypatch.setattr("worker.standalone.generate", fail)
    monkeypatch.setattr(sys, "argv", ["python -m worker", "generate", "--model-name", "tiny"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


@pytest.mark.parametrize("arguments", [["--help"], *([name, "-h"] for name in cli.cli.commands)])
def test_help(run, capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert "Usage:" in out
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_every_command_and_every_option_has_its_help():
    assert [name for name, command in cli.cli.commands.items() if not command.help] == []
    parameters = [(name, each) for name, command in cli.cli.commands.items() for each in command.params]
    options = [(name, each) for name, each in parameters if isinstance(each, click.Option)]
    assert [(name, option.opts) for name, option in options if not option.help] == []


def test_the_help_of_run_names_the_environment_and_the_default_of_each_setting():
    options = {option.name: option.help for option in cli.cli.commands["run"].params}
    assert len(options) > 10
    for name, text in options.items():
        assert f"[env: GENQUEUE_{'CONFIG' if name == 'config_file' else name.upper()}" in text
        assert "[default: " in text or name == "model_path"


def test_a_command_of_the_producer_is_told_so(run, capsys):
    assert set(cli.OF_THE_PRODUCER) == producer_cli.cli.commands.keys() - cli.cli.commands.keys()
    assert set(producer_cli.OF_THE_WORKER) == cli.cli.commands.keys() - producer_cli.cli.commands.keys()
    for name in cli.OF_THE_PRODUCER:
        assert run(name, "x") == 2
        assert f"genqueue {name}" in capsys.readouterr().err


def test_version(run, capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"genqueue {VERSION}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["run", "--tempo", "3"],
        ["run", "--dtype", "float8"],
        ["run", "--threads", "many"],
        ["generate"],
        ["check"],
        ["check", "--model-name", "a/b"],
    ],
)
def test_what_cannot_be_understood_is_bad_input(run, capsys, arguments):
    assert run(*arguments) == 2
    assert capsys.readouterr().err


@pytest.fixture(scope="module")
def paths() -> str:
    """A model paths file whose `tiny` is trained."""
    return str(tiny_model_paths())


class TestRun:
    """What is found before anything is started."""

    def test_without_a_model(self, run, capsys):
        assert run("run", "--device", "cpu") == 2
        assert "model_name" in capsys.readouterr().err

    def test_a_model_that_nobody_knows(self, run, capsys, tmp_path):
        (tmp_path / "paths.yaml").write_text("mine: gone")
        assert run("run", "--model-name", "other", "--model-paths", str(tmp_path / "paths.yaml")) == 2
        assert "'other' is not in" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["run", "generate"])
    def test_an_id_of_the_hub(self, run, capsys, tmp_path, command):
        (tmp_path / "paths.yaml").write_text("mine: gone")
        options = [
            "--model-name",
            "Qwen/Qwen2-7B",
            "--model-paths",
            str(tmp_path / "paths.yaml"),
            "--device",
            "cpu",
        ]
        assert run(command, *options) == 2
        assert "  hf download Qwen/Qwen2-7B --local-dir models/Qwen2-7B\n" in capsys.readouterr().err

    def test_a_setting_that_cannot_be(self, run, capsys, monkeypatch):
        monkeypatch.setenv("GENQUEUE_HEARTBEAT_TTL_S", "-1")
        assert run("run", "--model-name", "tiny") == 2
        assert "heartbeat_ttl_s" in capsys.readouterr().err


class TestGenerate:
    def test_a_prompt_without_its_option_is_told_of_it(self, run, capsys):
        assert run("generate", "Hi", "--model-name", "tiny") == 2
        assert "the prompt is an option: --prompt" in capsys.readouterr().err

    def test_prints_the_answer_and_nothing_else(self, run, capsys, paths):
        assert run("generate", "--model-name", "tiny", "--device", "cpu", "--model-paths", paths) == 0
        assert capsys.readouterr().out == INTRODUCTION + "\n"

    def test_prints_what_was_asked_for(self, run, capsys, paths):
        options = ["--device", "cpu", "--model-paths", paths, "--prompt", DEFAULT_PROMPT, "--max-new-tokens", "3"]
        assert run("generate", "--model-name", "tiny", *options) == 0
        out, err = capsys.readouterr()
        out = out.removesuffix("\n")
        assert "the text was cut off after 3 tokens" in err
        assert INTRODUCTION.startswith(out.rstrip("\ufffd"))
        assert 0 < len(out) < len(INTRODUCTION)

    def test_a_long_prompt_gets_the_answer_that_fits(self, run, paths, monkeypatch):
        """256 by default, "or what fits": as a limit of the command's own it refused what the library takes."""
        answered = []
        monkeypatch.setattr("worker.standalone.generate", lambda *given, **_: answered.append(given))
        assert run("generate", "--model-name", "tiny", "--device", "cpu", "--model-paths", paths) == 0
        assert answered == [("tiny", DEFAULT_PROMPT, None, "cpu")]

    def test_answers_from_a_folder_that_no_file_names(self, run, capsys, paths):
        folder = Path(paths).parent / "tiny"
        assert (
            run("generate", "--model-path", str(folder), "--device", "cpu", "--model-paths", "/no/such/file") == 0
        )
        assert capsys.readouterr().out == INTRODUCTION + "\n"

    def test_the_model_paths_may_come_from_the_environment(self, run, capsys, paths, monkeypatch):
        monkeypatch.setenv("GENQUEUE_MODEL_PATHS", paths)
        assert run("generate", "--model-name", "other", "--device", "cpu") == 2
        assert f"'other' is not in {paths}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--prompt", ""], "prompt"),
            (["--max-new-tokens", "0"], "max_new_tokens"),
            (["--device", "cuda:99"], "cuda:99"),
            (["--model-name", "other"], "other"),
            (["--weights", "int3"], "int3"),
            (["--weights", "bfloat16", "--dtype", "float16"], "engine.weights bfloat16"),
        ],
    )
    def test_bad_input(self, run, capsys, paths, options, said):
        assert run("generate", "--model-name", "tiny", "--device", "cpu", "--model-paths", paths, *options) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err


class TestCheck:
    @pytest.fixture
    def asked(self) -> list[str]:
        """The URLs that were connected to."""
        return []

    @pytest.fixture
    def client(self, fake_server: FakeServer, monkeypatch, asked) -> FakeRedis:
        def connect(redis_url: str, **_: object) -> FakeRedis:
            asked.append(redis_url)
            return FakeRedis(server=fake_server)

        monkeypatch.setattr("producer.broker.urls.client", connect)
        return FakeRedis(server=fake_server)

    def add(self, client: redis.Redis, name: str, state: str | None, **fields: str) -> None:
        """A worker of `tiny`; without a state, one whose hash has expired."""
        client.sadd("rq:workers:generate.tiny", f"rq:worker:{name}")
        if state:
            client.hset(f"rq:worker:{name}", mapping={"birth": "2026-01-01", "model_state": state, **fields})

    def check(self, run, *options: str, model: str = "tiny") -> int:
        return run("check", "--model-name", model, *options)

    def test_a_worker_that_is_ready(self, run, client, capsys):
        self.add(client, "w1", "ready")
        self.add(client, "w2", "loading")
        assert self.check(run) == 0
        out, err = capsys.readouterr()
        assert (out, err) == ("", "tiny: 1 ready, 1 loading\n")

    @pytest.mark.parametrize("state", ["loading", None])
    def test_none_that_is(self, run, client, state):
        self.add(client, "w1", state)
        assert self.check(run) == 1

    @pytest.mark.parametrize(
        ("name", "code"),
        [("gpu0", 0), ("gpu0-0123abcd", 0), ("gpu0-0123abce", 1), ("gpu", 1), ("gpu1", 1), ("gpu0.*", 1)],
    )
    def test_one_worker_by_its_stem_or_its_name(self, run, client, name, code):
        """Another of the same model may be ready: a probe of a container is to see its own."""
        self.add(client, "gpu0-0123abcd", "ready")
        self.add(client, "gpu1-0123abcd", "loading")
        assert self.check(run, "--name", name) == code

    def test_only_those_of_this_host(self, run, client, capsys):
        self.add(client, "w1", "ready", hostname="elsewhere")
        self.add(client, "w2", "loading", hostname=socket.gethostname())
        assert self.check(run, "--local") == 1
        assert capsys.readouterr().err == "tiny: 0 ready, 1 loading\n"
        self.add(client, "w2", "ready", hostname=socket.gethostname())
        assert self.check(run, "--local") == 0

    def test_a_prefix_may_be_given(self, run, client):
        self.add(client, "w1", "ready")
        assert self.check(run, "--prefix", "gen") == 0
        assert self.check(run, "--prefix", "a b") == 2

    def test_a_broker_that_says_nothing_is_no_broker_within_the_bound(self, run, monkeypatch, capsys):
        """A frozen server takes the connection, and each command of the handshake had the time-out for itself."""
        monkeypatch.setattr("worker.health.TIMEOUT_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as frozen:
            port = frozen.getsockname()[1]
            assert self.check(run, "--redis-url", f"redis://127.0.0.1:{port}/0") == 3
        assert "does not answer" in capsys.readouterr().err

    def test_a_worker_of_a_folder(self, run, client):
        self.add(client, "w1", "ready")
        assert run("check", "--model-path", "/models/tiny") == 0
        assert run("check", "--model-path", "/models/other") == 1

    def test_an_id_of_the_hub(self, run, client, capsys):
        assert self.check(run, model="Qwen/Qwen2-7B") == 2
        assert "which may be Qwen2-7B" in capsys.readouterr().err

    def test_a_worker_of_another_model(self, run, client):
        self.add(client, "w1", "ready")
        assert self.check(run, model="other") == 1

    def test_a_worker_that_has_ended(self, run, client):
        """RQ keeps its record for a minute."""
        self.add(client, "w1", "ready", death="2026-01-02")
        assert self.check(run) == 1

    def test_asks_the_server_that_its_worker_uses(self, run, client, asked, tmp_path, monkeypatch):
        self.add(client, "w1", "ready")
        (tmp_path / "worker.yaml").write_text("redis_url: redis://from-the-file/0\nmodel_name: tiny\n")
        assert run("check", "--config", str(tmp_path / "worker.yaml")) == 0
        monkeypatch.setenv("GENQUEUE_CONFIG", str(tmp_path / "worker.yaml"))
        assert run("check") == 0
        assert set(asked) == {"redis://from-the-file/0"}

    def test_no_broker(self, run, client, fake_server, capsys):
        fake_server.connected = False
        assert self.check(run) == 3
        assert "cannot be used" in capsys.readouterr().err

    def test_a_wrong_password(self, run, broker: EmbeddedBroker, capsys):
        url = f"redis://nobody:x@127.0.0.1:{broker.port}/0"
        assert run("check", "--model-name", "tiny", "--redis-url", url) == 3
        assert "redis://:PASSWORD@" in capsys.readouterr().err

    def test_a_url_that_is_none(self, run, capsys):
        assert run("check", "--model-name", "tiny", "--redis-url", "redis://:secret@host:port/0") == 2
        err = capsys.readouterr().err
        assert "redis://" in err
        assert "secret" not in err


CHECK_AND_LIST_MODULES = """
import sys
from worker import cli
try:
    cli.main()
finally:
    print(*sys.modules)
"""


def test_check_answers_without_torch(broker: EmbeddedBroker, redis_client: redis.Redis, tmp_path: Path):
    """A health probe runs every few seconds."""
    TestCheck().add(redis_client, "w1", "ready")
    ended = subprocess.run(
        [sys.executable, "-c", CHECK_AND_LIST_MODULES, "check", "--model-name", "tiny", "--redis-url", broker.url],
        cwd=tmp_path,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "tiny: 1 ready, 0 loading\n")
    modules = set(ended.stdout.split())
    assert "worker.health" in modules
    assert not modules & {"torch", "transformers", "worker.engine"}


def test_the_demo_asks_what_the_tiny_model_has_learnt():
    """A producer imports nothing of the worker, so that the prompt stands in two places."""
    assert demo.DEFAULT_PROMPT == DEFAULT_PROMPT


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "worker", "check", "--model-name", "a/b"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=bare_environment())
    assert ended.returncode == 2
    assert "model name 'a/b' is not valid" in ended.stderr


def test_a_script_that_hides_the_producer_is_named(tmp_path: Path):
    """It was run, and then said to be no package."""
    (tmp_path / "producer.py").write_text("raise SystemExit('mine')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "check", "--model-name", "tiny"],
        cwd=tmp_path,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: {tmp_path}/producer.py hides genqueue's own package `producer`: give that file another name\n"
    )
