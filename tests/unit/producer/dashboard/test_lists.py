"""The lists of jobs: what is counted where, and what stands on which page."""

import pytest
from flask.testing import FlaskClient
from rq import Queue

from .conftest import cancel, enqueue, fail, finish, stop


def counts(client: FlaskClient) -> dict[str, int]:
    [queue] = client.get("/0/data/queues.json").get_json()["queues"]
    return {name: queue[f"{name}_job_registry_count"] for name in ("failed", "canceled", "finished")}


def listed(client: FlaskClient, registry: str, order: str = "asc", page: int = 1, per_page: int = 8) -> list[str]:
    answer = client.get(f"/0/data/jobs/generate.tiny/{registry}/{per_page}/{order}/{page}.json").get_json()
    return [job["id"] for job in answer["jobs"]]


def test_what_was_cancelled_is_counted_and_listed_apart_from_what_failed(
    client: FlaskClient, queue: Queue
) -> None:
    fail(queue, "failed")
    stop(queue, "stopped")
    cancel(queue, "cancelled")
    assert counts(client) == {"failed": 1, "canceled": 2, "finished": 0}
    assert listed(client, "failed") == ["failed"]
    assert listed(client, "canceled") == ["cancelled", "stopped"]


def test_each_says_how_it_ended(client: FlaskClient, queue: Queue) -> None:
    fail(queue, "failed")
    stop(queue, "stopped")
    path = "/0/data/jobs/generate.tiny/{}/8/asc/1.json"
    [failed] = client.get(path.format("failed")).get_json()["jobs"]
    [stopped] = client.get(path.format("canceled")).get_json()["jobs"]
    assert (failed["status"], failed["exc_info"]) == ("failed", "out_of_memory: ask for less")
    assert (stopped["status"], stopped["exc_info"]) == ("cancelled", None)
    assert "ended_at" not in stopped, "what RQ does not know is not now"


def test_what_is_known_of_an_end_is_asked_for_once(
    client: FlaskClient, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open page asks every 2.5 s."""
    fail(queue, "a")
    assert counts(client)["failed"] == 1
    queue.connection.hset("rq:job:a", "status", "stopped")
    assert counts(client)["failed"] == 1
    fail(queue, "b")
    assert counts(client)["failed"] == 2
    queue.failed_job_registry.remove("a")
    assert listed(client, "failed") == ["b"]


def test_what_stands_in_place_of_a_job_hides_no_other(client: FlaskClient, queue: Queue) -> None:
    fail(queue, "a")
    stop(queue, "b")
    queue.connection.delete("rq:job:a")
    queue.connection.lpush("rq:job:a", "no hash")
    assert counts(client) == {"failed": 1, "canceled": 1, "finished": 0}


def test_requeue_all_leaves_the_cancelled_ones(client: FlaskClient, queue: Queue) -> None:
    fail(queue, "failed")
    stop(queue, "stopped")
    assert client.post(f"/requeue/{queue.name}").get_json() == {"status": "OK", "count": 1}
    assert queue.get_job_ids() == ["failed"]


@pytest.mark.parametrize("registry", ["queued", "failed"])
def test_each_page_has_its_own_jobs(client: FlaskClient, queue: Queue, registry: str) -> None:
    """rq-dashboard 0.9 shows 16 jobs on the second page of 8, and 7 on the first where the last come first."""
    ids = [f"job-{number:02}" for number in range(20)]
    for job_id in ids:
        (enqueue if registry == "queued" else fail)(queue, job_id)
    for order, expected in (("asc", ids), ("dsc", ids[::-1])):
        pages = [listed(client, registry, order, page) for page in (1, 2, 3, 4)]
        assert pages == [expected[:8], expected[8:16], expected[16:], []]


def test_a_groups_queue_is_shown_with_its_jobs_and_requeued(client: FlaskClient, queue: Queue) -> None:
    of_a_group = Queue("generate.tiny.high@al~20ice", connection=queue.connection, serializer="json")
    fail(of_a_group, "failed")
    assert [each["name"] for each in client.get("/0/data/queues.json").get_json()["queues"]] == [of_a_group.name]
    jobs = client.get(f"/0/data/jobs/{of_a_group.name}/failed/8/asc/1.json").get_json()["jobs"]
    assert [job["id"] for job in jobs] == ["failed"]
    assert client.post(f"/requeue/{of_a_group.name}").get_json() == {"status": "OK", "count": 1}
    assert of_a_group.get_job_ids() == ["failed"]


def test_a_list_that_is_not_there_is_404(client: FlaskClient, queue: Queue) -> None:
    finish(queue, "a")
    assert client.get("/0/data/jobs/generate.tiny/nonsense/8/asc/1.json").status_code == 404
    assert client.get("/0/data/jobs/generate.tiny/finished/0/asc/1.json").status_code == 404


def test_the_page_names_the_list(client: FlaskClient, queue: Queue) -> None:
    page = client.get("/0/view/jobs/generate.tiny/canceled/8/asc/1").text
    assert "The cancelled jobs of queue <strong>generate.tiny</strong>" in " ".join(page.split())
