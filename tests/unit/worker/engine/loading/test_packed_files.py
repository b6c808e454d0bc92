"""Checkpoints of GPTQ and AWQ: what the tests write by the definition of the formats is read as it was meant."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import CPU, random_model
from tests.packed_checkpoints import AWQ, GPTQ, save_packed_model
from worker.engine import Engine, EngineOptions, ModelLoader
from worker.engine.forward.matrices import Int4Matrix, to_float
from worker.engine.forward.small_modules import small_modules
from worker.errors import ConfigError

from ..asking import Reference, answer, ids_of, random_ids, request

FORMATS = {
    "gptq": GPTQ,
    "gptq with zeros": {**GPTQ, "sym": False},
    "gptq_v2": {**GPTQ, "sym": False, "checkpoint_format": "gptq_v2"},
    "gptq in one group": {**GPTQ, "group_size": -1},
    "awq": AWQ,
}


@pytest.mark.parametrize("quantization", FORMATS.values(), ids=FORMATS)
def test_weights_are_those_of_the_definition(quantization, tmp_path):
    expected = save_packed_model(tmp_path, quantization)
    model = ModelLoader(tmp_path, "float32").load(CPU)
    found = {f"{name}.weight": module.matrix for name, module in small_modules(model).items()}
    assert expected.keys() == found.keys() - {"model.embed_tokens.weight", "lm_head.weight"}
    for name, weight in expected.items():
        matrix = found[name]
        assert isinstance(matrix, Int4Matrix)
        assert torch.equal(to_float(matrix, torch.float32), weight), name
        assert (matrix.zeros is None) == quantization.get("sym", False), "a zero of 8 is not kept"


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_answers_are_those_of_the_weights(quantization, tmp_path, tokenizer):
    weights = save_packed_model(tmp_path, quantization)
    engine = Engine.load(tmp_path, CPU, options=EngineOptions(path="static"))
    plain = random_model()
    plain.load_state_dict(weights, strict=False)
    for name in ("model.embed_tokens", "lm_head"):
        matrix = small_modules(engine._model)[name].matrix
        plain.get_submodule(name).weight.data = to_float(matrix, torch.float32)
    asked = request(random_ids(20), max_new_tokens=24)
    assert ids_of(answer(engine, asked)) == ids_of(Reference(plain, tokenizer)(asked))


def test_act_order_is_refused_by_name(tmp_path):
    save_packed_model(tmp_path, {**GPTQ, "desc_act": True}, in_order=False)
    with pytest.raises(ConfigError, match=r"act-order .desc_act.*Use a model that was quantized without it"):
        ModelLoader(tmp_path).load(CPU)


def test_desc_act_that_has_left_the_order_as_it_was(tmp_path):
    save_packed_model(tmp_path, {**GPTQ, "desc_act": True})
    ModelLoader(tmp_path).load(CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "quantized by bitsandbytes, which is not read here"),
        ({"bits": 8}, "quantized by gptq to 8 bits, and 4 are read here"),
        ({"checkpoint_format": "marlin"}, "GPTQ's format marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ's version gemv"),
        ({"group_size": 16}, "groups of 16, and multiples of 32"),
    ],
)
def test_what_is_not_read_is_named(changes, said, tmp_path):
    quantization = {**GPTQ, **changes}
    save_packed_model(tmp_path, quantization)
    with pytest.raises(ConfigError, match=said):
        ModelLoader(tmp_path).load(CPU)


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_int4_files_become_nothing_else(weights, tmp_path):
    save_packed_model(tmp_path, GPTQ)
    with pytest.raises(ConfigError, match=r"are int4 already .gptq.: leave engine.weights at auto"):
        ModelLoader(tmp_path, weights=weights).load(CPU)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path):
    save_packed_model(tmp_path, AWQ)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.qzeros"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 tensors are missing .* model\.layers\.1\.mlp\.up_proj\.qzeros"):
        ModelLoader(tmp_path).load(CPU)
