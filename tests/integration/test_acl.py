"""configs/redis.acl on a real server: each role can do its work under its own user, and nothing beyond it.

What a role asks for and is refused stands in the server's ACL LOG, also where the code waits and tries again: the
tests of what is allowed end with a look at it.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import httpx2
import pytest
import redis
from rq import Queue, Retry, SimpleWorker
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus
from rq.suspension import resume, suspend

from producer import AsyncProducer, Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, BrokerUnavailable, GenerationResult, Keys
from producer.gateway.app import make_app
from producer.gateway.settings import GatewaySettings
from producer.ledger.rights import gateway_needs, producer_needs, refused, worker_needs
from producer.settings import ProducerSettings

from .conftest import joined
from .dashboard_process import dashboard
from .test_worker import LONG, wait_for, wait_for_tokens
from .worker_process import WorkerProcess

ROOT = Path(__file__).parents[2]
RULES = ROOT / "configs" / "redis.acl"
ROLES = ("producer", "gateway", "worker", "dashboard")
OPERATOR_PASSWORD = "operator-password"
SHORT = {"prompt": "hi", "max_new_tokens": 3}


def password(role: str) -> str:
    return f"{role}-password"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as a user makes them: by the commands that stand in the head of the file."""
    folder = tmp_path_factory.mktemp("acl")
    (folder / "configs").symlink_to(RULES.parent)
    commands = [line[4:] for line in RULES.read_text(encoding="utf-8").splitlines() if line.startswith("#   ")]
    passwords = {f"{role.upper()}_PASSWORD": password(role) for role in (*ROLES, "operator")}
    environment = passwords | {"PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-euc", "\n".join(commands)], cwd=folder, env=environment, check=True)
    return folder / "users.acl"


@pytest.fixture(scope="module")
def serving_broker(rules: Path) -> Iterator[EmbeddedBroker]:
    # DEBUG is to be refused to a user, and not because the server has it off.
    with EmbeddedBroker(options=("--aclfile", str(rules), "--enable-debug-command", "yes")) as broker:
        yield broker


def url_of(broker: EmbeddedBroker, role: str) -> str:
    return f"redis://genqueue-{role}:{password(role)}@127.0.0.1:{broker.port}/0"


@pytest.fixture(scope="module")
def serving(
    serving_broker: EmbeddedBroker, model_paths: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A worker under the worker's user, whose housekeeping is due all the time."""
    log = tmp_path_factory.mktemp("worker") / "log"
    url = url_of(serving_broker, "worker")
    worker = WorkerProcess(url, model_paths, log, GENQUEUE_MAINTENANCE_INTERVAL_S="0.5")
    yield worker.wait_until_ready()
    worker.stop()


@pytest.fixture
def operator(serving_broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    with redis.Redis(port=serving_broker.port, password=OPERATOR_PASSWORD) as client:
        client.acl_log_reset()
        yield client
        print("refused:", *refusals(client), sep="\n")  # for the report of a test that failed


@pytest.fixture
def as_role(serving_broker: EmbeddedBroker) -> Iterator[Callable[[str], redis.Redis]]:
    """Plain clients under the users of the roles."""
    clients: list[redis.Redis] = []

    def connect(role: str) -> redis.Redis:
        clients.append(redis.Redis.from_url(url_of(serving_broker, role)))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def producer(serving: WorkerProcess, serving_broker: EmbeddedBroker) -> Iterator[Producer]:
    with Producer(url_of(serving_broker, "producer")) as producer:
        yield producer


def refusals(operator: redis.Redis) -> list[str]:
    """What the server has refused since the test began."""
    return [f"{each['username']}: {each['context']} {each['object']}" for each in operator.acl_log()]


# -- what each role can do


def test_a_producer_submits_follows_cancels_and_asks(
    producer: Producer, serving_broker: EmbeddedBroker, operator: redis.Redis
) -> None:
    job = producer.submit(**SHORT, model="tiny", max_queued=100)
    text, _ = joined(list(job.stream(timeout_s=100)))
    assert job.result().text == text
    assert job.status().state == "finished"
    many = producer.submit_many(["hi", "hi"], model="tiny", max_new_tokens=2, priority="high")
    assert {each.result(timeout_s=100).status for each in many} == {"finished"}

    running = producer.submit(**LONG, model="tiny")
    queued = producer.submit(**LONG, model="tiny")
    wait_for_tokens(operator, running.job_id)
    assert queued.status().position == 0
    assert queued.status().workers
    assert (queued.cancel(), running.cancel()) == ("cancelled", "requested")
    assert running.result(timeout_s=100, check=False).status == queued.result(check=False).status == "cancelled"

    async def follow() -> str:
        async with AsyncProducer(url_of(serving_broker, "producer")) as other:
            return "".join([e.event.data.text async for e in other.stream(job.job_id) if e.event.type == "tokens"])

    assert asyncio.run(follow()) == text

    goes_on = producer.submit(**LONG, model="tiny")
    waits = producer.submit(**LONG, model="tiny")
    wait_for_tokens(operator, goes_on.job_id)
    for each in (waits, goes_on, job):
        each.delete()
        assert [key for key in operator.keys("*") if each.job_id.encode() in key] == []
    assert refusals(operator) == []


def test_a_producer_and_a_worker_may_do_what_groups_need(
    serving: WorkerProcess, producer: Producer, as_role: Callable[[str], redis.Redis], operator: redis.Redis
) -> None:
    with serving.engine_stopped():
        running = producer.submit(**LONG, model="tiny", group="a b")
        wait_for(lambda: running.status().state == "running", "the job to be taken")
        queued = [producer.submit(**LONG, model="tiny", group="a b") for _ in range(2)]
        other = producer.submit(**SHORT, model="tiny", group="c", priority="low")
        assert [each.status().position for each in (*queued, other)] == [0, 1, 2]
        assert queued[0].cancel() == "cancelled"
        queued[1].delete()
        running.cancel()
    assert other.result(timeout_s=100).status == "finished"
    # What RQ does without a word, found by the maintenance.
    queue = Queue("generate.tiny@c", connection=as_role("producer"), serializer="json")
    by_rq = queue.enqueue(FUNCTION, request=SHORT)
    later = queue.enqueue_in(timedelta(seconds=0), FUNCTION, request=SHORT)
    for each in (by_rq, later):
        wait_for(lambda each=each: each.get_status() == JobStatus.FINISHED, "RQ's bookkeeping")
    assert refusals(operator) == []


def test_a_producer_needs_plain_rq_and_redis_alone(
    serving: WorkerProcess, as_role: Callable[[str], redis.Redis], operator: redis.Redis
) -> None:
    client = as_role("producer")
    queue = Queue("generate.tiny", connection=client, serializer="json")
    with client.pubsub() as channel:
        channel.subscribe("gen:{by-rq}:tokens")
        job = queue.enqueue(FUNCTION, request=SHORT, job_id="by-rq", at_front=True, meta={"mine": 1}, unique=True)
        after = queue.enqueue(FUNCTION, request=SHORT, depends_on=job)
        later = queue.enqueue_in(timedelta(seconds=0), FUNCTION, request=SHORT, retry=Retry(max=2, interval=1))
        result = job.latest_result(timeout=100)
        assert result is not None
        streamed = client.xread({"gen:{by-rq}:events": "0"}, block=1000)[0][1]
        mirrored = [mirror_id(channel) for _ in range(len(streamed))]
    assert GenerationResult.model_validate(job.return_value()).job_id == "by-rq"
    assert [entry_id for entry_id, _ in streamed] == mirrored
    for each in (after, later):
        wait_for(lambda each=each: each.get_status() == JobStatus.FINISHED, "RQ's bookkeeping")
    assert refusals(operator) == []


def mirror_id(channel: redis.client.PubSub) -> bytes:
    while True:
        message = channel.get_message(timeout=100)
        assert message is not None
        if message["type"] == "message":
            return json.loads(message["data"])["id"].encode()


def test_a_worker_does_all_of_its_work(
    serving: WorkerProcess,
    producer: Producer,
    start_worker: Callable[..., WorkerProcess],
    serving_broker: EmbeddedBroker,
    operator: redis.Redis,
) -> None:
    """Jobs that end in every way, retries and commands of RQ, what a dead worker left, housekeeping, the end."""
    queue = Queue("generate.tiny", connection=operator, serializer="json")
    retried = queue.enqueue(FUNCTION, request=LONG, job_timeout=1, retry=Retry(max=1, interval=1))
    serving.outlast(operator, retried.id, 1)
    assert producer.result(retried.id, timeout_s=100, check=False).attempts == 2
    late = producer.submit(**LONG, model="tiny", timeout_s=1)
    serving.outlast(operator, late.job_id, 1)
    assert late.result(timeout_s=100, check=False).status == "failed"
    strange = queue.enqueue("os.system", "true")
    assert producer.result(strange.id, timeout_s=100, check=False).error.code == "unknown_function"

    stopped = producer.submit(**LONG, model="tiny")
    wait_for_tokens(operator, stopped.job_id)
    send_stop_job_command(operator, stopped.job_id, serializer="json")
    assert stopped.result(timeout_s=100, check=False).status == "cancelled"

    suspend(operator)
    left = producer.submit(**SHORT, model="tiny")
    operator.lmove("rq:queue:generate.tiny", "gen:{taken:dead-worker}", "LEFT", "RIGHT")
    operator.hset(f"rq:job:{left.job_id}", "taken_by", "dead-worker")
    operator.sadd("gen:takers", "dead-worker")
    late = producer.submit(**SHORT, model="tiny", queue_ttl_s=0.1)
    assert late.result(timeout_s=100, check=False).error.code == "expired"
    resume(operator)
    assert left.result(timeout_s=100).status == "finished"

    other = start_worker(url_of(serving_broker, "worker")).wait_until_ready()
    other.process.terminate()
    assert other.wait() == 0
    operator.zadd("rq:finished:generate.tiny", {"long-gone": 1})
    wait_for(lambda: operator.zscore("rq:finished:generate.tiny", "long-gone") is None, "maintenance")
    assert refusals(operator) == []


async def test_a_gateway_serves_whole_answers_streams_and_limits(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, operator: redis.Redis, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.yaml"
    key = {"name": "alice", "sha256": hashlib.sha256(b"key").hexdigest(), "requests_at_once": 9}
    keys.write_text(json.dumps({"keys": [key | {"requests_per_minute": 99, "tokens_per_minute": 10**6}]}))
    reach = ProducerSettings.load(redis_url=url_of(serving_broker, "gateway"))
    app = make_app(GatewaySettings(api_keys=keys), reach)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=100) as http,
    ):
        http.headers["authorization"] = "Bearer key"
        asked = [
            ("GET", "/ready", None),
            ("GET", "/v1/models", None),
            ("POST", "/v1/chat/completions", chat),
            ("POST", "/v1/chat/completions", chat | {"stream": True}),
            ("POST", "/v1/responses", {"model": "tiny", "input": "Hi", "max_output_tokens": 3}),
            ("GET", "/v1/queue", None),
        ]
        answers = [await http.request(method, path, json=body) for method, path, body in asked]
        assert [answer.status_code for answer in answers] == [200] * len(asked)
        assert answers[3].text.endswith("data: [DONE]\n\n")
        job_id = answers[2].json()["id"].removeprefix("chatcmpl-")
        assert (await http.get(f"/v1/queue/{job_id}")).json()["tokens"] == 3
        for method, path in (("POST", "/cancel"), ("DELETE", "")):
            done = await http.request(method, f"/v1/responses/{answers[4].json()['id']}{path}")
            assert done.status_code == 200
        await use_files_and_batches(http, chat)
    assert refusals(operator) == []


async def use_files_and_batches(http: httpx2.AsyncClient, chat: dict[str, object]) -> None:
    """One batch to its end and one that is cancelled; a stored answer; and nothing is left of a file."""
    stored = (await http.post("/v1/chat/completions", json=chat | {"store": True})).json()["id"]
    assert [each["id"] for each in (await http.get("/v1/chat/completions")).json()["data"]] == [stored]
    changed = await http.post(f"/v1/chat/completions/{stored}", json={"metadata": {"a": "b"}})
    assert changed.json()["metadata"] == {"a": "b"}
    assert (await http.get(f"/v1/chat/completions/{stored}/messages")).status_code == 200
    assert (await http.delete(f"/v1/chat/completions/{stored}")).status_code == 200
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    upload = {"files": {"file": ("rows.jsonl", json.dumps(row))}, "data": {"purpose": "batch"}}
    file = (await http.post("/v1/files", **upload)).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for path, status in (("", "completed"), ("/cancel", "cancelled")):
        batch = (await http.post("/v1/batches", json=body)).json()
        if path:
            assert (await http.post(f"/v1/batches/{batch['id']}{path}")).status_code == 200
        async with asyncio.timeout(100):
            while (batch := (await http.get(f"/v1/batches/{batch['id']}")).json())["status"] != status:
                assert batch["status"] != "failed", batch
                await asyncio.sleep(0.1)
    first = (await http.get("/v1/batches")).json()["data"][1]
    output = await http.get(f"/v1/files/{first['output_file_id']}/content")
    assert json.loads(output.text)["custom_id"] == "a"
    assert len((await http.get("/v1/files")).json()["data"]) >= 2
    assert (await http.delete(f"/v1/files/{file}")).json()["deleted"]


def test_a_dashboard_shows_every_page_and_requeues(
    serving: WorkerProcess, producer: Producer, serving_broker: EmbeddedBroker, operator: redis.Redis
) -> None:
    failed = producer.submit(**LONG, model="tiny", timeout_s=1)
    serving.outlast(operator, failed.job_id, 1)
    assert failed.result(timeout_s=100, check=False).status == "failed"
    wait_for(lambda: operator.zscore("rq:failed:generate.tiny", failed.job_id), "the failed registry")
    running = producer.submit(**LONG, model="tiny")
    registries = ("queued", "started", "finished", "failed", "deferred", "scheduled", "canceled")
    pages = ["", "0/view/workers", "0/data/workers.json", "0/data/queues.json", f"0/view/job/{failed.job_id}"]
    pages += [f"0/data/job/{job_id}.json" for job_id in (failed.job_id, running.job_id)]
    pages += [f"0/data/jobs/generate.tiny/{registry}/8/asc/1.json" for registry in registries]
    with dashboard(url_of(serving_broker, "dashboard")) as address:
        for page in pages:
            with urlopen(f"{address}/{page}", timeout=100) as response:
                assert response.status == 200, page
        running.cancel()
        operator.hset(f"rq:job:{failed.job_id}", "timeout", 60)
        for requeue in (f"job/{failed.job_id}/requeue", "requeue/generate.tiny"):
            with urlopen(Request(f"{address}/{requeue}", method="POST"), timeout=100) as response:
                assert response.status == 200
    job = Job(failed.job_id, connection=operator, serializer="json")
    wait_for(lambda: job.get_status() == JobStatus.FINISHED, "the second life's end")
    assert refusals(operator) == []


def test_what_goes_on_is_for_the_dashboards_user_and_not_for_a_producers(
    serving: WorkerProcess, serving_broker: EmbeddedBroker
) -> None:
    with Producer(url_of(serving_broker, "dashboard")) as looks:
        [model] = looks.overview("tiny").models
        assert [worker.name for worker in model.workers] == [serving.name]
    with Producer(url_of(serving_broker, "producer")) as submits:
        with pytest.raises(BrokerUnavailable, match="use an operator's"):
            submits.overview()
        assert submits.cancel_many(["unknown"]) == {"unknown": "no_such_job"}


@pytest.mark.parametrize(
    ("role", "needs"), [("producer", producer_needs), ("gateway", gateway_needs), ("worker", worker_needs)]
)
def test_what_the_doctor_asks_for_is_granted_to_the_role_and_not_to_another(
    as_role: Callable[[str], redis.Redis], role: str, needs: Callable[..., list[tuple[str, ...]]]
) -> None:
    assert refused(as_role(role), needs(Keys(), "tiny")) == []
    assert refused(as_role("dashboard"), needs(Keys(), "tiny"))


# -- what each role can not do

ADMINISTRATION = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("DEBUG", "SLEEP", "0"),
    ("SHUTDOWN", "NOSAVE"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "evil", "on", "nopass", "~*", "&*", "+@all"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", "1"),
    ("MONITOR",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
    ("FUNCTION", "LOAD", "#!lua name=evil\nredis.register_function('evil', function() end)"),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("SWAPDB", "0", "1"),
    ("MIGRATE", "127.0.0.1", "1", "gen:{job}:events", "0", "1"),
    ("GET", "app:secret"),
    ("SET", "app:secret", "x"),
    ("SUBSCRIBE", "app:news"),
    ("PUBLISH", "app:news", "x"),
    ("RPUSH", "rq:queue:mail", "job"),
]

BEYOND_A_PRODUCER = [
    # Commands to workers.
    ("PUBLISH", "rq:pubsub:w1", '{"command": "shutdown"}'),
    ("EVAL", "return redis.call('PUBLISH', 'rq:pubsub:w1', 'x')", "0"),
    ("SUBSCRIBE", "rq:pubsub:w1"),
    ("PSUBSCRIBE", "*"),
    ("PSUBSCRIBE", "gen:{*}:tokens"),
    ("SET", "rq:suspended", "1"),
    # To be a worker, or to look like one.
    ("SADD", "rq:workers", "rq:worker:evil"),
    ("SADD", "rq:workers:generate.tiny", "rq:worker:evil"),
    ("HSET", "rq:worker:evil", "state", "idle"),
    ("SADD", "gen:takers", "evil"),
    # What workers hold.
    ("LRANGE", "gen:{taken:w1}", "0", "-1"),
    ("LREM", "gen:{taken:w1}", "1", "job"),
    ("RPUSH", "gen:{taken:w1}", "job"),
    ("SREM", "gen:takers", "w1"),
    ("ZADD", "rq:wip:generate.tiny", "1", "job"),
    ("ZADD", "rq:finished:generate.tiny", "1", "job"),
    # To take jobs, to list them, or to make other keys go away than those of a job.
    ("LRANGE", "rq:queue:mail", "0", "-1"),
    ("LPOP", "rq:queue:generate.tiny"),
    ("LMOVE", "rq:queue:generate.tiny", "rq:queue:generate.tiny", "LEFT", "RIGHT"),
    ("LRANGE", "rq:queue:generate.tiny", "0", "-1"),
    ("ZRANGE", "rq:finished:generate.tiny", "0", "-1"),
    ("DEL", "gen:{deadlines:tiny}"),
    ("DEL", "gen:{taken:w1}"),
    ("DEL", "rq:queue:generate.tiny"),
    ("EXPIRE", "rq:queue:generate.tiny", "0"),
    ("SMEMBERS", "rq:queues"),
    ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "rq:queue:generate.tiny"),
    ("DEL", "gen:{wake:1}"),
    ("XTRIM", "gen:{job}:events", "MAXLEN", "0"),
    ("XDEL", "gen:{job}:events", "1-0"),
    ("RENAME", "gen:{job}:events", "gen:{other}:events"),
    ("XADD", "rq:results:job", "*", "type", "1"),
]

BEYOND_A_WORKER = [
    ("LRANGE", "rq:queue:mail", "0", "-1"),
    ("PUBLISH", "rq:pubsub:w1", '{"command": "shutdown"}'),
    ("SUBSCRIBE", "gen:{job}:tokens"),
    ("SET", "rq:suspended", "1"),
]

BEYOND_A_DASHBOARD = [
    ("PUBLISH", "rq:pubsub:w1", '{"command": "shutdown"}'),
    ("XRANGE", "gen:{job}:events", "-", "+"),
    ("GET", "gen:{job}:result"),
    ("SUBSCRIBE", "gen:{job}:tokens"),
    ("SET", "rq:suspended", "1"),
    ("SADD", "rq:workers", "rq:worker:evil"),
    ("DEL", "rq:job:job"),
    ("LPOP", "rq:queue:generate.tiny"),
]

OF_A_GATEWAY = [("SMEMBERS", "rq:queues"), ("LRANGE", "rq:queue:generate.tiny", "0", "-1")]
"""Which models there are, and the jobs that wait."""

FORBIDDEN = [
    *((role, command) for role in ROLES for command in ADMINISTRATION),
    *(
        (role, ("CLIENT", "LIST")) for role in ("producer", "gateway", "dashboard")
    ),  # workers see whose connection is gone
    *(("producer", command) for command in BEYOND_A_PRODUCER),
    *(("gateway", command) for command in BEYOND_A_PRODUCER if command not in OF_A_GATEWAY),
    *(("worker", command) for command in BEYOND_A_WORKER),
    *(("dashboard", command) for command in BEYOND_A_DASHBOARD),
]


@pytest.mark.parametrize(
    ("role", "command"), FORBIDDEN, ids=[" ".join((role, *command))[:70] for role, command in FORBIDDEN]
)
def test_a_role_is_refused(
    as_role: Callable[[str], redis.Redis], operator: redis.Redis, role: str, command: tuple[str, ...]
) -> None:
    with pytest.raises(
        redis.ResponseError, match=r"(?i)no permissions|ACL failure|user executing the script can't"
    ):
        as_role(role).execute_command(*command)
    assert [each["username"] for each in operator.acl_log()] == [f"genqueue-{role}"]


def test_nobody_gets_in_without_a_password(serving_broker: EmbeddedBroker) -> None:
    for user in ("", *(f"genqueue-{role}:wrong@" for role in ROLES)):
        url = f"redis://{user}127.0.0.1:{serving_broker.port}/0"
        with Producer(url) as producer, pytest.raises(BrokerUnavailable, match="password"):
            producer.submit("hi", model="tiny")


def test_rqs_own_stop_command_is_refused_to_a_producer(
    producer: Producer, as_role: Callable[[str], redis.Redis], operator: redis.Redis
) -> None:
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(operator, job.job_id)
    with pytest.raises(redis.exceptions.NoPermissionError):
        send_stop_job_command(as_role("producer"), job.job_id, serializer="json")
    job.cancel()
    job.result(timeout_s=100, check=False)


def test_a_producers_user_cannot_register_a_worker(
    serving_broker: EmbeddedBroker, as_role: Callable[[str], redis.Redis], model_paths: Path
) -> None:
    worker = SimpleWorker(["generate.tiny"], connection=as_role("producer"), serializer="json")
    with pytest.raises(redis.exceptions.NoPermissionError):
        worker.register_birth()
    options = ("--device", "cpu", "--model-paths", str(model_paths))
    done = subprocess.run(
        [sys.executable, "-m", "worker", "run", "--model-name", "tiny", *options],
        env={"GENQUEUE_REDIS_URL": url_of(serving_broker, "producer"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "ACL" in done.stderr
    assert password("producer") not in done.stderr
