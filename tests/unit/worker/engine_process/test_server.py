"""How an engine process begins, and how it ends: seen by its worker, and at once."""

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.engine_process import server, serving
from worker.engine_process.protocol import EngineConfig

TIMEOUT_S = 200

ENDING = """
import atexit, sys, threading
from worker.engine_process import server
from worker.errors import ConfigError

def serve(connection, config):
    atexit.register(threading.Event().wait)  # as a destructor on a device that has failed: it waits for ever
    raise {error}

server._serve = serve
server.main(*sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("RuntimeError('CUDA error: device-side assert triggered')", 1, "goes on in another one"),
        ("ConfigError('correct this')", 2, "ERROR   engine: correct this"),
        ("BrokenPipeError", 0, ""),
    ],
)
def test_nothing_that_tidies_up_is_waited_for(error: str, code: int, said: str):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        config = EngineConfig(model_path=Path("/no"), device="cpu").model_dump_json()
        engine = subprocess.Popen(
            [sys.executable, "-c", ENDING.format(error=error), str(theirs.fileno()), str(os.getpid()), config],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        ours.settimeout(TIMEOUT_S)
        assert ours.recv(1) == b"", "the worker hears of the end"
        _, stderr = engine.communicate(timeout=TIMEOUT_S)
    assert engine.returncode == code
    assert said in stderr
    assert ("CUDA error: device-side assert" in stderr) == (code == 1), "the log has what it was"


def test_what_it_has_imported_is_searched_for_no_garbage_while_it_serves(monkeypatch: pytest.MonkeyPatch):
    frozen: list[int] = []
    monkeypatch.setattr(server.logs, "adopt", lambda: None)
    monkeypatch.setattr(
        serving, "EngineServer", lambda _: SimpleNamespace(serve=lambda _: frozen.append(gc.get_freeze_count()))
    )
    gc.unfreeze()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server._serve(theirs, EngineConfig(model_path=Path("/no"), device="cpu"))
    assert frozen[0] > 0
    assert gc.isenabled(), "what is made from now on is collected"
