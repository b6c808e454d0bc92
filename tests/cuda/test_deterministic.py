"""`engine.deterministic` on a card: compiled and captured, and what goes on is replayed by captured steps."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from producer.contract import GenerationRequest
from tests.models import random_model, save_tokenizer
from tests.small import small_and_plain
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.errors import ConfigError

from . import card

pytestmark = pytest.mark.slow
card.need()

GPU = torch.device("cuda", 0)
CONTEXT = 600


def engine_on(folder: object, patched: pytest.MonkeyPatch, weights: str = "bfloat16", **options: object) -> Engine:
    """Its kernels are taken for exact: they compare numbers, and here are none."""
    from worker.engine.forward.gpu import (  # noqa: PLC0415 - Triton
        attention,
        matrix_vector,
        small_matrix_rows,
        small_matrix_vector,
    )
    from worker.engine.sampling.gpu import draw  # noqa: PLC0415

    for kernels in (attention, matrix_vector, small_matrix_rows, small_matrix_vector, draw):
        patched.setattr(kernels, "check", lambda *_: None)
    if weights == "bfloat16":
        model = random_model(context_length=CONTEXT).to(torch.bfloat16)
    else:
        model, _ = small_and_plain(weights, dtype=torch.bfloat16, context_length=CONTEXT)
    settings = EngineOptions.model_validate({"deterministic": True, **options})
    return Engine(model.to(GPU), Tokenizer(save_tokenizer(folder)), GPU, settings)


@pytest.fixture(scope="module", params=["bfloat16", "int8", "int4"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patched:
        engine = engine_on(tmp_path_factory.mktemp("tokenizer"), patched, request.param)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
            torch._dynamo.reset()  # its limit of compilations is for all engines of a process
            engine.warm_up()
        yield engine


def test_it_is_compiled_and_captured(engine: Engine) -> None:
    path = engine.path
    assert (path.has_kernels, path.compiled, path.captured, engine.why) == (True, True, True, "")
    assert card.seen().violations == []
    assert engine.prefill_chunk == 256


def test_an_answer_that_goes_on_is_replayed_by_captured_steps(engine: Engine) -> None:
    asked = GenerationRequest(prompt_token_ids=[5] * 300, max_new_tokens=40, prompt_lookup=True, ignore_eos=True)
    generation = engine.start(asked, engine.encode(asked), seed=1, resumed_ids=[7] * 30)
    card.forget()
    pieces = list(generation.prefill())
    assert pieces == [256, *range(300, 330)]
    graphs = {name: count for name, count in card.seen().launched.items() if name.startswith("graph")}
    assert sum(graphs.values()) == 30, "one for each token of the output so far"
    assert len(graphs) == 1, "of one row"
    generation.close()


def test_without_kernels_it_is_refused(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_on(tmp_path, monkeypatch, compile="never")
    with pytest.raises(ConfigError, match=r"engine.compile is never.*set engine.deterministic: false"):
        engine.warm_up()
