"""The context that the device has memory for: decided at the start, and refused in words that help."""

import pytest
import torch
from transformers import MambaConfig

from producer.contract import InvalidRequest, PromptTooLong
from tests.models import CPU, random_model, save_random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.errors import CacheFull
from worker.engine.loading import memory
from worker.engine.loading.kv_cost import KVCost
from worker.engine.loading.memory import plan_memory, room_in, rounded
from worker.errors import ConfigError

from ..asking import answer, random_ids, request

KEPT_FREE = 2**28
PER_TOKEN = 512
"""Of `model`: 2 * 2 layers * 2 key-value heads * 16 * 4 bytes."""


@pytest.fixture(scope="module")
def model():
    return random_model(context_length=512)


@pytest.fixture
def free(monkeypatch):
    """Say how many tokens there is memory for."""

    def set_free(tokens: float) -> int:
        free_bytes = KEPT_FREE + int(tokens * PER_TOKEN)
        monkeypatch.setattr(memory, "free_bytes", lambda _device: free_bytes)
        return free_bytes

    return set_free


def plan(model, wanted=None):
    return plan_memory(model.config, torch.float32, CPU, wanted)


class TestPlan:
    def test_is_the_models_context_where_there_is_memory(self, model, free):
        free_bytes = free(10_000)
        planned = plan(model)
        assert planned.context_length == 512
        assert planned.kv_bytes == 512 * PER_TOKEN
        assert planned.headroom_bytes == free_bytes - 512 * PER_TOKEN

    def test_is_a_round_number_where_memory_decides(self, model, free):
        free(2 * 400)
        assert plan(model).context_length == 256

    def test_is_the_same_with_some_megabytes_more_or_less(self, free):
        """Compiled kernels know it: each start compiled them anew."""
        model = random_model(context_length=2**18)
        planned = {free(2 * tokens) and plan(model).context_length for tokens in range(125_500, 126_500, 50)}
        assert planned == {124_928}

    @pytest.mark.parametrize("tokens", [16, 255, 256, 257, 5000, 32_768, 99_999, 131_071])
    def test_rounding_costs_little(self, tokens):
        assert tokens - max(255, tokens // 32) <= rounded(tokens) <= tokens
        assert rounded(rounded(tokens)) == rounded(tokens)

    def test_leaves_half_of_a_cpus_memory_to_others(self, model, free):
        free(100.5)
        assert plan(model).context_length == 50
        assert plan(model).headroom_bytes >= KEPT_FREE + 50 * PER_TOKEN

    def test_takes_what_there_is_of_a_gpus(self):
        assert room_in(2**31 + 2**20, KVCost(2**10, {}), torch.device("cuda")).usual == 1024

    def test_is_enough_to_generate_where_half_were_not(self, model, free):
        free(20)
        assert plan(model).context_length == 16

    def test_counts_what_the_weights_need_as_taken(self, model, free):
        """Mapped files count as available, and a cache in their place would have them read from the disk."""
        free(100)
        assert plan_memory(model.config, torch.float32, CPU, None, taken_bytes=60 * PER_TOKEN).context_length == 20

    def test_follows_the_setting(self, model, free):
        free(100)
        assert plan(model, 100).context_length == 100
        assert plan(model, 16).context_length == 16

    def test_refuses_a_setting_that_does_not_fit(self, model, free):
        free(100)
        with pytest.raises(
            ConfigError, match=r"context_length 101 does not fit.*Set context_length to 100 or less"
        ):
            plan(model, 101)

    @pytest.mark.parametrize("wanted", [15, 513])
    def test_refuses_a_setting_that_no_memory_would_help(self, model, free, wanted):
        free(10_000)
        with pytest.raises(ConfigError, match=f"context_length {wanted} cannot be: this model takes 16 to 512"):
            plan(model, wanted)

    @pytest.mark.parametrize("tokens", [-1000, 0, 15])
    @pytest.mark.parametrize("wanted", [None, 20])
    def test_says_so_where_nothing_fits(self, model, free, tokens, wanted):
        free(tokens)
        with pytest.raises(
            ConfigError, match=r"cpu has 0\.[23] GiB free.*too little.*free memory there, or use a sma"
        ):
            plan(model, wanted)

    def test_of_a_model_whose_state_does_not_grow(self, free):
        config = MambaConfig(hidden_size=32, num_hidden_layers=2)
        free(0)
        assert plan_memory(config, torch.float32, CPU, None).context_length == 2048
        assert plan_memory(config, torch.float32, CPU, 100_000).kv_bytes == 0
        free(-1)
        with pytest.raises(ConfigError, match="too little to generate at all"):
            plan_memory(config, torch.float32, CPU, None)

    def test_of_a_model_whose_own_context_is_tiny(self, free):
        free(100)
        assert plan(random_model(context_length=12)).context_length == 12

    def test_asks_this_machine(self, model):
        assert plan(model).headroom_bytes > 0


class TestEngine:
    @pytest.mark.parametrize("path", ["static", "dynamic"])
    def test_refuses_what_cannot_fit_before_it_starts(self, path, model, free, tokenizer: Tokenizer):
        free(80)
        engine = Engine(model, tokenizer, CPU, EngineOptions(path=path))
        with pytest.raises(PromptTooLong, match="holds 40"):
            engine.encode(request(random_ids(40)))
        with pytest.raises(InvalidRequest, match="Set max_new_tokens to 10 or less"):
            engine.encode(request(random_ids(30), max_new_tokens=11))
        assert len(answer(engine, request(random_ids(30), max_new_tokens=10))) == 10

    def test_leaves_mapped_weights_their_memory(self, tmp_path, free):
        folder = save_random_model(tmp_path, context_length=512)
        weights = sum(parameter.nbytes for parameter in random_model(context_length=512).parameters())
        free(weights / PER_TOKEN + 100)
        options = EngineOptions(path="dynamic")
        assert Engine.load(folder, CPU, "float32", options).context_length == 50
        assert Engine.load(folder, CPU, "bfloat16", options).context_length == 512

    @pytest.mark.parametrize("ranges", [False, True])
    def test_a_static_cache_that_is_full_is_noticed_on_the_host(self, ranges, model, free, tokenizer: Tokenizer):
        free(80)
        engine = Engine(model, tokenizer, CPU, EngineOptions(path="static"), ranges=ranges)
        expected = answer(engine, request(random_ids(9), max_new_tokens=5))
        engine.abandon(engine.sequence)
        engine.prefill(torch.zeros((1, 40), dtype=torch.int64))
        for too_much in (1, 2):
            with pytest.raises(CacheFull):
                engine.prefill(torch.zeros((1, too_much), dtype=torch.int64))
        assert engine.path.length == 40
        engine.abandon(engine.sequence)
        assert answer(engine, request(random_ids(9), max_new_tokens=5)) == expected
