"""The engine's end of the socket, with a small random engine behind it."""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from producer.contract import GenerationRequest, OutOfMemory
from tests.models import engine_for, random_model, save_random_model, save_tokenizer
from worker.engine import Engine, Step, Tokenizer
from worker.engine.loading import memory
from worker.engine_process import serving
from worker.engine_process.card import Neighbour, Place
from worker.engine_process.protocol import (
    Accepted,
    Begun,
    Ended,
    EngineConfig,
    EngineInfo,
    Generate,
    Loading,
    RunFailed,
    StepMessage,
    Stop,
    parse_answers,
)
from worker.engine_process.serving import SHORT_PROMPT_CHARS, EngineServer, describe, load_engine
from worker.errors import ConfigError
from worker.progress import no_progress

from ..engine.text.chat_templates import tokenizer_of

TIMEOUT_S = 100
TOOLS = [{"type": "function", "function": {"name": "f"}}]
MUCH = "a" * (SHORT_PROMPT_CHARS + 1)
LONG = {"prompt": "hi", "max_new_tokens": 100}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    return engine_for(
        random_model(context_length=1024), Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    )


class Worker:
    """The other end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._heard: list = []

    def send(self, *orders: Generate | Stop) -> None:
        """All in one packet."""
        self._connection.sendall(b"".join(order.model_dump_json().encode() + b"\n" for order in orders))

    def hear(self):
        if not self._heard:
            self._heard += parse_answers(self.hear_line())
        return self._heard.pop(0)

    def hear_line(self) -> bytes:
        line = self._lines.readline()
        assert line, "the engine has gone"
        return line

    def hear_all(self) -> list:
        """What is said of a run, to its end."""
        heard = [self.hear()]
        while not isinstance(heard[-1], Ended | RunFailed):
            heard.append(self.hear())
        return heard

    def leave(self) -> None:
        self._lines.close()
        self._connection.close()


@pytest.fixture
def worker(engine) -> Iterator[Worker]:
    """A worker whose engine is ready."""
    with worker_of(engine) as worker:
        yield worker


@contextlib.contextmanager
def worker_of(engine: Engine) -> Iterator[Worker]:
    """That of an engine, once it is ready."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    thread = threading.Thread(target=_serve, args=(theirs, engine))
    thread.start()
    worker = Worker(ours)
    assert isinstance(worker.hear(), Loading)
    assert isinstance(worker.hear(), EngineInfo)
    yield worker
    worker.leave()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "it has not noticed that the worker has gone"


def _serve(connection: socket.socket, engine: Engine) -> None:
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # as `main` does
        EngineServer(connection).serve(lambda progress: progress("loading weights", 0, 0) or engine)


def generate(run: int = 1, request: dict = LONG, **fields) -> Generate:
    return Generate(run=run, request=request, seed=0, **fields)


def token_ids(heard: list) -> list[int]:
    return [message.token_id for message in heard if isinstance(message, StepMessage)]


@pytest.mark.parametrize(("tools", "form"), [({"tools": TOOLS}, "hermes"), ({}, None)])
def test_it_says_how_the_parts_of_the_answer_are_marked(tools, form, tmp_path):
    engine = engine_for(random_model(context_length=1024), tokenizer_of("Qwen2.5", tmp_path))
    request = {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 1, **tools}
    with worker_of(engine) as worker:
        worker.send(generate(request=request))
        [accepted] = [message for message in worker.hear_all() if isinstance(message, Accepted)]
    assert (accepted.markup and accepted.markup.tool_calls) == form
    assert describe(engine, 0, 0).tool_format == "hermes"


def test_it_says_what_it_holds(engine):
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as lines:
        thread = threading.Thread(target=_serve, args=(theirs, engine))
        thread.start()
        [loading], [info] = (parse_answers(lines.readline()) for _ in range(2))
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT_S)
    assert loading == Loading(stage="loading weights")
    assert (info.device, info.dtype, info.context_length) == ("cpu", "float32", 1024)
    assert info.parameters == engine.parameters > 0


def test_a_run_says_what_the_engine_generates(worker, engine):
    worker.send(generate())
    begun, accepted, *steps, ended = worker.hear_all()
    request = GenerationRequest.parse(LONG)
    expected = list(engine.start(request, engine.encode(request), seed=0))
    assert begun == Begun()
    assert accepted == Accepted(prompt_tokens=len(engine.encode(request)))
    assert [step.token_id for step in steps] == [step.token_id for step in expected]
    assert [step.text for step in steps] == [step.text for step in expected]
    assert [step.finish_reason for step in steps] == [None] * 99 + ["length"]
    assert ended.prefill_ms > 0


class Drafted:
    """A generation whose passes over the model gave one, three and two tokens."""

    prompt_tokens, cached_tokens, prefill_ms = 1, 0, 1.0
    given_text, finish_reason, stop = "", None, None

    def prefill(self) -> Iterator[int]:
        return iter(())

    def __iter__(self) -> Iterator[Step]:
        for has_next in (False, True, True, False, True, False):
            yield Step(7, "x", None, None, None, has_next)

    def close(self) -> None:
        pass


def test_what_one_pass_gave_leaves_together(worker, engine, monkeypatch):
    """Else the tokens of a draft that was right would wait for the next pass, which may be long."""
    monkeypatch.setattr(serving, "SEND_INTERVAL_S", 0.0)
    monkeypatch.setattr(engine, "start", lambda *_, **__: Drafted())
    worker.send(generate())
    _begun, _accepted, *lines, _ended = (parse_answers(worker.hear_line()) for _ in range(6))

    assert [len(steps) for steps in lines] == [1, 3, 2]


def test_the_text_of_output_that_was_given_comes_before_the_steps(worker, engine):
    request = {**LONG, "max_new_tokens": 30}
    asked = GenerationRequest.parse(request)
    whole = list(engine.start(asked, engine.encode(asked), seed=0))
    ids = [step.token_id for step in whole]
    goes_on = {**request, "output_token_ids": ids[:12]}
    worker.send(generate(request=goes_on))
    _, accepted, *steps, _ = worker.hear_all()
    assert [step.token_id for step in steps] == ids[12:]
    assert accepted.given_text + "".join(step.text for step in steps) == "".join(step.text for step in whole)
    worker.send(generate(request=goes_on, resumed_ids=ids[:15]))
    _, accepted, *steps, _ = worker.hear_all()
    assert (accepted.given_text, [step.token_id for step in steps]) == ("", ids[15:])


def test_output_that_has_ended_already_is_refused(worker, engine):
    ids = engine.tokenizer.encode("one END two").tolist()
    worker.send(generate(request={**LONG, "output_token_ids": ids, "stop": ["END"]}))
    *_, failed = worker.hear_all()
    assert (failed.code, "nothing can follow output_token_ids" in failed.message) == ("invalid_request", True)


def test_the_engine_says_what_it_runs_on(engine):
    facts = describe(engine, 0, 0).facts()
    assert (facts.dtype, facts.path, facts.torch) == ("float32", "static, not compiled", torch.__version__)
    assert facts.device not in {None, "", "cpu"}
    assert facts.genqueue


def test_logprobs_come_along(worker):
    worker.send(generate(request={**LONG, "max_new_tokens": 2, "logprobs": 3}))
    _, _, first, second, _ = worker.hear_all()
    assert [len(step.logprob["top"]) for step in (first, second)] == [3, 3]


def test_a_run_goes_on_after_the_ids_of_an_earlier_attempt(worker):
    worker.send(generate(1))
    whole = token_ids(worker.hear_all())
    worker.send(generate(2, resumed_ids=tuple(whole[:60])))
    assert token_ids(worker.hear_all()) == whole[60:]


def test_a_run_that_had_ended_already_has_no_step(worker):
    worker.send(generate(1))
    whole = token_ids(worker.hear_all())
    worker.send(generate(2, resumed_ids=tuple(whole)))
    _, accepted, ended = worker.hear_all()
    assert (accepted.finish_reason, ended) == ("length", Ended(prefill_ms=ended.prefill_ms))


def hear_steps(worker: Worker, count: int) -> list:
    return [worker.hear() for _ in range(count)]


@pytest.mark.parametrize("flush", [True, False])
def test_a_stop_hands_over_what_is_held_back_if_asked(worker, flush):
    """What could still become a stop string is held back: here, all that followed the first ten tokens."""
    worker.send(generate(1))
    steps = [message for message in worker.hear_all() if isinstance(message, StepMessage)]
    shown, held = ("".join(step.text for step in some) for some in (steps[:10], steps[10:30]))
    request = {**LONG, "stop": [f"{held}\0"]}
    resumed = tuple(step.token_id for step in steps[:30])
    worker.send(generate(2, request, resumed_ids=resumed), Stop(run=2, flush=flush))
    *_, ended = worker.hear_all()
    assert shown
    assert held
    assert ended.tail.startswith(held) if flush else ended.tail == ""


class TestTokenizing:
    """It can take minutes, in which nothing could be stopped."""

    @pytest.fixture
    def held(self, engine, monkeypatch) -> Iterator[threading.Event]:
        """Every tokenization takes until this is set."""
        go_on = threading.Event()
        encode = engine.encode
        self.begun = []

        def slow(request: GenerationRequest):
            self.begun.append(threading.current_thread().name.partition("_")[0])
            assert go_on.wait(TIMEOUT_S)
            return encode(request)

        monkeypatch.setattr(engine, "encode", slow)
        monkeypatch.setattr(serving, "SHORT_PROMPT_CHARS", len("s"))
        yield go_on
        go_on.set()

    def test_a_stop_is_obeyed_at_once(self, worker, held):
        worker.send(generate(1))
        worker.send(Stop(run=0, flush=True), Stop(run=1, flush=True))
        assert worker.hear_all() == [Begun(), Ended()]

    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt": MUCH},
            {"messages": [{"role": "user", "content": MUCH}]},
            {"messages": [{"role": "assistant", "content": "a", "reasoning": MUCH}]},
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": MUCH}}]}]},
            {
                "messages": [{"role": "user", "content": "a"}],
                "tools": [{"type": "function", "function": {"name": "f", "description": MUCH}}],
            },
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"hint": MUCH}},
        ],
    )
    def test_all_that_a_template_writes_out_counts(self, fields):
        assert serving._prompt_chars(GenerationRequest.parse(fields)) > SHORT_PROMPT_CHARS

    def test_a_chat_of_a_few_words_is_short(self):
        messages = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}] * 20
        assert serving._prompt_chars(GenerationRequest.parse({"messages": messages})) < SHORT_PROMPT_CHARS

    def test_what_is_given_up_does_not_pile_up(self, worker, held):
        for run in (1, 2, 3):
            worker.send(generate(run), Stop(run=run, flush=False))
            assert worker.hear_all() == [Begun(), Ended()]
        assert len(self.begun) <= 1
        held.set()
        worker.send(generate(4))
        assert len(token_ids(worker.hear_all())) == 100

    def test_a_run_waits_for_what_was_given_up_before_it(self, worker, held):
        worker.send(generate(1))
        while not self.begun:
            time.sleep(0.001)
        worker.send(Stop(run=1, flush=False), generate(2))
        assert worker.hear_all() == [Begun(), Ended()]
        held.set()
        assert len(token_ids(worker.hear_all())) == 100

    def test_a_short_prompt_is_tokenized_at_once_where_nothing_else_is(self, worker, held):
        """A thread would cost its first token a good part of a millisecond."""
        short = {"prompt": "s", "max_new_tokens": 2}
        worker.send(generate(1))
        while not self.begun:
            time.sleep(0.001)
        worker.send(Stop(run=1, flush=False), generate(2, short))
        assert worker.hear_all() == [Begun(), Ended()]
        held.set()
        assert len(token_ids(worker.hear_all())) == 2
        worker.send(generate(3, short))
        assert len(token_ids(worker.hear_all())) == 2
        first, _, last = (name == "background" for name in self.begun)  # the second meets an idle one or not
        assert (first, last) == (True, False)

    def test_text_that_an_earlier_attempt_held_back_is_handed_over(self, worker, held):
        held.set()
        worker.send(generate(1))
        steps = [message for message in worker.hear_all() if isinstance(message, StepMessage)]
        held.clear()
        shown, held_back = ("".join(step.text for step in some) for some in (steps[:10], steps[10:30]))
        request = {**LONG, "stop": [f"{held_back}\0"]}
        resumed = tuple(step.token_id for step in steps[:30])
        worker.send(generate(2, request, resumed_ids=resumed), Stop(run=2, flush=True))
        *_, ended = worker.hear_all()
        assert ended.tail.startswith(held_back)
        assert shown

    def test_a_worker_that_goes_meanwhile_ends_the_engine(self, held, worker):
        """The fixture of the worker waits for that, before the tokenization goes on."""
        worker.send(generate(1))


def test_a_stop_ends_a_run_that_is_under_way(worker):
    worker.send(generate(1, {**LONG, "max_new_tokens": 1000}))
    hear_steps(worker, 3)
    worker.send(Stop(run=1, flush=True))
    assert len(token_ids(worker.hear_all())) < 900


def test_a_stop_that_comes_with_its_order_is_heard(worker):
    """It came in the same read as the order, stayed in the reader's buffer, and the run went on to its end."""
    worker.send(generate(1), Stop(run=1, flush=False))
    assert token_ids(worker.hear_all()) == []


def test_a_stop_of_another_run_is_not_heard(worker):
    worker.send(generate(7), Stop(run=6, flush=False))
    assert len(token_ids(worker.hear_all())) == 100


def test_a_stop_that_comes_too_late_harms_nobody(worker):
    worker.send(generate(1))
    worker.hear_all()
    worker.send(Stop(run=1, flush=True), generate(2))
    assert len(token_ids(worker.hear_all())) == 100


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"prompt": ""}, "invalid_request"),
        ({"prompt_token_ids": [10**6]}, "invalid_request"),
        ({"prompt_token_ids": [5] * 1024}, "prompt_too_long"),
        ({"prompt": "hi", "max_new_tokens": 4000}, "invalid_request"),
    ],
)
def test_a_request_that_the_engine_cannot_serve_is_refused_and_the_next_one_served(worker, request_, code):
    worker.send(generate(1, request_))
    assert worker.hear_all()[-1].code == code
    worker.send(generate(2))
    assert len(token_ids(worker.hear_all())) == 100


def test_a_failure_of_the_engine_is_the_jobs_and_names_no_prompt(worker, engine, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(engine, "decode", lambda _: (_ for _ in ()).throw(RuntimeError("secret prompt")))
        worker.send(generate(1))
        refused = worker.hear_all()[-1]
    assert refused.code == "engine_error"
    assert "RuntimeError" in refused.message
    assert "secret" not in refused.message
    worker.send(generate(2))
    assert len(token_ids(worker.hear_all())) == 100


def failing(*errors: Exception):
    """A step that fails, each time with the next error."""
    left = list(errors)

    def step(*_args, **_kwargs):
        raise left.pop(0)

    return step


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("step", ["start", "prefill", "decode"])
def test_a_lack_of_memory_fails_the_job_and_the_next_one_is_served(worker, engine, monkeypatch, step, error):
    with monkeypatch.context() as broken:
        broken.setattr(engine, step, failing(error))
        worker.send(generate(1))
        refused = worker.hear_all()[-1]
    assert refused.code == "out_of_memory"
    worker.send(generate(2))
    assert len(token_ids(worker.hear_all())) == 100


class TestFault:
    """After a fault of the device only a new process can use it: this one ends, and says nothing of its job."""

    ILLEGAL_ADDRESS = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def serve(self, engine: Engine) -> tuple[list, list[Exception]]:
        """Begin a job.  Returns what was said of it, and what `serve` raised."""
        raised: list[Exception] = []

        def serve() -> None:
            with theirs:
                try:
                    EngineServer(theirs).serve(lambda _progress: engine)
                except (RuntimeError, ValueError, OutOfMemory) as error:
                    raised.append(error)

        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT_S)
        thread = threading.Thread(target=serve)
        thread.start()
        with ours, ours.makefile("rb") as lines:
            assert isinstance(parse_answers(lines.readline())[0], EngineInfo)
            ours.sendall(generate().model_dump_json().encode() + b"\n")
            said: list = []
            while not isinstance(said and said[-1], Ended | RunFailed) and (line := lines.readline()):
                said += parse_answers(line)
        thread.join(TIMEOUT_S)
        return said, raised

    @pytest.mark.parametrize("step", ["start", "prefill", "decode"])
    def test_ends_the_engine_and_not_the_job(self, engine, monkeypatch, step):
        monkeypatch.setattr(engine, step, failing(self.ILLEGAL_ADDRESS))
        said, raised = self.serve(engine)
        assert not any(isinstance(message, Ended | RunFailed) for message in said)
        assert raised == [self.ILLEGAL_ADDRESS]

    def test_shows_in_whatever_comes_after_it(self, engine, monkeypatch):
        """To leave the engine ready for the next job is an operation on the device, too."""

        def decode(_token: torch.Tensor):
            monkeypatch.setattr(engine, "abandon", failing(self.ILLEGAL_ADDRESS))
            raise ValueError("no such thing")

        monkeypatch.setattr(engine, "decode", decode)
        _, raised = self.serve(engine)
        assert raised == [self.ILLEGAL_ADDRESS]

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such thing")])
    def test_is_asked_for_where_the_error_says_nothing_of_it(self, engine, monkeypatch, error):
        monkeypatch.setattr(engine, "decode", failing(error))
        monkeypatch.setattr(serving, "device_answers", lambda _device: False)
        said, raised = self.serve(engine)
        assert not any(isinstance(message, Ended | RunFailed) for message in said)
        assert len(raised) == 1


class TestBesideOthers:
    """Another worker on the card. The names of cards are set: there need not be any."""

    @pytest.fixture
    def config(self, tmp_path, monkeypatch) -> Iterator[EngineConfig]:
        """Of an engine that is to be loaded where another one is."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(serving, "card_of", lambda _device: "0123")
        monkeypatch.setattr(serving, "set_threads", lambda _threads: None)  # of this process, with all its tests
        other = Place("0123", Neighbour(71, 72, "theirs"))
        model = tmp_path / "model"
        model.mkdir()
        yield EngineConfig(model_path=save_random_model(model), model_name="ours", device="cpu")
        other.leave()

    def test_it_says_with_whom_it_shares(self, config, caplog):
        load_engine(config, no_progress)
        assert "cpu is also used by the worker of 'theirs' (process 71, its engine 72): they share" in caplog.text
        third = Place("0123", Neighbour(81, 82, "third"))
        third.leave()
        ours = Neighbour(os.getppid(), os.getpid(), "ours")
        assert third.neighbours == [Neighbour(71, 72, "theirs"), ours]

    def test_it_says_who_is_there_where_there_is_no_room_for_two(self, config, monkeypatch):
        monkeypatch.setattr(memory, "free_bytes", lambda _device: 0)
        with pytest.raises(ConfigError, match=r"too little to generate.*also used by the worker of 'theirs'"):
            load_engine(config, no_progress)

    def test_alone_it_says_nothing(self, config, monkeypatch, caplog):
        monkeypatch.setattr(serving, "card_of", lambda _device: None)
        load_engine(config, no_progress)
        assert "used by" not in caplog.text
        monkeypatch.setattr(memory, "free_bytes", lambda _device: 0)
        with pytest.raises(ConfigError) as alone:
            load_engine(config, no_progress)
        assert "used by" not in str(alone.value)


def test_a_worker_that_goes_during_a_run_ends_the_engine(worker):
    """The fixture waits for the engine's end."""
    worker.send(generate(1))
    hear_steps(worker, 3)


def test_a_run_that_was_parked_goes_on_from_what_it_had_read(worker, engine, monkeypatch):
    """It is another run, after its published tokens, and nothing but its last token is read again."""
    asked = {"prompt_token_ids": list(range(400, 460)), "max_new_tokens": 500}
    request = GenerationRequest.parse(asked)
    whole = [step.token_id for step in engine.start(request, engine.encode(request), seed=0)]
    lengths: list[int] = []
    read = engine.path.read
    monkeypatch.setattr(
        engine.path, "read", lambda ids, rows=1: lengths.append(ids.shape[1]) or read(ids, rows=rows)
    )
    engine.abandon(engine.sequence)  # what it knows by now
    worker.send(generate(1, asked))
    while not isinstance(worker.hear(), StepMessage):
        pass
    worker.send(Stop(run=1, flush=True, park=True))
    before = whole[: 1 + len(token_ids(worker.hear_all()))]
    assert len(before) < len(whole), "it had ended"
    other = {"prompt_token_ids": list(range(300, 400)), "max_new_tokens": 3}
    worker.send(generate(2, other, parked=(1,)))
    worker.hear_all()
    lengths.clear()
    worker.send(generate(3, asked, parked=(1,), resumed_ids=before))
    assert token_ids(worker.hear_all()) == whole[len(before) :]
    assert lengths[0] == 1


def test_a_run_that_is_stopped_before_it_has_read_anything_parks_nothing(worker, engine):
    worker.send(generate(1, {"prompt_token_ids": list(range(300, 400)), "max_new_tokens": 3}))
    worker.hear_all()
    worker.send(generate(2), Stop(run=2, flush=True, park=True))
    assert token_ids(worker.hear_all()) == []
    assert engine._prefixes is not None
    assert engine._prefixes._held.run is None
