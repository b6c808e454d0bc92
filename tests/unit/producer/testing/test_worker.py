"""The scripted worker, as somebody who tests his own code meets it: through a Producer, and nothing else."""

import math
from collections.abc import Callable, Iterator

import pytest
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.worker import BaseWorker

from producer import (
    EngineError,
    InvalidRequest,
    JobCancelled,
    JobError,
    JobExpired,
    JobHandle,
    OutOfMemory,
    Producer,
    PromptTooLong,
    StreamedEvent,
    WorkerLost,
)
from producer.testing import Asked, ScriptedWorker, scripted_worker
from producer.testing.token_ids import decode


@pytest.fixture
def producer(genqueue_worker: ScriptedWorker) -> Iterator[Producer]:
    with Producer() as producer:
        yield producer


@pytest.fixture
def ask(producer: Producer) -> Callable[..., JobHandle]:
    def ask(prompt: str = "Hi", **options: object) -> JobHandle:
        return producer.submit(prompt, **{"model": "tiny", **options})  # type: ignore[arg-type]

    return ask


def texts(events: list[StreamedEvent]) -> list[str]:
    return [event.event.data.text for event in events if event.event.type == "tokens"]


def test_a_prompt_has_the_answer_that_it_was_given(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.answers("Hi", "Hello, 世界 🌱")

    result = ask().result()

    assert (result.text, result.status, result.finish_reason, result.attempts) == (
        "Hello, 世界 🌱",
        "finished",
        "stop",
        1,
    )
    assert decode(result.token_ids) == result.text
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (2, len(result.text))
    assert result.timings.queued_ms is not None


def test_a_prompt_without_an_answer_is_said_again(ask) -> None:
    assert ask("What?").result().text == "scripted answer to: What?"


def test_answers_come_in_chunks(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.chunk_chars = 3
    genqueue_worker.answers("Hi", "Hello you")
    genqueue_worker.answers("Ho", ["a", "bcd", ""])

    assert texts(list(ask("Hi").stream())) == ["Hel", "lo ", "you"]
    assert texts(list(ask("Ho").stream())) == ["a", "bcd"]


def test_a_function_answers_what_has_no_answer_of_its_own(genqueue_worker: ScriptedWorker, ask) -> None:
    def answer(asked: Asked) -> str:
        if asked.request.temperature > 1:
            raise OutOfMemory("too hot")
        return asked.prompt.upper()

    genqueue_worker.answer_with(answer)
    genqueue_worker.answer_with({"Ho": "own"})

    assert ask("Hi").result().text == "HI"
    assert ask("Ho").result().text == "own"
    with pytest.raises(OutOfMemory, match="too hot"):
        ask("Hi", temperature=1.5).result()


def test_what_a_function_raises_fails_the_job_and_the_test() -> None:
    def answer(asked: Asked) -> str:
        assert asked.prompt == "Ho"
        return ""

    def use() -> None:
        with scripted_worker() as worker, Producer(worker.url) as producer:
            worker.answer_with(answer)
            with pytest.raises(EngineError, match="raised AssertionError"):
                producer.submit("Hi", model="tiny").result()

    with pytest.raises(AssertionError, match="Ho"):
        use()


def test_an_answer_that_is_no_text_is_refused(genqueue_worker: ScriptedWorker) -> None:
    with pytest.raises(TypeError, match="and not int"):
        genqueue_worker.answers("Hi", [1])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        genqueue_worker.answers("Hi", "\ud800")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("out_of_memory", OutOfMemory),
        ("engine_error", EngineError),
        ("prompt_too_long", PromptTooLong),
        ("invalid_request", InvalidRequest),
        ("of_tomorrow", JobError),
    ],
)
def test_a_job_fails_as_it_is_told(genqueue_worker: ScriptedWorker, ask, code: str, error: type[JobError]) -> None:
    genqueue_worker.fails("Hi", code, "so it is")

    with pytest.raises(error, match="so it is") as raised:
        ask().result()
    assert raised.value.code == code


def test_a_job_that_fails_keeps_its_text(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.fails("Hi", after="so far")

    result = ask().result(check=False)

    assert (result.status, result.text, result.error.code) == ("failed", "so far", "engine_error")


def test_it_tells_what_it_was_asked(genqueue_worker: ScriptedWorker, producer: Producer) -> None:
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    jobs, results = [], []
    for asked in ({"prompt": "Ho", "seed": 7}, {"messages": chat}, {"prompt_token_ids": [72, 105]}):
        jobs.append(producer.submit(**asked, model="other" if "messages" in asked else "tiny"))
        results.append(jobs[-1].result())

    assert genqueue_worker.prompts == ["Ho", "Hi", "Hi"]
    assert [(asked.model, asked.job_id) for asked in genqueue_worker.requests] == [
        (job.model, job.job_id) for job in jobs
    ]
    assert genqueue_worker.requests[0].request.seed == results[0].seed == 7
    assert [result.usage.prompt_tokens for result in results] == [2, 11, 2]


def test_stop_strings_and_lengths_are_heeded(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.answers("Hi", "one. two. three.")

    stopped, cut = ask(stop=["two", ". t"]).result(), ask(max_new_tokens=6).result()

    assert (stopped.text, stopped.finish_reason, stopped.stop) == ("one", "stop", ". t")
    assert (cut.text, cut.finish_reason, cut.truncated) == ("one. t", "length", True)


def test_logprobs_are_those_of_somebody_who_is_sure(genqueue_worker: ScriptedWorker, ask) -> None:
    [event] = [
        event.event.data for event in ask(logprobs=2, max_new_tokens=2).stream() if event.event.type == "tokens"
    ]

    assert [token.logprob for token in event.logprobs] == [0.0, 0.0]


def test_after_a_crash_another_worker_goes_on(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.answers("Hi", "0123456789")
    genqueue_worker.crash_after(tokens=3)
    genqueue_worker.crash_after(tokens=2)
    job = ask()
    events = list(job.stream())

    assert [str(event.id) for event in events if event.event.type == "started"] == ["1-0", "2-2", "3-5"]
    assert [event.event.data.resumed_tokens for event in events if event.event.type == "started"] == [0, 3, 5]
    assert texts(events) == ["012", "3", "4", "567", "89"]
    assert [event.event.data.index for event in events if event.event.type == "tokens"] == [0, 3, 4, 5, 8]
    assert [event.id.seq for event in events] == list(range(len(events)))
    result = job.result()
    assert (result.text, result.attempts) == ("0123456789", 3)
    assert len({event.event.data.worker for event in events if event.event.type == "started"}) == 3
    assert len({event.event.data.seed for event in events if event.event.type == "started"}) == 1
    assert genqueue_worker.prompts == ["Hi"]


def test_a_crash_at_the_last_token_still_has_its_end(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.answers("Hi", "abc")
    genqueue_worker.crash_after(tokens=100)

    result = ask().result()

    assert (result.text, result.attempts) == ("abc", 2)


def test_a_job_over_which_too_many_die_is_lost(genqueue_worker: ScriptedWorker, ask) -> None:
    for _ in range(3):
        genqueue_worker.crash_after(tokens=1)
    job = ask()

    with pytest.raises(WorkerLost):
        job.result()
    assert job.result(check=False).text == "scr"


def test_a_running_job_is_cancelled_and_keeps_its_text(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.delay_s = math.inf
    job = ask()
    stream = job.stream()
    assert next(stream).event.type == "started"
    assert job.status().state == "running"

    assert job.cancel() == "requested"

    assert [event.event.type for event in stream] == ["cancelled"]
    with pytest.raises(JobCancelled):
        job.result()


def test_a_delay_ends_when_it_is_set_anew(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.delay_s = math.inf
    job = ask()
    next(job.stream())

    genqueue_worker.delay_s = 0

    assert job.result().text == "scripted answer to: Hi"


def test_a_waiting_job_stands_in_line_and_is_cancelled_at_once(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.serves("tiny")
    with genqueue_worker.paused():
        first, second = ask(), ask(priority="high")
        assert (first.status().position, second.status().position) == (1, 0)
        assert first.cancel() == "cancelled"
    assert second.result().text == "scripted answer to: Hi"
    assert genqueue_worker.requests[0].job_id == second.job_id
    assert len(genqueue_worker.requests) == 1


def test_a_job_that_waits_for_too_long_expires(genqueue_worker: ScriptedWorker, ask) -> None:
    with genqueue_worker.paused(), pytest.raises(JobExpired):
        ask(queue_ttl_s=0.05).result()
    assert genqueue_worker.requests == []


def test_what_status_says_of_a_running_job(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.answers("Hi", ["ab", "c"])
    job = ask()
    stream = job.stream()
    while next(stream).event.type != "finished":
        pass
    assert (job.status().progress.phase, job.status().worker is not None) == ("decode", True)


def test_it_is_seen_as_the_worker_of_its_models(genqueue_worker: ScriptedWorker, producer: Producer) -> None:
    assert producer.workers("tiny") == ()
    genqueue_worker.serves("tiny", "big")

    [seen] = producer.workers("tiny")

    assert (seen.model_state, seen.chat_template) == ("ready", True)
    assert genqueue_worker.models == ("big", "tiny")
    assert {worker.name for worker in BaseWorker.all(connection=genqueue_worker.client)} >= {seen.name}
    genqueue_worker.serves()
    assert producer.workers("tiny") == ()
    assert "no live worker serves tiny" in producer.submit("Hi", model="tiny").status().describe()


def test_a_model_that_a_job_comes_for_is_served(genqueue_worker: ScriptedWorker, ask) -> None:
    ask(model="Qwen2.5-0.5B", prompt_lookup=True).result()
    ask(model="to.generate.with", priority="low").result()
    Queue("default", connection=genqueue_worker.client).enqueue("os.getcwd")  # of somebody else
    Queue("{x}", connection=genqueue_worker.client).enqueue("os.getcwd")
    ask(model="tiny").result()

    assert genqueue_worker.models == ("Qwen2.5-0.5B", "tiny", "to.generate.with")


@pytest.mark.parametrize("prefix", ["staging", "a.b", "generated"])
def test_every_prefix_is_served(
    genqueue_worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("GENQUEUE_PREFIX", prefix)

    with Producer() as producer:
        assert producer.submit("Hi", model="tiny").result().text == "scripted answer to: Hi"
        assert len(producer.workers("tiny")) == 1


def test_rq_knows_how_a_job_ended(genqueue_worker: ScriptedWorker, ask) -> None:
    genqueue_worker.fails("Ho", "out_of_memory", "no room")
    jobs = [ask("Hi"), ask("Ho"), ask("Hi")]
    for job in jobs:
        job.result(check=False)  # the last one's end: that of those before it stands in RQ's records

    finished, failed = (Job.fetch(job.job_id, genqueue_worker.client, serializer="json") for job in jobs[:2])

    assert finished.return_value()["text"] == "scripted answer to: Hi"
    assert (finished.get_status().value, failed.get_status().value) == ("finished", "failed")
    assert failed.latest_result().exc_string == "out_of_memory: no room"
    started = StartedJobRegistry("generate.tiny", connection=genqueue_worker.client)
    assert jobs[0].job_id not in started.get_job_ids(cleanup=False)


def test_a_number_that_cannot_be_is_refused(genqueue_worker: ScriptedWorker) -> None:
    with pytest.raises(ValueError, match="from 0"):
        genqueue_worker.delay_s = -1
    with pytest.raises(ValueError, match="from 1"):
        genqueue_worker.chunk_chars = 0
    with pytest.raises(ValueError, match="from 0"):
        genqueue_worker.crash_after(tokens=-1)
    with pytest.raises(InvalidRequest, match="model name"):
        genqueue_worker.serves("org/model")
