"""Models whose configurations look otherwise: sizes in a part of them, no bound of the context, other names."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from producer.contract import GenerationRequest, InvalidRequest, PromptTooLong
from tests.models import CPU, save_tokenizer
from worker.engine import Engine, EngineOptions

from .asking import answer, ids_of

VOCAB = {"vocab_size": 800, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 799}
TEXT = {
    **VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2, "max_position_embeddings": 96,
}  # fmt: skip
MODELS = {
    "bloom": ({**VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}, 2048),
    "mpt": ({**VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96}, 96),
    "gemma3": (
        {
            "text_config": TEXT,
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14,
            },
        },
        96,
    ),
    "opt": (
        {**VOCAB, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 96, "word_embed_proj_dim": 32},
        96,
    ),
}  # fmt: skip
"""And the context of each."""


def save(folder: Path, kind: str) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **MODELS[kind][0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # else the argmax hangs on rounding
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_is_served_as_generate_does(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path, kind)
    engine = Engine.load(tmp_path, CPU, "float32", EngineOptions(path="dynamic"))
    assert (engine.context_length, engine.vocab_size, engine.eos_token_ids) == (MODELS[kind][1], 800, {799})
    prompt = list(range(5, 17))
    ours = ids_of(answer(engine, GenerationRequest(prompt_token_ids=prompt, max_new_tokens=10)))
    ids = torch.tensor([prompt])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    assert ours == whole[0, len(prompt) :].tolist()
    with pytest.raises(PromptTooLong):
        engine.encode(GenerationRequest(prompt_token_ids=[5] * engine.context_length))
    with pytest.raises(InvalidRequest, match="token id 800 is not in the vocabulary"):
        engine.encode(GenerationRequest(prompt_token_ids=[800]))
