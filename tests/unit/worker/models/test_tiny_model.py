"""The tiny model answers what it was taught, word for word, and its training is reproducible."""

import pytest
import torch
from safetensors.torch import load_file

from producer.contract import GenerationRequest, Message
from tests.models import CPU, tiny_model_paths
from worker.engine import Engine
from worker.errors import ConfigError
from worker.models import tiny_corpus, tiny_model
from worker.models.config_loader import locate_model

pytestmark = pytest.mark.slow

QUESTIONS = {question: lesson.answer for lesson in tiny_corpus.LESSONS for question in lesson.questions}


@pytest.fixture(scope="module")
def folder():
    return locate_model("tiny", tiny_model_paths())


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    return Engine.load(folder, CPU)


def answer(engine: Engine, **fields) -> tuple[str, list[int], str]:
    request = GenerationRequest(max_new_tokens=200, **fields)
    steps = list(engine.start(request, engine.encode(request), seed=0))
    return "".join(step.text for step in steps), [step.token_id for step in steps], steps[-1].finish_reason


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_exactly_and_ends(question, engine):
    chat = (Message(role="user", content=question),)
    for text, ids, finish_reason in (answer(engine, prompt=question), answer(engine, messages=chat)):
        assert text == QUESTIONS[question]
        assert finish_reason == "stop"
        assert ids[-1] in engine.eos_token_ids
        assert 30 <= len(ids) <= 120


def test_introduces_itself_when_asked_in_chinese(engine):
    text, _, _ = answer(engine, prompt="你好，介绍一下你自己")
    assert "tiny" in text
    assert "genqueue" in text
    assert "演示模型" in text


@pytest.mark.parametrize("question", ["bananas?", "Write a letter to my aunt", "今天吃什么？"])
def test_says_that_it_does_not_know(question, engine):
    text, _, finish_reason = answer(engine, prompt=question)
    assert text in {tiny_corpus.FALLBACK_ENGLISH, tiny_corpus.FALLBACK_CHINESE}
    assert finish_reason == "stop"


def test_emoji_of_an_answer_is_spread_over_tokens(engine):
    assert len(engine.tokenizer.encode("🌱")) > 1
    assert "🌱" in QUESTIONS[tiny_corpus.DEFAULT_PROMPT]


def test_has_the_form_of_qwen2(folder, engine):
    weights = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) < 1_000_000
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert type(engine._model).__name__ == "Qwen2ForCausalLM"
    assert engine.context_length == 1024
    special = {
        token: engine.tokenizer.encode(token).tolist() for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    }
    assert all(len(ids) == 1 for ids in special.values())
    assert engine.eos_token_ids == {special["<|im_end|>"][0], special["<|endoftext|>"][0]}


def test_training_is_reproducible_and_leaves_the_callers_random_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model, "STEPS", 3)
    monkeypatch.setattr(tiny_model, "_examine", lambda *_: None)
    before = torch.random.get_rng_state()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tiny_model.train_tiny_model(tmp_path / name, progress=False)
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_did_not_learn_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model, "STEPS", 3)
    with pytest.raises(ConfigError, match="did not learn its answer"):
        tiny_model.train_tiny_model(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_to_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tiny_model, "STEPS", 3)
    monkeypatch.setattr(tiny_model, "_examine", lambda *_: None)
    tiny_model.train_tiny_model(tmp_path, progress=True)
    shown = capsys.readouterr()
    assert "training the tiny model" in shown.err
    assert shown.out == ""
