"""What the version before wrote is read: its jobs, their streams and their results, as they stood in Redis."""

import json

import pytest
from fakeredis import FakeRedis

from producer import GenerationResult, JobCancelled, Producer, PromptTooLong, StreamedEvent, Tokens
from producer.job_status import progress_of
from tests.fixtures.recorded import Recording, names

ENDED = ["cancelled", "failed", "finished", "finished-with-logprobs", "finished-with-stop"]
WAITING = ["queued-by-producer", "queued-by-rq"]


def test_each_recording_is_read_by_a_test() -> None:
    assert names() == sorted([*ENDED, *WAITING, "cut-off", "cut-off-greedy"])


@pytest.fixture
def recording(client: FakeRedis, request: pytest.FixtureRequest) -> Recording:
    recording = Recording.load(request.param)
    recording.restore(client)
    return recording


def _joined(events: list[StreamedEvent]) -> tuple[str, tuple[int, ...]]:
    tokens = [event.event.data for event in events if isinstance(event.event, Tokens)]
    return "".join(data.text for data in tokens), tuple(token_id for data in tokens for token_id in data.ids)


@pytest.mark.parametrize("recording", ENDED, indirect=True)
def test_a_job_that_has_ended_is_followed_and_answered(producer: Producer, recording: Recording) -> None:
    events = list(producer.stream(recording.job_id, timeout_s=10))
    result = producer.result(recording.job_id, timeout_s=10, check=False)
    written = json.loads(recording.result)

    assert [str(event.id).encode() for event in events] == [entry_id for entry_id, _ in recording.entries]
    assert result == events[-1].event.data == GenerationResult.model_validate(written)
    assert _joined(events) == (result.text, result.token_ids) == (written["text"], tuple(written["token_ids"]))
    assert json.loads(result.model_dump_json()) == written, "nothing of it was passed over"
    assert producer.status(recording.job_id).state == result.status
    assert producer.cancel(recording.job_id) == "ended"


@pytest.mark.parametrize("recording", ENDED, indirect=True)
def test_each_event_is_encoded_as_it_was(producer: Producer, recording: Recording) -> None:
    """An older subscriber finds in a stream of ours what it found in its own."""
    for event, (_, fields) in zip(producer.stream(recording.job_id), recording.entries, strict=True):
        data = json.loads(event.to_json())["data"]
        assert {name: value for name, value in data.items() if name in json.loads(fields[b"data"])} == json.loads(
            fields[b"data"]
        )


@pytest.mark.parametrize("recording", ["finished-with-logprobs"], indirect=True)
def test_log_probabilities_are_there(producer: Producer, recording: Recording) -> None:
    events = list(producer.stream(recording.job_id))
    logprobs = [
        one for event in events if isinstance(event.event, Tokens) for one in event.event.data.logprobs or ()
    ]

    assert len(logprobs) == len(producer.result(recording.job_id).token_ids)
    assert all(one.logprob <= 0 and len(one.top) == 2 for one in logprobs)


@pytest.mark.parametrize("recording", ["finished-with-stop"], indirect=True)
def test_the_stop_string_that_matched_is_there(producer: Producer, recording: Recording) -> None:
    result = producer.result(recording.job_id).raise_for_status()

    assert (result.finish_reason, result.stop) == ("stop", "。")


@pytest.mark.parametrize(
    ("recording", "raised"), [("failed", PromptTooLong), ("cancelled", JobCancelled)], indirect=["recording"]
)
def test_what_did_not_finish_says_so(producer: Producer, recording: Recording, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        producer.result(recording.job_id).raise_for_status()


@pytest.mark.parametrize("recording", ["cancelled", "cut-off"], indirect=True)
def test_the_progress_in_the_meta_is_read(recording: Recording) -> None:
    progress = progress_of({"meta": recording.hash["meta"].decode()})

    assert progress is not None
    assert progress.phase


@pytest.mark.parametrize("recording", ["cut-off"], indirect=True)
def test_a_job_whose_worker_was_killed_is_running_and_followed_as_far_as_it_came(
    producer: Producer, recording: Recording
) -> None:
    stream = producer.stream(recording.job_id, timeout_s=10)

    events = [next(stream) for _ in recording.entries]

    assert events[-1].id.seq == len(events) - 1
    assert producer.status(recording.job_id).state == "running"
    assert producer.cancel(recording.job_id) == "requested"


@pytest.mark.parametrize("recording", WAITING, indirect=True)
def test_a_job_that_waits_stands_in_line_and_can_be_cancelled(producer: Producer, recording: Recording) -> None:
    assert producer.status(recording.job_id).position == 0
    assert producer.cancel(recording.job_id) == "cancelled"
    assert producer.result(recording.job_id, timeout_s=10, check=False).status == "cancelled"
