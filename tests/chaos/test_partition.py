"""Three hosts and a link that is cut: the worker beyond it is taken over, and fenced when the link returns."""

import os
import time
from collections.abc import Iterator

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.integration.conftest import joined
from tests.integration.test_worker import LONG, wait_for, wait_for_tokens

from .namespaces import Star, Unavailable, why_unavailable
from .test_zombie import IMPATIENT, TTL_S, serve_until, traces


@pytest.fixture
def star() -> Iterator[Star]:
    """Hosts a and b around the hub. Skips, and says why, where there can be none."""
    if reason := why_unavailable():
        pytest.skip(reason)
    try:
        with Star("a", "b") as star:
            yield star
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no network namespaces here: {error}")


def test_a_worker_that_lost_its_link_is_taken_over_and_fenced(star, start_worker):
    reachable = ("--bind", "0.0.0.0", "--protected-mode", "no")
    with (
        star.inside("hub"),
        EmbeddedBroker(append_only=True, options=reachable) as broker,
        Producer(broker.url) as producer,
        redis.Redis(port=broker.port) as client,
    ):
        with star.inside("a"):
            first = start_worker(f"redis://{star.hub_address('a')}:{broker.port}/0", **IMPATIENT)
        wait_for(lambda: b"ready" in _model_states(client), "the first worker", 60)
        [first_name] = _worker_names(client)
        job = producer.submit(**LONG, model="tiny")
        wait_for_tokens(client, job.job_id)
        star.cut("a")
        cut_at = time.monotonic()
        published = client.xlen(f"gen:{{{job.job_id}}}:events")
        with star.inside("b"):
            start_worker(f"redis://{star.hub_address('b')}:{broker.port}/0", **IMPATIENT)

        result = job.result(timeout_s=100)
        assert result.attempts == 2
        assert result.worker != first_name
        assert 0 < published < client.xlen(f"gen:{{{job.job_id}}}:events")
        wait_for(lambda: client.hget(f"rq:job:{job.job_id}", "status") == b"finished", "RQ's bookkeeping")
        time.sleep(max(0.0, cut_at + 3 * TTL_S - time.monotonic()))  # the length of the outage
        before = traces(client, job.job_id)

        star.mend("a")
        wait_for(lambda: "has been taken over" in first.text(), "the first to find itself fenced off", 60)
        serve_until(client, producer, first_name)
        assert traces(client, job.job_id) == before
        assert joined(list(job.stream())) == (result.text, list(result.token_ids))


def _worker_names(client: redis.Redis) -> list[str]:
    return [key.decode().rpartition(":")[2] for key in client.smembers("rq:workers")]


def _model_states(client: redis.Redis) -> list[bytes | None]:
    return [client.hget(f"rq:worker:{name}", "model_state") for name in _worker_names(client)]
