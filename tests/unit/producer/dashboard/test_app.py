"""Who the dashboard lets in, what it lets them change, and how it refuses to start."""

import socket
import sys
from base64 import b64encode
from importlib import import_module

import pytest
from fakeredis import FakeRedis, FakeServer
from flask import Flask
from flask.testing import FlaskClient
from rq import Queue, SimpleWorker
from rq.results import Result

from producer.cli import run
from producer.contract import FUNCTION, BrokerUnavailable
from producer.dashboard import DashboardError, make_app, serve

from .conftest import URL, enqueue

ELSEWHERE = "http://evil.example"


@pytest.fixture(params=["/", "/0/data/workers.json", "/static/favicon.ico", "/no-such-page"])
def path(request: pytest.FixtureRequest) -> str:
    """Paths of each kind."""
    return str(request.param)


def login(name: str, password: str) -> dict[str, str]:
    """Header of HTTP Basic authentication."""
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


def status(app: Flask, path: str, **headers: str) -> int:
    """Status of a GET."""
    with app.test_client().get(path, headers=headers) as response:
        return response.status_code


def test_password_guards_every_path(path: str) -> None:
    app = make_app(URL, username="ann", password="sésame")
    assert status(app, path) == 401
    assert status(app, path, **login("ann", "wrong")) == 401
    assert status(app, path, **login("bob", "sésame")) == 401
    for given in ("Bearer sésame", "Basic \xff", "Basic /w==", 'Digest username="ann", password="sésame"'):
        assert status(app, path, Authorization=given) == 401
    assert status(app, path, **login("ann", "sésame")) == (404 if path == "/no-such-page" else 200)


def test_a_refused_login_says_how_to_log_in() -> None:
    response = make_app(URL, password="sesame").test_client().get("/")
    assert response.headers["WWW-Authenticate"] == 'Basic realm="genqueue dashboard"'


def test_without_a_username_the_password_is_enough() -> None:
    app = make_app(URL, password="sesame")
    assert status(app, "/", **login("whoever", "sesame")) == 200
    assert status(app, "/", **login("whoever", "")) == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "worker-3", ""])
@pytest.mark.parametrize("password", [None, ""])
def test_serve_refuses_to_be_open_to_others(host: str, password: str | None) -> None:
    with pytest.raises(DashboardError, match=r"set GENQUEUE_DASHBOARD_PASSWORD, or bind it to 127\.0\.0\.1"):
        serve(URL, host=host, username="ann", password=password)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:9181", 200),
        ("127.0.0.1:9181", 200),
        ("[::1]:9181", 200),
        ("evil.example", 400),
    ],
)
def test_without_a_password_only_loopback_names_are_answered(host: str, expected: int) -> None:
    """A page elsewhere can point its own name at 127.0.0.1 (DNS rebinding), but the browser sends that name."""
    assert status(make_app(URL), "/", Host=host) == expected


def test_behind_a_password_any_name_is_answered() -> None:
    app = make_app(URL, password="sesame")
    assert status(app, "/", Host="gpu.example", **login("ann", "sesame")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ELSEWHERE},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_changes_from_other_sites_are_refused(client: FlaskClient, headers: dict[str, str]) -> None:
    for path in ("/job/x/requeue", "/requeue/generate.tiny", "/queue/generate.tiny/compact", "/job/x/delete"):
        assert client.post(path, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},  # not a browser
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
    ],
)
def test_changes_from_its_own_pages_are_accepted(client: FlaskClient, headers: dict[str, str]) -> None:
    response = client.post("/requeue/generate.tiny", headers=headers)
    assert (response.status_code, response.json) == (200, {"status": "OK", "count": 0})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_get_changes_nothing(client: FlaskClient, method: str) -> None:
    """rq-dashboard 0.9 requeues every failed job of a queue on a GET, which a link or a prefetch can cause."""
    response = client.open("/requeue/generate.tiny", method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_jobs_cannot_be_deleted(client: FlaskClient, queue: Queue) -> None:
    enqueue(queue, "queued")
    for path in ("/job/queued/delete", f"/queue/{queue.name}/queued/empty"):
        assert client.post(path).json == {"status": "DISABLED"}
    assert queue.get_job_ids() == ["queued"]
    assert 'id="delete-job-btn"' not in client.get("/0/view/job/queued").text


def test_a_queues_name_in_the_address_is_text(client: FlaskClient) -> None:
    """rq-dashboard 0.9 writes it into a script unescaped, so that a link could run anything in the page."""
    page = client.get("/0/view/jobs/');alert(1);('/queued/8/asc/1").text
    assert "alert(1)" in page
    assert "');alert(1);('" not in page


def test_every_value_from_redis_is_escaped(client: FlaskClient, queue: Queue) -> None:
    for path in ("/", "/0/view/workers", f"/0/view/jobs/{queue.name}/queued/8/asc/1"):
        page = client.get(path).text
        assert "<%-" in page
        assert "<%=" not in page


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://:hunter2@localhost:port/0"])
def test_a_malformed_redis_url_is_refused_without_quoting_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real client
    with pytest.raises(BrokerUnavailable, match="the Redis URL is not valid") as caught:
        make_app(url)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def _no_rq_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rq_dashboard", None)  # what a bare install looks like to an import
    for name in [name for name in sys.modules if name.startswith("producer.dashboard")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("_no_rq_dashboard")
def test_without_the_extra_the_import_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'genqueue\[dashboard\]'"):
        import_module("producer.dashboard")


@pytest.mark.usefixtures("_no_rq_dashboard")
def test_without_the_extra_the_command_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dashboard"]) == 2
    assert capsys.readouterr() == ("", "rq-dashboard is not installed: pip install 'genqueue[dashboard]'\n")


@pytest.fixture
def deployments(fake_server: FakeServer) -> FakeRedis:
    """Two deployments and another application on one server, each with a worker and jobs."""
    redis = FakeRedis(server=fake_server)
    for name in ("generate.tiny", "mine.generate.tiny", "mail"):
        Queue(name, connection=redis, serializer="json").enqueue(
            FUNCTION, request={"prompt": "Hi"}, job_id=name.replace(".", "-"), description="generate with tiny"
        )
        SimpleWorker([name], name=f"worker-of-{name}", connection=redis, serializer="json").register_birth()
    return redis


@pytest.mark.parametrize(
    ("prefix", "shown"),
    [
        ("mine", ["mine.generate.tiny"]),
        ("gen", ["generate.tiny"]),
        (None, ["generate.tiny", "mail", "mine.generate.tiny"]),
    ],
)
def test_a_prefix_shows_one_deployment(deployments: FakeRedis, prefix: str | None, shown: list[str]) -> None:
    client = make_app(URL, prefix=prefix).test_client()
    queues = client.get("/0/data/queues.json").get_json()["queues"]
    workers = client.get("/0/data/workers.json").get_json()["workers"]

    assert sorted(queue["name"] for queue in queues) == shown
    assert sorted(worker["name"] for worker in workers) == [f"worker-of-{name}" for name in shown]
    for name in ("generate.tiny", "mail", "mine.generate.tiny"):
        expected = 200 if name in shown else 404
        job_id = name.replace(".", "-")
        assert client.get(f"/0/data/job/{job_id}.json").status_code == expected
        assert client.get(f"/0/view/job/{job_id}").status_code == expected
        assert client.get(f"/0/data/jobs/{name}/queued/8/asc/1.json").status_code == expected
        assert client.post(f"/requeue/{name}").status_code == expected
        assert client.post(f"/queue/{name}/compact").status_code == expected
        assert client.post(f"/job/{job_id}/requeue").status_code == (409 if name in shown else 404)
        assert deployments.lrange(f"rq:queue:{name}", 0, -1) == [job_id.encode()], "looking takes no job away"


def test_compacting_takes_out_what_is_gone_and_no_job(
    deployments: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of an empty queue, nor where it is cut off in the middle."""
    key, client = "rq:queue:generate.tiny", make_app(URL).test_client()
    deployments.rpush(key, "gone", "generate-tiny", b"\xff")
    deployments.lpush(key, "gone")
    assert client.post("/queue/generate.tiny/compact").status_code == 200
    assert deployments.lrange(key, 0, -1) == [b"generate-tiny", b"generate-tiny"]
    assert client.post("/queue/generate.none/compact").status_code == 200

    def cut_off(*_: object) -> None:
        raise ConnectionError

    deployments.rpush(key, "gone")
    for command in ("lrem", "lpop", "rpush"):
        monkeypatch.setattr(FakeRedis, command, cut_off)
    client.post("/queue/generate.tiny/compact")
    assert deployments.lrange(key, 0, -1) == [b"generate-tiny", b"generate-tiny", b"gone"]


def test_the_jobs_page_begins_with_a_queue_of_the_prefix(deployments: FakeRedis) -> None:
    assert (
        "<strong>mine.generate.tiny</strong>"
        in make_app(URL, prefix="mine").test_client().get("/0/view/jobs").text
    )


def test_numbers_that_javascript_would_round_are_text(fake_server: FakeServer) -> None:
    """A seed of 2^53 + 1 was shown as 2^53."""
    redis = FakeRedis(server=fake_server)
    queue = Queue("generate.tiny", connection=redis, serializer="json")
    job = queue.enqueue(FUNCTION, request={"prompt": "Hi"}, job_id="a")
    result = {"seed": 2**53 + 1, "usage": {"completion_tokens": 2**53}, "ids": [-(2**60), 1], "stopped": True}
    Result.create(job, Result.Type.SUCCESSFUL, ttl=60, return_value=result)

    assert make_app(URL).test_client().get("/0/data/job/a.json").get_json()["result"] == {
        "seed": str(2**53 + 1),
        "usage": {"completion_tokens": 2**53},
        "ids": [str(-(2**60)), 1],
        "stopped": True,
    }


def test_an_address_in_use_is_exit_code_2_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["dashboard", "--redis-url", "redis://h", "--port", str(port)]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    why = f"the dashboard cannot listen at 127.0.0.1:{port} (Address already in use)"
    assert err == f"{why}: give another --port or --host\n"
