"""One prompt, no Redis."""

import os
import subprocess
import sys

import pytest

from producer.contract import GenerationRequest, InvalidRequest, Message
from tests.models import tiny_model_paths
from worker import standalone
from worker.engine.forward import choice
from worker.engine.forward.static_path import StaticPath
from worker.errors import ConfigError
from worker.models.tiny_corpus import DEFAULT_PROMPT, INTRODUCTION
from worker.standalone import generate


@pytest.fixture(scope="module")
def paths():
    return tiny_model_paths()


def test_answers_and_streams_the_answer(paths):
    pieces = []
    answer = generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, on_text=pieces.append)
    assert answer == INTRODUCTION
    assert "".join(pieces) == answer
    assert len(pieces) > 50
    assert all(pieces)


def test_weights_may_be_small(paths):
    assert generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, weights="int8") == INTRODUCTION


@pytest.mark.parametrize(("weights", "times"), [("int8", 1), ("auto", 0)])
def test_small_weights_are_multiplied_by_our_operator(weights, times, paths, monkeypatch):
    """Written out for each token, they take far longer. Where it cannot be built, the answer is the same."""

    def without_a_compiler(path: StaticPath) -> None:
        asked.append(path)
        raise RuntimeError("No working C++ compiler found")

    asked: list[StaticPath] = []
    monkeypatch.setattr(choice, "SMALL_MODEL_PARAMETERS", 1)
    monkeypatch.setattr(StaticPath, "use_kernels", without_a_compiler)
    assert generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, weights=weights) == INTRODUCTION
    assert len(asked) == times


def test_takes_the_fields_of_a_request(paths):
    answer = generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, stop=["，"])
    assert answer == INTRODUCTION.partition("，")[0]


def test_a_chat_is_a_message_of_the_user(paths, monkeypatch):
    asked: list[GenerationRequest] = []
    monkeypatch.setattr(standalone, "run", lambda _, request, **__: asked.append(request))
    generate("tiny", "Who are you?", 200, "cpu", model_paths=paths, chat=True)
    [request] = asked
    assert (request.prompt, request.messages) == (None, (Message(role="user", content="Who are you?"),))


def test_a_text_that_was_cut_off_is_told(paths):
    cut_off: list[int] = []
    generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, on_cut_off=cut_off.append)
    assert cut_off == []
    generate("tiny", DEFAULT_PROMPT, 5, "cpu", model_paths=paths, on_cut_off=cut_off.append)
    assert cut_off == [5]


def test_a_seed_repeats_a_sample_and_none_draws_a_new_one(paths):
    def sample(**fields) -> str:
        return generate("tiny", DEFAULT_PROMPT, 40, "cpu", model_paths=paths, temperature=10.0, **fields)

    assert sample(seed=4) == sample(seed=4)
    assert sample() != sample()


def test_an_error_of_the_listener_ends_it(paths):
    def broken_pipe(_text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        generate("tiny", DEFAULT_PROMPT, 200, "cpu", model_paths=paths, on_text=broken_pipe)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_name": "other"}, ConfigError, "which knows: tiny"),
        ({"device": "cuda:99"}, ConfigError, "cuda:99"),
        ({"dtype": "float8"}, ConfigError, "dtype 'float8'"),
        ({"weights": "int3"}, ConfigError, "weights 'int3' are not known: use auto, .*int4"),
        ({"weights": "float16", "dtype": "float32"}, ConfigError, "dtype is float32 and engine.weights float16"),
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"max_new_tokens": 0}, InvalidRequest, "max_new_tokens"),
        ({"max_new_tokens": 2000}, InvalidRequest, "Set max_new_tokens to"),
        ({"nonsense": 1}, InvalidRequest, "nonsense"),
    ],
)
def test_bad_input(paths, arguments, error, message):
    good = {"model_name": "tiny", "prompt": "Hi", "max_new_tokens": 3, "device": "cpu", "model_paths": paths}
    with pytest.raises(error, match=message):
        generate(**{**good, **arguments})


def test_without_the_packages_of_the_worker_it_names_the_extra():
    code = "import sys; sys.modules['torch'] = None; import worker.standalone"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    failed = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment
    )
    assert "ConfigError: torch is not installed" in failed.stderr
    assert "pip install 'genqueue[worker]'" in failed.stderr
