"""Nothing is ever unpickled: not by a producer, a worker, its engine or the dashboard, whatever stands in Redis.

Looked for twice: in the source, and at run time, in real processes in which pickle's readers raise.
"""

import ast
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue
from rq.results import Result

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION

from .conftest import joined
from .dashboard_process import dashboard
from .test_dashboard import status_of
from .test_worker import wait_for, wait_for_tokens
from .worker_process import WorkerProcess

ROOT = Path(__file__).parents[2]
READERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
TRIPWIRE = """
import os, pickle, sys, traceback

def refuse(*args, **kwargs):
    with open(os.environ["TRIPWIRE_LOG"], "a") as log:
        log.write(f"{sys.argv}\\n" + "".join(traceback.format_stack(limit=6)))
    raise RuntimeError("something was unpickled")

pickle.loads = pickle.load = refuse
with open(os.environ["TRIPWIRE_LOG"] + ".armed", "a") as log:
    log.write(" ".join(sys.orig_argv) + "\\n")
"""


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self.folder), 0o700, True)


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has every Python process that the test starts refuse to unpickle. What tried stands in the file."""
    folder = tmp_path / "tripwire"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TRIPWIRE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    monkeypatch.setenv("TRIPWIRE_LOG", str(tmp_path / "tripped"))
    return tmp_path / "tripped"


@pytest.fixture
def server() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


def enqueue_bombs(client: redis.Redis, bomb: Bomb) -> dict[str, str]:
    """Job ids of pickles in every field that RQ reads, and the code with which each is refused."""
    pickled = Queue("generate.tiny", connection=client)
    as_json = Queue("generate.tiny", connection=client, serializer="json")
    packed = pickle.dumps(bomb)
    ids = {}
    for field in ("arguments", "meta", "result", "exc_info", "callback"):
        queue = pickled if field == "arguments" else as_json
        callback = Callback("os.system") if field == "callback" else None
        request = bomb if field == "arguments" else {"prompt": "hi", "max_new_tokens": 2}
        job = queue.create_job(FUNCTION, kwargs={"request": request}, job_id=f"bomb-{field}", on_success=callback)
        job.save()
        if field not in ("arguments", "callback"):
            client.hset(job.key, field, packed)
        if field == "result":
            client.xadd(Result.get_key(job.id), {"type": "1", "return_value": packed})
        client.sadd("rq:queues", "rq:queue:generate.tiny")
        client.rpush("rq:queue:generate.tiny", job.id)
        ids[job.id] = "" if field in ("result", "exc_info") else "invalid_request"
    return ids


def test_whatever_is_a_pickle_is_refused_and_never_read(
    server: EmbeddedBroker, tripwire: Path, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    exploded = tmp_path / "exploded"
    with redis.Redis(port=server.port) as client, Producer(server.url) as producer:
        bombs = enqueue_bombs(client, Bomb(exploded))
        worker = start_worker(server.url).wait_until_ready()
        for job_id, code in bombs.items():
            result = producer.result(job_id, timeout_s=100, check=False)
            assert (result.error.code if result.error else "") == code, job_id
        # A whole life beside them: followed, cancelled, taken over after a kill.
        assert joined(list(producer.submit("hi", model="tiny", max_new_tokens=3).stream(timeout_s=100)))
        job = producer.submit("hi", model="tiny", max_new_tokens=900, ignore_eos=True)
        wait_for_tokens(client, job.job_id)
        worker.stop()
        second = start_worker(server.url)
        wait_for(lambda: client.llen(f"gen:{{taken:{second_name(second)}}}"), "the job to be taken over", 30)
        job.cancel()
        job.result(timeout_s=100, check=False)
        look_at_every_page(server.url, [*bombs, job.job_id])
        command = [sys.executable, "-m", "producer", "result", job.job_id, "--redis-url", server.url]
        assert subprocess.run(command, capture_output=True, timeout=100, check=False).returncode == 1
    assert not exploded.exists()
    assert not tripwire.exists(), tripwire.read_text()
    armed = Path(f"{tripwire}.armed").read_text()
    for process in ("worker run", "engine_process.server", "producer dashboard", "producer result"):
        assert process in armed, f"the tripwire was not in {process}"


def second_name(worker: WorkerProcess) -> str:
    try:
        return worker.name
    except LookupError:
        return "-"


def look_at_every_page(url: str, job_ids: list[str]) -> None:
    registries = ("queued", "started", "finished", "failed", "deferred", "scheduled", "canceled")
    pages = ["", "0/view/workers", "0/data/workers.json", "0/data/queues.json"]
    pages += [f"0/data/jobs/generate.tiny/{registry}/8/asc/1.json" for registry in registries]
    pages += [f"0/{kind}" for job_id in job_ids for kind in (f"view/job/{job_id}", f"data/job/{job_id}.json")]
    with dashboard(url) as address:
        for page in pages:
            assert status_of(f"{address}/{page}") == 200, page


@pytest.mark.parametrize("package", ["producer", "worker"])
def test_no_module_imports_what_unpickles(package: str) -> None:
    guilty = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            guilty += [f"{path.name}:{node.lineno}" for name in names if name.partition(".")[0] in READERS]
            if isinstance(node, ast.Attribute) and node.attr == "DefaultSerializer":
                guilty.append(f"{path.name}:{node.lineno}")
    assert guilty == []
