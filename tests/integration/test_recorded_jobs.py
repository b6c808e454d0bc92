"""Jobs of the version before, as they stood in its Redis, in the hands of a real worker of this version."""

import json

import redis

from producer import Producer
from tests.fixtures.recorded import Recording

from .conftest import joined


def test_jobs_that_the_version_before_left_behind_are_taken_to_their_ends(broker, redis_client, start_worker):
    """Two that wait, and two whose worker was killed in mid-stream: it is found dead, and each goes on."""
    waiting = [Recording.load(name) for name in ("queued-by-producer", "queued-by-rq")]
    cut_off = [Recording.load(name) for name in ("cut-off", "cut-off-greedy")]
    for recording in [*waiting, *cut_off]:
        recording.restore(redis_client)
    start_worker(broker.url)

    with Producer(broker.url) as producer:
        for recording in waiting:
            result = producer.result(recording.job_id, timeout_s=100).raise_for_status()
            assert (result.seed, len(result.token_ids) <= 8, result.attempts) == (7, True, 1)
        for recording in cut_off:
            result = producer.result(recording.job_id, timeout_s=100).raise_for_status()
            events = list(producer.stream(recording.job_id))
            assert joined(events) == (result.text, list(result.token_ids))
            assert result.token_ids[: len(recording.token_ids)] == tuple(recording.token_ids)
            assert (len(result.token_ids), result.attempts) == (900, 2)
            assert _stream(redis_client, recording)[: len(recording.entries)] == recording.entries

        # Greedy, and its prompt is ids: what follows the recorded ids is what follows them as a prompt, whatever
        # the model on this machine has learnt.
        greedy = cut_off[1]
        prompt = [*_request(greedy)["prompt_token_ids"], *greedy.token_ids]
        rest = 900 - len(greedy.token_ids)
        undisturbed = producer.submit(prompt_token_ids=prompt, max_new_tokens=rest, ignore_eos=True, model="tiny")
        continued = producer.result(greedy.job_id).token_ids
        assert continued[len(greedy.token_ids) :] == undisturbed.result(timeout_s=100).token_ids


def _stream(client: redis.Redis, recording: Recording) -> list:
    return client.xrange(f"gen:{{{recording.job_id}}}:events")


def _request(recording: Recording) -> dict:
    [_, _, _, kwargs] = json.loads(recording.data)
    return kwargs["request"]
