"""Checkpoints of GPTQ and AWQ: what the tests write by the definition of the formats is read as it was meant."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.families import FAMILIES, family_model, toy_model
from tests.models import CPU, random_model
from tests.packed_checkpoints import AWQ, GPTQ, save_packed_model
from worker.engine import Engine, ModelLoader, Tokenizer
from worker.engine.forward.matrices import Int4Matrix, Int8Matrix, bytes_of, to_float, to_int8
from worker.engine.forward.small_modules import small_modules
from worker.engine.loading.facts import memory_facts
from worker.errors import ConfigError
from worker.models.model_files import read_weights

from ..asking import Reference, answer, ids_of, random_ids, request

FORMATS = {
    "gptq": GPTQ,
    "gptq with zeros": {**GPTQ, "sym": False},
    "gptq_v2": {**GPTQ, "sym": False, "checkpoint_format": "gptq_v2"},
    "gptq in one group": {**GPTQ, "group_size": -1},
    "gptq in groups that are cut short": {**GPTQ, "sym": False, "group_size": 96},
    "gptq of GPTQModel": {**GPTQ, "format": "gptq", "pack_dtype": "int32", "dynamic": {"-:lm_head": {}}},
    "awq": AWQ,
    "awq in groups that are cut short": {**AWQ, "group_size": 96},
    "awq of transformers": {**AWQ, "version": None, "format": "gemm", "modules_to_not_convert": ["lm_head"]},
}
FEW = ["qwen3", "phi 3", "llama with biases", "llama 3"]


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_are_of_the_dtype_of_the_files(dtype, tmp_path):
    expected = save_packed_model(tmp_path, GPTQ, scales=dtype)
    found = small_modules(ModelLoader(tmp_path, "float32").load(CPU))
    for name, weight in expected.items():
        assert torch.equal(to_float(found[name.removesuffix(".weight")].matrix, torch.float32), weight), name


def test_what_is_not_packed_is_read_in_its_own_dtype(tmp_path):
    """There are more scales, in float16, than all else."""
    save_packed_model(tmp_path, GPTQ)
    norm = torch.rand(64) + 1
    edit(tmp_path, lambda tensors: tensors.update({"model.norm.weight": norm}))
    assert torch.equal(ModelLoader(tmp_path, "float32").load(CPU).model.norm.weight, norm)


def assert_answers_are_those_of(
    plain: PreTrainedModel, weights: dict[str, Tensor], folder: Path, tokenizer: Tokenizer
) -> Engine:
    """plain: of the same family, in which the weights that are packed are put."""
    engine = Engine.load(folder, CPU)
    plain.load_state_dict(weights, strict=False)
    for name, module in small_modules(engine._model).items():
        if f"{name}.weight" not in weights:
            plain.get_submodule(name).weight.data = to_float(module.matrix, torch.float32)
    asked = request(random_ids(20, vocab_size=700), max_new_tokens=24)
    assert ids_of(answer(engine, asked)) == ids_of(Reference(plain, tokenizer)(asked))
    return engine


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
@pytest.mark.parametrize(
    "family", [family if family in FEW else pytest.param(family, marks=pytest.mark.matrix) for family in FAMILIES]
)
def test_answers_are_those_of_the_weights(family, quantization, tmp_path, tokenizer):
    model = family_model(family)
    weights = save_packed_model(tmp_path, quantization, model)
    assert assert_answers_are_those_of(model, weights, tmp_path, tokenizer).path.name == "static"


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_answers_on_transformers_own_path(quantization, tmp_path, tokenizer):
    model = toy_model(model_type="stablelm", use_qkv_bias=True)
    weights = save_packed_model(tmp_path, quantization, model)
    assert assert_answers_are_those_of(model, weights, tmp_path, tokenizer).path.name == "dynamic"


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_a_head_that_is_packed(quantization, tmp_path, tokenizer):
    weights = save_packed_model(tmp_path, quantization, also="lm_head.weight")
    engine = assert_answers_are_those_of(random_model(), weights, tmp_path, tokenizer)
    assert isinstance(small_modules(engine._model)["lm_head"].matrix, Int4Matrix)


def test_what_files_in_int4_have_in_floats_becomes_int8(tmp_path, caplog):
    """A layer that was left out of GPTQ or AWQ loses too much by int4."""
    name = "model.layers.1.mlp.down_proj"
    save_packed_model(tmp_path, {**GPTQ, "dynamic": {f"-:{name}": {}}})
    weight = torch.randn(64, 128)

    def in_floats(tensors: dict[str, Tensor]) -> None:
        for field in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{name}.{field}"]
        tensors[f"{name}.weight"] = weight

    edit(tmp_path, in_floats)
    facts = memory_facts(tmp_path, CPU, "float32", 1)
    model = ModelLoader(tmp_path, "float32").load(CPU)
    matrix = small_modules(model)[name].matrix
    assert isinstance(matrix, Int8Matrix)
    assert torch.equal(to_float(matrix, torch.float32), to_float(to_int8(weight), torch.float32))
    assert facts.weights_bytes == sum(bytes_of(module.matrix) for module in small_modules(model).values()) + sum(
        parameter.nbytes for parameter in model.parameters()
    )
    assert "no group of int4 divides" not in caplog.text


def test_files_that_are_several(tmp_path, tokenizer):
    weights = save_packed_model(tmp_path, AWQ)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(part, tmp_path / file, metadata={"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_answers_are_those_of(random_model(), weights, tmp_path, tokenizer)


@pytest.mark.parametrize("quantization", FORMATS.values(), ids=FORMATS)
def test_what_they_will_take_is_known_before(quantization, tmp_path):
    save_packed_model(tmp_path, quantization)
    facts = memory_facts(tmp_path, CPU, "float32", 1)
    model = ModelLoader(tmp_path, "float32").load(CPU)
    taken = sum(bytes_of(module.matrix) for module in small_modules(model).values())
    taken += sum(parameter.nbytes for parameter in model.parameters())
    assert (facts.dtype, facts.smaller) == ("int4", {})
    assert facts.weights_bytes == pytest.approx(taken, rel=0.005)


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_a_look_at_the_files_counts_weights_and_not_words(quantization, tmp_path):
    save_packed_model(tmp_path, quantization)
    weights = read_weights(tmp_path)
    assert weights is not None
    assert weights.parameters == sum(parameter.numel() for parameter in random_model().parameters())


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
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "quantized by compressed-tensors"),
        ({"bits": 8}, "quantized by gptq to 8 bits, and 4 are read here"),
        ({"checkpoint_format": "marlin"}, "GPTQ's format marlin"),
        ({"is_marlin_format": True}, "GPTQ's format marlin"),
        ({"dynamic": {"-:a": {}, "+:.*down.*": {"bits": 8}}}, r"in another way for some of them \(\+:.\*down"),
        ({"pack_dtype": "int16"}, "into words of int16, and those of int32"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ's version gemv"),
        ({"quant_method": "awq", "version": None, "format": "gemv"}, "AWQ's version gemv"),
        ({"group_size": 16}, "groups of 16, of 64 columns, and multiples of 32"),
        ({"group_size": 80}, "groups of 80, of 64 columns, and multiples of 32"),
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


@pytest.mark.parametrize("size", [None, 0, "128"])
def test_a_size_of_groups_that_is_none(size, tmp_path):
    save_packed_model(tmp_path, AWQ)
    change_config(tmp_path, quantization_config={**AWQ, "group_size": size})
    with pytest.raises(ConfigError, match=f"in groups of {size}, which is no number of columns"):
        ModelLoader(tmp_path).load(CPU)


UP = "model.layers.1.mlp.up_proj"


def change_config(folder: Path, **fields: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **fields}))


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The tensors of its file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("field", ["qweight", "qzeros", "scales", "g_idx"])
class TestTensors:
    def test_that_are_missing_are_named(self, field, tmp_path):
        save_packed_model(tmp_path, GPTQ)
        edit(tmp_path, lambda tensors: tensors.pop(f"{UP}.{field}"))
        named = "weight" if field == "qweight" else field
        with pytest.raises(
            ConfigError, match=rf"1 tensors are missing .* model\.layers\.1\.mlp\.up_proj\.{named}"
        ):
            ModelLoader(tmp_path).load(CPU)

    def test_of_another_shape_than_that_of_the_format_are_named(self, field, tmp_path):
        save_packed_model(tmp_path, GPTQ)
        edit(tmp_path, lambda tensors: tensors.update({f"{UP}.{field}": tensors[f"{UP}.{field}"][:-1].clone()}))
        with pytest.raises(ConfigError, match=rf"up_proj\.{field} has the shape .* in the file and"):
            ModelLoader(tmp_path).load(CPU)


def test_files_without_a_word_in_config_json_on_what_they_are(tmp_path):
    save_packed_model(tmp_path, AWQ)
    change_config(tmp_path, quantization_config=None)
    with pytest.raises(ConfigError, match=r"down_proj.qweight is not read .*has no quantization_config"):
        ModelLoader(tmp_path).load(CPU)


def test_a_word_in_config_json_on_what_files_are_not(tmp_path):
    save_packed_model(tmp_path, AWQ)
    toy_model(model_type="qwen2").save_pretrained(tmp_path)
    change_config(tmp_path, quantization_config=AWQ)
    with pytest.raises(ConfigError, match="says that its weights are awq, and none of them is: take quantization"):
        ModelLoader(tmp_path).load(CPU)


def test_experts_that_are_one_tensor_here_are_refused_by_name(tmp_path):
    model = toy_model(
        model_type="qwen2_moe", moe_intermediate_size=64, shared_expert_intermediate_size=64, num_experts=4
    )
    save_packed_model(tmp_path, GPTQ, model)
    with pytest.raises(ConfigError, match=r"mlp.experts.0.down_proj.qweight is not read here: it is of no linear"):
        ModelLoader(tmp_path).load(CPU)
