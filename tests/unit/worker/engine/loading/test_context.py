"""How long a sequence a model is made for, whatever its configuration calls it."""

import pytest
from transformers import AutoConfig, BloomConfig, Gemma3Config, GPT2Config, MptConfig, Phi3Config, Qwen2Config

from worker.engine.loading.context import MOST, WITHOUT_BOUND, ModelContext, model_context


def rope(kind: str, length: int = 4096, **parameters) -> Qwen2Config:
    return Qwen2Config(
        max_position_embeddings=length, rope_parameters={"rope_type": kind, "rope_theta": 1e4, **parameters}
    )


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (Qwen2Config(max_position_embeddings=700), 700),
        (GPT2Config(n_positions=300), 300),
        (MptConfig(max_seq_len=512), 512),
        (BloomConfig(seq_length=2000), 2000),
        (Gemma3Config(text_config={"max_position_embeddings": 900}), 900),
        (AutoConfig.for_model("rwkv", context_length=600), 600),
    ],
)
def test_is_what_the_configuration_says(config, length: int) -> None:
    assert model_context(config) == ModelContext(length, length)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "mamba2", "falcon_mamba", "recurrent_gemma", "xlstm"])
def test_of_a_model_without_a_bound_is_what_it_was_trained_on_and_more_if_asked_for(kind: str) -> None:
    assert model_context(AutoConfig.for_model(kind)) == ModelContext(WITHOUT_BOUND, MOST)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (rope("default"), 4096),
        # Qwen2.5's own advice leaves max_position_embeddings as it was; DeepSeek's configurations have it raised.
        (rope("yarn", 4096, factor=4.0, original_max_position_embeddings=4096), 16384),
        (rope("yarn", 16384, factor=4.0, original_max_position_embeddings=4096), 16384),
        (rope("yarn", 5000, factor=4.0, original_max_position_embeddings=4096), 16384),
        (rope("yarn", 4096, factor=4), 16384),
        (rope("linear", factor=4.0), 16384),
        # What differs with the length of the sequence begins beyond max_position_embeddings.
        (rope("dynamic", factor=4.0), 4096),
        (rope("llama3", 131072, factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0,
              high_freq_factor=4.0), 131072),
        (Phi3Config(
            max_position_embeddings=131072, original_max_position_embeddings=4096,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48,
                             "long_factor": [2.0] * 48},
        ), 131072),
        (Gemma3Config(text_config={"max_position_embeddings": 131072, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}), 131072),
    ],
)  # fmt: skip
def test_of_a_rotary_embedding_that_reaches_further(config, length: int) -> None:
    assert model_context(config) == ModelContext(length, length)
