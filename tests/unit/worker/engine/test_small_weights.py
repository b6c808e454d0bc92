"""Weights in int8 and int4: the tokens of `generate` on what they stand for, and all else as with any weights."""

import re
import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from producer.contract import GenerationRequest
from tests.families import family_model, toy_model
from tests.models import CPU, ENGINES, engine_for, random_model, save_random_model
from tests.small import small_and_plain
from worker.engine import Engine, EngineOptions, ModelLoader, Tokenizer
from worker.engine.forward.matrices import Int4Matrix, Int8Matrix, bytes_of, to_float, to_int4, to_int8
from worker.engine.forward.small_modules import SmallEmbedding, SmallLinear, small_modules
from worker.engine.loading import small_weights
from worker.engine.loading.facts import memory_facts
from worker.engine.loading.small_weights import make_small
from worker.engine.loading.weights_form import WeightsForm
from worker.errors import ConfigError
from worker.progress import no_progress

from .asking import ForwardClock, Reference, answer, ids_of, random_ids, request, start

PATTERN = r"[a-f]{2,9}-[0-9]{1,5}\.(one|two)"


TO_BE_FORESEEN: dict[str, Callable[[], PreTrainedModel]] = {
    "as most": random_model,
    "tied": lambda: random_model(tied=True),
    "tied to an embedding of Gemma's": lambda: family_model("gemma", tie_word_embeddings=True),
    "columns that no group divides": lambda: random_model("gqa 7:1"),
    "biases": lambda: family_model("llama with biases"),
    "experts that are one tensor": lambda: toy_model(
        model_type="qwen2_moe", moe_intermediate_size=64, shared_expert_intermediate_size=64, num_experts=4
    ),
    "Conv1D": lambda: toy_model(model_type="gpt2"),
    "parameters that stay in float32": lambda: toy_model(
        model_type="mamba2", num_heads=8, head_dim=16, n_groups=1
    ),
}


def beyond(value: str):
    """What `make test-models` tries as well."""
    return pytest.param(value, marks=pytest.mark.matrix)


@pytest.fixture(params=["int8", "int4"])
def weights(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def models(weights):
    return small_and_plain(weights)


@pytest.fixture
def reference(models, tokenizer: Tokenizer) -> Reference:
    return Reference(models[1], tokenizer)


@pytest.fixture
def engine(models, tokenizer: Tokenizer) -> Engine:
    return engine_for(models[0], tokenizer)


@pytest.mark.parametrize("kind", ENGINES)
def test_tokens_are_those_of_the_weights_written_out(kind, models, reference, tokenizer):
    engine = engine_for(models[0], tokenizer, kind)
    for length in (1, 30):
        asked = request(random_ids(length), max_new_tokens=40)
        assert ids_of(answer(engine, asked)) == ids_of(reference(asked))


def test_one_matrix_for_embedding_and_head(weights, tokenizer):
    small, plain = small_and_plain(weights, tied=True)
    modules = small_modules(small)
    assert modules["lm_head"].values.data_ptr() == modules["model.embed_tokens"].values.data_ptr()
    asked = request(random_ids(9), max_new_tokens=24)
    assert ids_of(answer(engine_for(small, tokenizer), asked)) == ids_of(Reference(plain, tokenizer)(asked))


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int4", beyond("int8")])
def test_compiled(weights, tokenizer):
    small, plain = small_and_plain(weights)
    options = EngineOptions(path="static", compile="always", prefill_chunk=8)
    engine = Engine(small, tokenizer, CPU, options)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
        engine.warm_up()
    assert engine.path.compiled, engine.why
    for length in (1, 30):
        asked = request(random_ids(length), max_new_tokens=60, prompt_lookup=False)
        assert ids_of(answer(engine, asked)) == ids_of(Reference(plain, tokenizer)(asked))


ASKED = {
    "logprobs": request(random_ids(12), max_new_tokens=12, logprobs=3),
    "sampled": request(random_ids(12), max_new_tokens=20, temperature=0.9, top_p=0.9, repetition_penalty=1.2),
    "structure": GenerationRequest.parse({
        "prompt_token_ids": random_ids(12), "max_new_tokens": 60, "grammar": {"type": "regex", "regex": PATTERN}
    }),
    "structure, with logprobs": GenerationRequest.parse({
        "prompt_token_ids": random_ids(9), "max_new_tokens": 60, "logprobs": 1,
        "grammar": {"type": "choice", "choice": ["a queue of jobs", "a queue of workers"]},
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_all_else_is_as_with_any_weights(asked, kind, weights, tokenizer):
    """Resumed at the first place, in the midst, and before the last token."""
    small, plain = small_and_plain(weights, context_length=256, eos_token_id=[2])
    engine = engine_for(small, tokenizer, kind)
    whole = Reference(plain, tokenizer)(asked, seed=3)
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        steps = answer(engine, asked, seed=3, resumed_ids=ids_of(whole)[:cut])
        assert ids_of(steps) == ids_of(whole)[cut:]
        assert steps[-1].finish_reason == whole[-1].finish_reason
        for ours, theirs in zip(steps, whole[cut:], strict=True):
            assert (ours.logprob is None) == (asked.logprobs is None)
            if ours.logprob and theirs.logprob:
                assert ours.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-3)


@pytest.mark.parametrize("kind", ENGINES)
def test_with_drafts_the_tokens_are_the_same(kind, weights, tokenizer, monkeypatch):
    """Of a model of few words, which repeats itself."""
    small, plain = small_and_plain(weights, vocab_size=16)
    engine = engine_for(small, tokenizer, kind)
    clock = ForwardClock(engine, monkeypatch)
    asked = request([1, 2, 3, 4, 5] * 5, max_new_tokens=100, prompt_lookup=True)
    expected = ids_of(Reference(plain, tokenizer)(asked.model_copy(update={"prompt_lookup": False})))
    for _ in range(2):  # the first learns what a step costs
        assert ids_of(answer(engine, asked)) == expected
    assert clock.drafts


def test_a_draft_is_read_as_its_tokens_would_be(engine, models):
    ids = torch.tensor([random_ids(30)])
    engine.begin(ids[0].tolist(), ids.shape[1])
    engine.prefill(ids[:, :20])
    with torch.inference_mode():
        expected = models[1](ids).logits[0]
        assert torch.allclose(engine.read_draft(ids[:, 20:28]), expected[20:28], atol=1e-3)
        engine.keep(24)
        assert torch.allclose(engine.decode(ids[:, 24:25]), expected[24:25], atol=1e-3)


def test_beginnings_are_reused(engine, reference):
    first, second = (request([*random_ids(40), *more], max_new_tokens=8) for more in ([5], [6, 7]))
    answer(engine, first)
    steps = list(generation := start(engine, second))
    assert generation.cached_tokens == 40
    assert ids_of(steps) == ids_of(reference(second))


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_rows_in_bfloat16(kind, weights, tokenizer):
    """Other products than those of the written out weights, which agree as bfloat16 does."""
    small, plain = small_and_plain(weights, dtype=torch.bfloat16)
    engine = engine_for(small, tokenizer, kind)
    ids = torch.tensor([random_ids(24)])
    with torch.inference_mode():
        expected = plain(ids).logits[0, -1].float()
    engine.begin(ids[0].tolist(), ids.shape[1])
    logits = engine.prefill(ids)[0]
    assert engine.dtype == torch.bfloat16
    assert (logits - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma2", "olmo", beyond("stablelm")])
def test_on_transformers_own_path(architecture, weights, tokenizer):
    small, plain = (toy_model(model_type=architecture) for _ in range(2))
    make_small(small, WeightsForm("auto", weights), torch.float32, CPU, no_progress)
    for name, module in small_modules(small).items():
        plain.get_submodule(name).weight.data = to_float(module.matrix, torch.float32)
    asked = request(random_ids(20, vocab_size=700), max_new_tokens=16)
    engine = Engine(small, tokenizer, CPU)
    assert engine.path.name == "dynamic"
    assert ids_of(answer(engine, asked)) == ids_of(Reference(plain, tokenizer)(asked))


@pytest.mark.parametrize("family", ["gemma", *map(beyond, ["qwen3", "phi 3", "olmo2", "granite"])])
def test_other_families(family, weights, tokenizer):
    small, plain = (family_model(family, max_position_embeddings=96) for _ in range(2))
    make_small(small, WeightsForm("auto", weights), torch.float32, CPU, no_progress)
    for name, module in small_modules(small).items():
        plain.get_submodule(name).weight.data = to_float(module.matrix, torch.float32)
    asked = request(random_ids(20, vocab_size=700), max_new_tokens=16)
    ours = Engine(small, tokenizer, CPU)
    assert {"lm_head", "model.embed_tokens"} < small_modules(small).keys()
    assert ours.path.name == Engine(plain, tokenizer, CPU).path.name
    assert ids_of(answer(ours, asked)) == ids_of(Reference(plain, tokenizer)(asked))


@pytest.mark.skipif(shutil.which("g++") is None, reason="our operator is compiled by g++")
def test_on_transformers_own_path_by_our_operator(weights, tokenizer, monkeypatch):
    small, plain = small_and_plain(weights)
    engine = Engine(small, tokenizer, CPU, EngineOptions(path="dynamic", compile="always"))
    engine.warm_up()
    assert engine.why == "path is set to dynamic"
    monkeypatch.setattr(SmallLinear, "weight", None)  # nothing is written out
    monkeypatch.setattr("worker.engine.forward.matrices.to_float", None)
    asked = request(random_ids(20), max_new_tokens=30)
    assert ids_of(answer(engine, asked)) == ids_of(Reference(plain, tokenizer)(asked))


@pytest.mark.parametrize("scale", [8.0, torch.tensor(8.0)], ids=["as BART's", "as Gemma's"])
def test_an_embedding_whose_rows_are_multiplied(scale):
    matrix = to_int8(torch.randn(5, 32))
    rows = SmallEmbedding(matrix, torch.bfloat16, scale)(torch.tensor([[3, 1]]))
    assert torch.equal(rows, to_float(matrix, torch.bfloat16)[[3, 1]][None] * 8)


class TestLoading:
    @pytest.mark.parametrize("stored", ["float32", "bfloat16"])
    def test_small_forms_are_made_of_what_the_files_hold(self, stored, weights, tmp_path):
        folder = save_random_model(tmp_path)
        ModelLoader(folder, stored).load(CPU).save_pretrained(folder)
        whole = ModelLoader(folder, "float32").load(CPU)
        found = small_modules(ModelLoader(folder, "float32", weights=weights).load(CPU))
        assert len(found) == 2 * 7 + 2
        for name, module in found.items():
            weight = whole.get_submodule(name).weight.detach()
            at_an_end = name in ("lm_head", "model.embed_tokens")
            expected = to_int8(weight) if weights == "int8" or at_an_end else to_int4(weight, 32, zeros=True)
            assert torch.equal(to_float(module.matrix, torch.float32), to_float(expected, torch.float32))

    def test_what_is_not_a_matrix_is_of_the_dtype_of_rows(self, weights, tmp_path):
        save_random_model(tmp_path)
        model = ModelLoader(tmp_path, "bfloat16", weights=weights).load(CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.dtype == torch.bfloat16
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32

    def test_no_more_than_a_piece_is_written_out_beside_what_is_kept(self, weights, tmp_path, monkeypatch):
        """On the CPU, files are mapped, and each matrix is let go of when its small form is made."""
        save_random_model(tmp_path)
        pieces = []
        for name in ("to_int8", "to_int4"):
            make = getattr(small_weights, name)
            noting = lambda piece, *args, make=make, **options: (  # noqa: E731
                pieces.append(piece.numel()) or make(piece, *args, **options)
            )
            monkeypatch.setattr(small_weights, name, noting)
        monkeypatch.setattr(small_weights, "_PIECE", 1000)
        model = ModelLoader(tmp_path, weights=weights).load(CPU)
        assert max(pieces) <= 1000
        assert sum(pieces) > 100_000
        assert sum(parameter.numel() for parameter in model.parameters()) < 1000, "norms and biases are left"

    @pytest.mark.parametrize("group", [32, 64, 128])
    def test_groups_that_do_not_divide_a_row_are_smaller(self, group, tmp_path):
        """64 and 128 columns."""
        save_random_model(tmp_path)
        model = ModelLoader(tmp_path, weights="int4", group=group).load(CPU)
        matrices = {name: module.matrix for name, module in small_modules(model).items()}
        q, down = (matrices[f"model.layers.0.{name}"] for name in ("self_attn.q_proj", "mlp.down_proj"))
        assert isinstance(q, Int4Matrix)
        assert isinstance(down, Int4Matrix)
        assert (q.group, down.group) == (min(group, 64), group)

    def test_columns_that_no_group_divides_are_int8_and_it_is_said(self, tmp_path, caplog):
        save_random_model(tmp_path, heads="gqa 7:1")  # 112 columns
        model = ModelLoader(tmp_path, weights="int4").load(CPU)
        matrices = {name: module.matrix for name, module in small_modules(model).items()}
        assert isinstance(matrices["model.layers.0.self_attn.q_proj"], Int8Matrix)
        assert isinstance(matrices["model.layers.0.mlp.down_proj"], Int4Matrix)
        assert "12 matrices, q_proj of 112 columns the first of them" in caplog.text

    def test_a_start_says_the_forms_and_their_bytes(self, engine, weights):
        layers = (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128) * 2
        assert engine.parameters == 800 * 64 * 2 + layers + 64 * 5 + (64 + 2 * 32) * 2
        assert re.fullmatch(
            r"int8 \(0 MiB\)" if weights == "int8" else r"int4 in groups of 32 \(0 MiB\) and int8 \(0 MiB\)",
            engine.small_weights,
        )

    @pytest.mark.parametrize("group", [32, 128])
    @pytest.mark.parametrize("kind", TO_BE_FORESEEN)
    def test_what_they_will_take_is_known_before(self, kind, weights, group, tmp_path):
        TO_BE_FORESEEN[kind]().save_pretrained(tmp_path)
        options = EngineOptions(weights=weights, weights_group=group)
        facts = memory_facts(tmp_path, CPU, "bfloat16", 1, options)
        model = ModelLoader(tmp_path, "bfloat16", weights=weights, group=group).load(CPU)
        matrices = {module.values.data_ptr(): module.matrix for module in small_modules(model).values()}
        taken = sum(map(bytes_of, matrices.values())) + sum(tensor.nbytes for tensor in model.parameters())
        assert facts.dtype == weights
        assert facts.weights_bytes == taken
        assert facts.smaller == {}
        in_floats = memory_facts(tmp_path, CPU, "bfloat16", 1, EngineOptions(weights_group=group))
        assert in_floats.smaller[weights] == taken

    def test_an_embedding_of_a_class_that_stays_is_held_beside_its_head(self, weights, monkeypatch):
        monkeypatch.setattr(small_weights, "_is_scaled_embedding", lambda _: False)
        model, form = family_model("gemma", tie_word_embeddings=True), WeightsForm("auto", weights)
        planned = small_weights.planned_bytes(model, form, torch.bfloat16)
        make_small(model, form, torch.bfloat16, CPU, no_progress)
        small = sum(bytes_of(module.matrix) for module in small_modules(model).values())
        assert planned == small + sum(parameter.nbytes for parameter in model.parameters())
        assert "model.embed_tokens" not in small_modules(model)

    def test_floats_are_a_dtype(self, tmp_path):
        save_random_model(tmp_path)
        assert ModelLoader(tmp_path, weights="bfloat16").load(CPU).dtype == torch.bfloat16
        with pytest.raises(ConfigError, match=r"dtype is float16 and engine.weights bfloat16, which are one"):
            ModelLoader(tmp_path, "float16", weights="bfloat16").load(CPU)

    def test_a_model_whose_matrices_are_in_modules_of_its_own(self, monkeypatch):
        model = toy_model(model_type="gpt2")
        monkeypatch.setattr("worker.engine.loading.small_weights._KINDS", ())
        with pytest.raises(ConfigError, match=r"engine\.weights is int4, and GPT2LMHeadModel keeps its matrices"):
            make_small(model, WeightsForm("auto", "int4"), torch.float32, CPU, no_progress)
