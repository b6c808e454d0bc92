"""Both caches: what they keep, what they forget, and that nothing of it comes back."""

import math

import pytest
import torch

from tests.models import CPU, random_model
from worker.engine.errors import CacheFull
from worker.engine.forward import host_copy
from worker.engine.forward.kv_cache import DynamicKVCache, StaticKVCache
from worker.engine.reuse.prefix_cache import PrefixCache


def static_cache(capacity: int = 8) -> StaticKVCache:
    return StaticKVCache((2, 3, capacity, 4), torch.float32, CPU)


def fill(cache: StaticKVCache, tokens: int) -> None:
    """So many tokens more, each a number of its own."""
    start = cache.grow(tokens)
    for position in range(start, start + tokens):
        cache.keys[:, :, position] = position + 1
        cache.values[:, :, position] = -(position + 1)


class TestStaticKVCache:
    def test_grow_gives_the_position_of_the_first_token(self):
        cache = static_cache()
        assert [cache.grow(3), cache.grow(1), cache.grow(4)] == [0, 3, 4]
        assert cache.length == cache.capacity == 8

    def test_a_full_cache_says_so_on_the_host_and_stays_as_it_is(self):
        cache = static_cache()
        cache.grow(7)
        with pytest.raises(CacheFull, match="holds 8 tokens and cannot take 9"):
            cache.grow(2)
        assert cache.length == 7
        assert cache.grow(1) == 7

    def test_truncate_never_makes_it_longer(self):
        cache = static_cache()
        fill(cache, 3)
        cache.truncate(5)
        assert cache.length == 3

    def test_what_is_dropped_is_wiped(self):
        """A masked step multiplies what lies behind the end by zero, and zero times NaN is NaN."""
        cache = static_cache()
        fill(cache, 6)
        cache.keys[:, :, 4] = math.nan
        cache.values[:, :, 5] = math.inf
        cache.truncate(4)
        assert not cache.keys[:, :, 4:].any()
        assert not cache.values[:, :, 4:].any()
        assert (cache.keys[0, 0, :4, 0] == torch.tensor([1.0, 2, 3, 4])).all()

    @pytest.mark.parametrize("held", [0, 2, 7])
    @pytest.mark.parametrize("length", [1, 3, 5])
    def test_what_was_copied_out_comes_back(self, held, length):
        cache = static_cache()
        fill(cache, 5)
        kept = cache.copy_out()
        cache.truncate(0)
        fill(cache, held)
        cache.keys[:, :, :held] += 100
        cache.copy_in(kept, length)

        expected = static_cache()
        fill(expected, length)
        assert cache.length == length
        assert torch.equal(cache.keys, expected.keys)
        assert torch.equal(cache.values, expected.values)

    def test_what_was_copied_out_does_not_change_with_the_cache(self):
        cache = static_cache()
        fill(cache, 5)
        kept = cache.copy_out()
        cache.keys += 1
        assert kept.nbytes == 5 * cache.bytes_per_token
        cache.copy_in(kept, 5)
        assert cache.keys[0, 0, :5, 0].tolist() == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("block_elements", [1, 3, 4, 20, 1000])
    def test_heads_may_stand_in_two_blocks(self, block_elements, monkeypatch):
        monkeypatch.setattr(host_copy, "BLOCK_BYTES", 4 * block_elements)
        cache = static_cache()
        fill(cache, 5)
        expected = cache.keys.clone(), cache.values.clone()
        kept = cache.copy_out()
        cache.truncate(0)
        cache.copy_in(kept, 5)
        assert torch.equal(cache.keys, expected[0])
        assert torch.equal(cache.values, expected[1])


class TestPinnedMemory:
    @pytest.fixture
    def pinned(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
        """All blocks that were ever pinned, as far as a CPU pins any."""
        blocks: list[torch.Tensor] = []

        def block() -> torch.Tensor:
            blocks.append(torch.empty(host_copy.BLOCK_BYTES, dtype=torch.uint8))
            return blocks[-1]

        monkeypatch.setattr(host_copy, "_pinned_block", block)
        monkeypatch.setattr(host_copy, "BLOCK_BYTES", 64)
        return blocks

    def test_is_used_again_once_nobody_holds_its_copy(self, pinned):
        cache = static_cache()
        cache.host_memory = host_copy.HostMemory(pinned=True)
        fill(cache, 5)  # 960 bytes: 15 blocks
        cache.host_memory.pin_ahead(15 * 64)
        first = cache.copy_out()
        assert len(pinned) == 15
        second = cache.copy_out()
        assert len(pinned) == 30
        del first
        third = cache.copy_out()
        assert len(pinned) == 30
        for kept in (second, third):
            cache.truncate(0)
            cache.copy_in(kept, 5)
            assert cache.keys[0, 0, :5, 0].tolist() == [1, 2, 3, 4, 5]

    def test_what_makes_way_again_has_that_of_its_earlier_copy(self, pinned):
        cache = static_cache(capacity=300)
        cache.host_memory = host_copy.HostMemory(pinned=True)
        prefixes = PrefixCache(cache, 0, 2**30)
        ids = torch.arange(200)
        for length in (100, 150, 199):
            fill(cache, length - prefixes.begin(ids))
            prefixes.note(ids[:length])
            prefixes.park_for(1)
            prefixes.begin(torch.tensor([700, 701]))  # what it makes way for
            assert len(pinned) == length * cache.bytes_per_token // 64


class TestDynamicKVCache:
    def test_truncate_keeps_the_beginning(self):
        model = random_model()
        cache = DynamicKVCache(model.config)
        with torch.inference_mode():
            model(torch.tensor([[1, 2, 3, 4, 5]]), past_key_values=cache.past_key_values)
            cache.length = 5
            cache.truncate(9)
            assert cache.length == cache.past_key_values.get_seq_length() == 5
            cache.truncate(2)
            assert cache.length == cache.past_key_values.get_seq_length() == 2
            after = model(torch.tensor([[6]]), past_key_values=cache.past_key_values).logits
            expected = model(torch.tensor([[1, 2, 6]])).logits[:, -1:]
        assert torch.allclose(after, expected, atol=1e-5)

    def test_what_a_cache_can_do_is_known_before_it_is_used(self):
        """Attention can be rolled back; a window cannot, nor can a state, which takes a prompt as a whole too."""
        config = random_model().config
        able = {}
        for kind in ("full_attention", "sliding_attention", "linear_attention", "conv", "hybrid"):
            config.layer_types = ["full_attention", kind]
            config.sliding_window = 16
            cache = DynamicKVCache(config)
            able[kind] = cache.rolls_back, cache.has_states
        assert able == {
            "full_attention": (True, False),
            "sliding_attention": (False, False),
            "linear_attention": (False, True),
            "conv": (False, True),
            "hybrid": (False, True),
        }
