"""`verify`: what is read of the job and of the settings before a model is loaded, and what the exit code says."""

import json
import sys

import pytest
from fakeredis import FakeRedis, FakeServer

from producer import Producer
from producer.contract import EngineError, EngineFacts, Keys
from tests.scripted_worker import ScriptedWorker
from worker import cli, verify
from worker.verifying import Parting, Token, Verdict


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, fake_server: FakeServer, tmp_path) -> None:
    for name in ("GENQUEUE_MODEL_NAME", "GENQUEUE_MODEL_PATH", "GENQUEUE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(verify, "connect", lambda *_, **__: FakeRedis(server=fake_server))
    empty = tmp_path / "worker.yaml"
    empty.write_text("")
    monkeypatch.setenv("GENQUEUE_CONFIG", str(empty))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list:
    """What a model would be loaded for, and the verdict that is then given: the last of it."""
    asked: list = []

    def verify_nothing(job, settings):
        asked.append((job, settings))
        return Verdict(job.past.job_id, 2, 0, None, ())

    monkeypatch.setattr(verify, "_verify", verify_nothing)
    return asked


@pytest.fixture
def ended(fake_server: FakeServer) -> str:
    """A job that a worker of `tiny` has finished."""
    client = FakeRedis(server=fake_server)
    with Producer(connection=client) as producer:
        job = producer.submit("Hi", model="tiny")
        ScriptedWorker(client).play("a", "b", job_id=job.job_id)
    return job.job_id


def run(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["genqueue-worker", "verify", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code


def test_equal_jobs_exit_with_0(ended, loaded, capsys):
    assert run(ended) == 0
    assert capsys.readouterr().out == "equal: all 2 tokens\n"
    [(job, settings)] = loaded
    assert (job.past.request.prompt, job.past.result.token_ids) == ("Hi", (1000, 1001))
    assert [(ran.first_index, ran.data.worker) for ran in job.attempts] == [(0, "w1")]
    assert settings.model_name == "tiny", "the job's own"


def test_jobs_that_part_exit_with_1(ended, monkeypatch, capsys):
    parting = Parting(1, Token(1001, "a", None), Token(5, "b", -0.5))
    monkeypatch.setattr(verify, "_verify", lambda *_: Verdict(ended, 2, 0, parting, ()))
    assert run(ended, "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["is_equal"], said["parting"]["index"], said["parting"]["here"]["id"]) == (False, 1, 5)


def test_a_model_can_be_named(ended, loaded, tmp_path):
    assert run(ended, "--model-name", "other") == 0
    assert run(ended, "--model-path", str(tmp_path), "--device", "cpu", "--dtype", "float32") == 0
    (_, named), (_, placed) = loaded
    assert named.model_name == "other"
    assert (placed.model_path, placed.device, placed.dtype) == (tmp_path, "cpu", "float32")


def test_settings_of_another_model_are_not_taken_for_the_jobs(ended, loaded, monkeypatch, capsys):
    monkeypatch.setenv("GENQUEUE_MODEL_NAME", "other")
    assert run(ended) == 2
    assert "is of tiny, and the settings here name other" in capsys.readouterr().err
    assert run(ended, "--model-name", "tiny") == 0
    assert len(loaded) == 1


def test_a_stream_that_cannot_be_read_hides_no_result(ended, loaded, fake_server):
    FakeRedis(server=fake_server).xadd(Keys().events(ended), {"type": "started", "data": "{"}, id="9-9")
    assert run(ended) == 0
    assert loaded[0][0].attempts == []


class TestExitsWith2:
    @pytest.mark.parametrize("job_id", ["nobody", "no id"])
    def test_where_there_is_no_such_job(self, job_id, loaded, capsys):
        assert run(job_id) == 2
        assert "job" in capsys.readouterr().err
        assert loaded == []

    def test_where_it_has_not_ended(self, fake_server, loaded, capsys):
        with Producer(connection=FakeRedis(server=fake_server)) as producer:
            job = producer.submit("Hi", model="tiny")
            assert run(job.job_id) == 2
            assert "it has not ended" in capsys.readouterr().err
            job.cancel()
            assert run(job.job_id) == 2
            assert "has no tokens of its own: there is nothing to compare" in capsys.readouterr().err
        assert loaded == []

    def test_where_the_engine_here_fails(self, ended, monkeypatch, capsys):
        """1 would say that they part."""

        def fail(*_):
            raise EngineError("the logits hold NaN")

        monkeypatch.setattr(verify, "_verify", fail)
        assert run(ended) == 2
        assert "NaN" in capsys.readouterr().err


def test_without_a_broker_it_exits_with_3(monkeypatch):
    monkeypatch.undo()
    assert run("job", "--redis-url", "redis://127.0.0.1:1/0") == 3


def test_what_the_stream_says_of_an_attempt_may_be_of_a_later_form(fake_server, ended, loaded):
    client = FakeRedis(server=fake_server)
    [(entry_id, fields), *rest] = client.xrange(Keys().events(ended))
    data = {**json.loads(fields[b"data"]), "runs_on": {"device": "x", "driver": 5}}
    odd = {**data, "runs_on": "a card"}
    client.delete(Keys().events(ended))
    for number, each in enumerate((data, odd)):
        client.xadd(Keys().events(ended), {"type": "started", "data": json.dumps(each)}, id=f"1-{number}")
    assert run(ended) == 0
    assert [ran.data.runs_on for ran in loaded[0][0].attempts] == [EngineFacts(device="x"), None]
    assert (entry_id, len(rest)) == (b"1-0", 3)
