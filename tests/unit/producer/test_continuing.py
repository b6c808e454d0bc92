"""A job that goes on where another one was cut: what is submitted, and which jobs are refused with the reason."""

import json
import pickle

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer

from producer import AsyncProducer, GenqueueError, InvalidRequest, NoSuchJob, Producer, client as producer_client
from producer.cli import run
from producer.contract import ErrorInfo, GenerationRequest, Keys
from producer.ledger.past import MAX_CALL_BYTES
from tests.scripted_worker import ScriptedWorker
from tests.submitted import request_of

KEYS = Keys()
TIMED_OUT = ErrorInfo(code="timeout", message="the job took longer than its 5 s")
CUTS = {
    "by length": {"status": "finished", "finish_reason": "length"},
    "cancelled": {"status": "cancelled", "finish_reason": "cancelled"},
    "out of time": {"status": "failed", "finish_reason": "error", "error": TIMED_OUT},
}
OTHERS = {
    "by itself": ({"status": "finished", "finish_reason": "stop"}, "it came to its end by itself (stop)"),
    "of an error": (
        {"status": "failed", "finish_reason": "error", "error": ErrorInfo(code="engine_error", message="x")},
        "it failed (engine_error), which is no cut",
    ),
}


def _cut(producer: Producer, worker: ScriptedWorker, how: dict, *texts: str, **fields) -> str:
    job = producer.submit(**{"prompt": "Hi", "model": "tiny", "max_new_tokens": 2, **fields})
    worker.take()
    worker.publish(*texts)
    worker.finish(**how)
    return job.job_id


@pytest.mark.parametrize("how", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "Hi"},
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.7, "top_p": 0.9, "seed": 7},
        {
            "prompt_token_ids": [1, 2],
            "stop": ["x"],
            "presence_penalty": 0.5,
            "min_new_tokens": 1,
            "cache_salt": "s",
        },
    ],
    ids=["a text", "a chat", "ids"],
)
def test_a_job_that_was_cut_is_asked_again_with_its_tokens_and_its_seed(producer, worker, client, how, asked):
    job_id = _cut(producer, worker, how, "a", "b", **{"prompt": None, **asked})

    job = producer.continue_job(job_id, 5)

    assert (job.model, job.created) == ("tiny", True)
    assert request_of(client, job.job_id) == GenerationRequest.parse(
        {**asked, "max_new_tokens": 2 + 5, "output_token_ids": [1000, 1001], "seed": 7}
    )


def test_a_handle_goes_on_with_its_own_job(producer, worker, client):
    job = producer.submit("Hi", model="tiny", max_new_tokens=1)
    worker.take()
    worker.publish("a")
    worker.finish(finish_reason="length")

    goes_on = job.continue_job(3, new_job_id="rest", timeout_s=9, priority="low", queue_ttl_s=None)

    assert goes_on.job_id == "rest"
    assert client.hmget("rq:job:rest", "origin", "timeout") == [b"generate.tiny.low", b"9"]
    assert not job.continue_job(3, new_job_id="rest").created


@pytest.mark.parametrize(("reason", "bound"), [("by length", None), ("cancelled", 9), ("out of time", 9)])
def test_without_a_number_it_may_have_what_it_had_left(producer, worker, client, reason, bound):
    how = CUTS[reason]
    job_id = _cut(producer, worker, how, "a", "b", max_new_tokens=2 if reason == "by length" else 9)

    assert request_of(client, producer.continue_job(job_id).job_id).max_new_tokens == bound


def test_a_job_that_was_continued_can_be_continued(producer, worker, client):
    first = _cut(producer, worker, CUTS["by length"], "a", "b")
    second = producer.continue_job(first, 2)
    worker.take()
    worker.publish("ab", ids=[1000, 1001])
    worker.publish("c")
    worker.finish(status="cancelled", finish_reason="cancelled")

    third = request_of(client, second.continue_job().job_id)

    assert third.output_token_ids == (1000, 1001, 1002)
    assert third.max_new_tokens == 4


def test_one_that_was_cancelled_before_it_began_goes_on_with_what_it_was_given(producer, worker, client):
    first = _cut(producer, worker, CUTS["by length"], "a", "b")
    second = producer.continue_job(first, 2)
    second.cancel()

    assert request_of(client, second.continue_job().job_id) == request_of(client, second.job_id)


class TestIsRefused:
    @pytest.mark.parametrize(("how", "said"), OTHERS.values(), ids=OTHERS)
    def test_one_that_was_not_cut(self, producer, worker, how, said):
        job_id = _cut(producer, worker, how, "a")
        with pytest.raises(InvalidRequest) as refused:
            producer.continue_job(job_id, 5)
        assert f"job {job_id} cannot be continued: {said}" in str(refused.value)
        assert (refused.value.job_id, bool(refused.value.hint)) == (job_id, True)

    def test_one_that_has_not_ended(self, producer, worker):
        job = producer.submit("Hi", model="tiny")
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="it has not ended: wait for it, or cancel it first"):
                job.continue_job(5)
            worker.pop(job.job_id)

    def test_one_that_is_not_known(self, producer, client):
        with pytest.raises(NoSuchJob, match="job nobody is not known here"):
            producer.continue_job("nobody", 5)
        client.hset("rq:job:theirs", mapping={"origin": "default", "data": b"x"})
        with pytest.raises(NoSuchJob, match="job theirs is not known here"):
            producer.continue_job("theirs", 5)
        with pytest.raises(InvalidRequest, match="job id"):
            producer.continue_job("no id", 5)

    def test_one_without_tokens(self, producer):
        job = producer.submit("Hi", model="tiny")
        job.cancel()
        with pytest.raises(InvalidRequest, match="nothing was generated yet"):
            job.continue_job(5)

    def test_one_whose_result_or_request_is_gone(self, producer, worker, client):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        result = client.get(KEYS.result(job_id))
        client.delete(KEYS.result(job_id))
        with pytest.raises(InvalidRequest, match="its result is gone"):
            producer.continue_job(job_id, 5)
        client.delete(f"rq:job:{job_id}")
        with pytest.raises(InvalidRequest, match="its result is gone"):
            producer.continue_job(job_id, 5)
        client.set(KEYS.result(job_id), result)
        with pytest.raises(InvalidRequest, match="its request is gone"):
            producer.continue_job(job_id, 5)

    @pytest.mark.parametrize(
        "data",
        [
            pickle.dumps(("worker.jobs.generate", None, (), {})),
            b"[]",
            b'["worker.jobs.generate", null, [], {}]',
            b'["os.system", null, [], {"request": {"prompt": "Hi"}}]',
            b"[" * 100_000,
        ],
        ids=["pickled", "no call", "no request", "another function", "deep"],
    )
    def test_one_whose_call_is_none_of_ours(self, producer, worker, client, data):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        client.hset(f"rq:job:{job_id}", "data", data)
        with pytest.raises(InvalidRequest, match=f"job {job_id}: (what it calls|it calls another)"):
            producer.continue_job(job_id, 5)

    def test_one_whose_call_would_not_end(self, producer, worker, client, monkeypatch):
        assert MAX_CALL_BYTES > 16 * 2**20
        monkeypatch.setattr("producer.ledger.past.MAX_CALL_BYTES", 40)
        job_id = _cut(producer, worker, CUTS["by length"], "a", prompt="a" * 1000)
        with pytest.raises(InvalidRequest, match="what it calls cannot be read"):
            producer.continue_job(job_id, 5)

    def test_one_whose_result_is_none(self, producer, worker, client):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        client.set(KEYS.result(job_id), b"{}")
        with pytest.raises(InvalidRequest, match="in place of its result"):
            producer.continue_job(job_id, 5)

    @pytest.mark.parametrize("number", [0, -1, 1.5, "5", True])
    def test_a_number_that_is_none(self, producer, worker, number):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        with pytest.raises(InvalidRequest, match="max_new_tokens: it takes the number of tokens that may follow"):
            producer.continue_job(job_id, number)

    def test_where_the_workers_are_older(self, producer, worker, client):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        worker.register()
        with pytest.raises(InvalidRequest, match="no live worker understands 'output_token_ids': upgrade"):
            producer.continue_job(job_id, 5)


async def test_asyncio_has_the_same(fake_server: FakeServer, producer, worker, client):
    job_id = _cut(producer, worker, CUTS["cancelled"], "a")
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as asynchronous:
        job = await asynchronous.continue_job(job_id, 5)
        with pytest.raises(GenqueueError, match="it has not ended"):
            await job.continue_job()
    await connection.aclose()
    assert request_of(client, job.job_id).max_new_tokens == 1 + 5


class TestCommand:
    @pytest.fixture(autouse=True)
    def _fake_connections(self, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))

    def test_prints_the_new_jobs_id(self, producer, worker, client, capsys):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        assert run(["continue", job_id, "--max-new-tokens", "4", "--priority", "high"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert client.lrange("rq:queue:generate.tiny.high", 0, -1) == [out.strip().encode()]
        assert request_of(client, out.strip()).max_new_tokens == 5

    def test_says_when_the_job_is_there_already(self, producer, worker, capsys):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        for _ in range(2):
            assert run(["continue", job_id, "--max-new-tokens", "4", "--job-id", "rest", "--json"]) == 0
        out, err = capsys.readouterr()
        assert [json.loads(line)["created"] for line in out.splitlines()] == [True, False]
        assert "exists already" in err

    def test_exits_with_2_and_the_reason_for_what_cannot_be_continued(self, producer, capsys):
        job = producer.submit("Hi", model="tiny")
        assert run(["continue", job.job_id]) == 2
        assert "it has not ended: wait for it, or cancel it first" in capsys.readouterr().err
        assert run(["continue", "nobody"]) == 2

    @pytest.mark.parametrize("command", [["result"], ["stream"]])
    def test_is_named_where_a_text_was_cut_off(self, producer, worker, capsys, command):
        job_id = _cut(producer, worker, CUTS["by length"], "a")
        assert run([*command, job_id]) == 0
        assert f"to go on with it:\n  genqueue continue {job_id}\n" in capsys.readouterr().err
        whole = _cut(producer, worker, {"finish_reason": "stop"}, "a")
        assert run([*command, whole]) == 0
        assert "continue" not in capsys.readouterr().err
