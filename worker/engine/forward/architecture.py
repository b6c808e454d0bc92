"""Which models the fast path knows: for each class of transformers, what its weights and configuration do not say.

To add a model: read its modeling file in transformers, add a `Family` here, and a toy configuration to
tests/families.py, which is held against `generate`. What it computes and no field says goes into the functions of
`decoder`, with a field of its own.

A model is recognised exactly or not at all. Its class is the very one (no subclass); each of its parameters has a
place in the description; each field that its configuration declares is one that was read. The rest takes the
dynamic path, with the reason in words.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import NotSupported
from .matrices import form_of
from .small_modules import SmallEmbedding, SmallLinear, matrix_of, small_modules

CONSTANT_ROPES = {"default", "linear", "llama3", "yarn"}
"""Kinds of rotary embedding that turn a position alike in a short sequence and in a long one."""
ACTIVATIONS = {"silu", "gelu_pytorch_tanh"}


class LayerNames(NamedTuple):
    """Where a layer keeps its weights. Matrices that are read together are one tuple, in the order of their rows.

    A norm that a model has not is None: before attention and the gated product in most, behind them in OLMo2.
    """

    input_norm: str | None = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    query_norm: str | None = None
    """Of each head, or of all at once: as long as its weight is."""
    key_norm: str | None = None
    output: str = "self_attn.o_proj"
    attention_norm: str | None = None
    """Of what attention adds to the hidden state."""
    mlp_norm: str | None = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    down_norm: str | None = None
    """Of what the gated product adds."""

    @property
    def norms(self) -> list[str]:
        """Those it has."""
        norms = self.input_norm, self.query_norm, self.key_norm, self.attention_norm, self.mlp_norm, self.down_norm
        return [norm for norm in norms if norm]

    @property
    def matrices(self) -> list[str]:
        """All of them; each may have a bias."""
        return [*self.qkv, self.output, *self.gate_up, self.down]


class Multipliers(NamedTuple):
    """Of Granite and Gemma; 1 elsewhere."""

    embedding: float = 1.0
    attention: float | None = None
    """Of the scores; None for one over the square root of the head size."""
    residual: float = 1.0
    """Of what attention and the gated product add."""
    logits: float = 1.0


_LLAMA_NAMES = LayerNames()


@dataclass(frozen=True)
class Family:
    """Models that are computed alike. The defaults are Llama's."""

    names: LayerNames = _LLAMA_NAMES
    one_added: bool = False
    """Whether norms multiply by one more than their weights."""
    partial_rotary: bool = False
    """Whether the first part of a head may be turned and the rest left alone."""
    multipliers: Callable[[PreTrainedConfig, torch.dtype], Multipliers] = lambda *_: Multipliers()
    fields: frozenset[str] = frozenset()
    """What its configuration declares beyond `_FIELDS`."""


FAMILIES = {
    "Qwen2ForCausalLM": Family(),
    "Qwen3ForCausalLM": Family(LayerNames(query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")),
    "LlamaForCausalLM": Family(fields=frozenset({"pretraining_tp"})),
    "MistralForCausalLM": Family(),
    "SmolLM3ForCausalLM": Family(fields=frozenset({"no_rope_layers", "no_rope_layer_interval"})),
    "Phi3ForCausalLM": Family(
        LayerNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",)),
        partial_rotary=True,
        fields=frozenset({"embd_pdrop", "resid_pdrop", "original_max_position_embeddings"}),
    ),
    "Olmo2ForCausalLM": Family(
        LayerNames(
            input_norm=None,
            query_norm="self_attn.q_norm",
            key_norm="self_attn.k_norm",
            attention_norm="post_attention_layernorm",
            mlp_norm=None,
            down_norm="post_feedforward_layernorm",
        )
    ),
    "GraniteForCausalLM": Family(
        multipliers=lambda config, _: Multipliers(
            embedding=config.embedding_multiplier,
            attention=config.attention_multiplier,
            residual=config.residual_multiplier,
            logits=1 / config.logits_scaling,
        ),
        fields=frozenset(
            {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}
        ),
    ),
    "GemmaForCausalLM": Family(
        one_added=True,
        multipliers=lambda config, dtype: Multipliers(  # rounded to bfloat16, as it was in training
            embedding=torch.tensor(config.hidden_size**0.5, dtype=dtype).item()
        ),
        fields=frozenset({"use_bidirectional_attention"}),
    ),
}
"""By the name of the class in transformers."""

_FIELDS = {
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
    "initializer_range", "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers",
    "mlp_bias", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps",
    "rope_parameters", "sliding_window", "tie_word_embeddings", "use_cache", "use_sliding_window", "vocab_size",
}  # fmt: skip
"""What a configuration may declare: looked at below, or told by the weights, or of no account when generating."""


class Shape(NamedTuple):
    """Of one layer: what its weights do not say by themselves."""

    query_heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    attention_scale: float
    residual_multiplier: float
    activation: str
    rotates: bool
    """Whether queries and keys are turned by their positions."""
    rotary_dim: int
    """How many numbers of a head are."""


class Architecture(NamedTuple):
    """A model that is known: what `decoder` needs beside its weights."""

    family: Family
    layers: list[Shape]
    multipliers: Multipliers


def describe(model: PreTrainedModel, capacity: int) -> Architecture:
    """For sequences of up to `capacity` tokens.  Allocates nothing.

    Raises NotSupported with the reason why `decoder` would not compute what the model computes.
    """
    name, config = type(model).__qualname__, model.config
    family = FAMILIES.get(name)
    if family is None or type(model) is not getattr(transformers, name, None):
        raise NotSupported(f"the fast path does not know {name}{_peculiarities(config)}")
    if getattr(config, "quantization_config", None) is not None:
        raise NotSupported("its weights are quantized, which the fast path cannot read")
    if strange := sorted({field.name for field in fields(config)} - _FIELDS - family.fields - _COMMON_FIELDS):
        raise NotSupported(
            f"its configuration has {', '.join(strange)}, which is newer than what the fast path was made for"
        )
    _check_parameters(model, family.names)
    _check_modules(model)
    _check_forms(model, family.names)
    _check_attention(config, capacity)
    if config.hidden_act not in ACTIVATIONS:
        raise NotSupported(
            f"its activation is {config.hidden_act}, and the fast path has {' and '.join(sorted(ACTIVATIONS))}"
        )
    rotary_dim = _rotary_dim(model, family, capacity)
    multipliers = family.multipliers(config, model.dtype)
    return Architecture(family, list(_shapes(config, multipliers, rotary_dim)), multipliers)


def head_dim_of(config: PreTrainedConfig) -> int:
    """Numbers in the query of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


_COMMON_FIELDS = {field.name for field in fields(PreTrainedConfig)}


def _shapes(config: PreTrainedConfig, multipliers: Multipliers, rotary_dim: int) -> Iterator[Shape]:
    head_dim = head_dim_of(config)
    rotates = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers  # 1 where there is one
    for layer in range(config.num_hidden_layers):
        yield Shape(
            query_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            norm_epsilon=config.rms_norm_eps,
            attention_scale=head_dim**-0.5 if multipliers.attention is None else multipliers.attention,
            residual_multiplier=multipliers.residual,
            activation=config.hidden_act,
            rotates=bool(rotates[layer]),
            rotary_dim=rotary_dim,
        )


def _check_parameters(model: PreTrainedModel, names: LayerNames) -> None:
    """Each parameter has a place in the description, and each place its parameter."""
    layers = [f"model.layers.{number}." for number in range(model.config.num_hidden_layers)]
    needed = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    needed |= {f"{layer}{name}.weight" for layer in layers for name in (*names.norms, *names.matrices)}
    possible = {f"{layer}{name}.bias" for layer in layers for name in names.matrices}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    small = {f"{name}.weight" for name in small_modules(model)}
    there = parameters.keys() | small
    if strange := sorted(there - needed - possible) or sorted(needed - there):
        raise NotSupported(f"it differs from other models of its class in {strange[0]}")
    if len({parameters[name].dtype for name in parameters if name in needed}) > 1:
        raise NotSupported("its weights are of more than one dtype")


_PLAIN_MODULES = {nn.Linear, nn.Embedding, nn.ModuleList, nn.Dropout, SmallLinear, SmallEmbedding}


def _check_modules(model: PreTrainedModel) -> None:
    """No module has been replaced, hooked or patched, as adapters and quantization do."""
    activations = "transformers.activations", "torch.nn.modules.activation"
    for name, module in model.named_modules():
        own = type(module).__module__ in (type(model).__module__, *activations) or type(module) in _PLAIN_MODULES
        changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)  # noqa: SLF001
        if changed or not own:
            raise NotSupported(f"its module {name or type(model).__name__} was replaced or changed")


def _check_forms(model: PreTrainedModel, names: LayerNames) -> None:
    """Matrices that are read together are of one form."""
    for number in range(model.config.num_hidden_layers):
        for together in (names.qkv, names.gate_up):
            modules = [model.get_submodule(f"model.layers.{number}.{name}") for name in together]
            if len({form_of(matrix_of(module)) for module in modules}) > 1:
                raise NotSupported(f"{together[0]} is of another form than {together[-1]} in layer {number}")


def _check_attention(config: PreTrainedConfig, capacity: int) -> None:
    """Every token sees all before it, and none behind."""
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", None):
        raise NotSupported("its attention looks at the tokens to come as well")
    for name in ("attention_chunk_size", "kv_sharing_modes"):  # read by what all models share, declared or not
        if getattr(config, name, None):
            raise NotSupported(f"its configuration has {name}, which the fast path has not")
    by_layer = getattr(config, "layer_types", None)
    kinds = set(by_layer or ["full_attention"])
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise NotSupported(f"it has layers of the kind {strange[0]}")
    declared = "layer_types" in {field.name for field in fields(config)}
    window = getattr(config, "sliding_window", None)
    if window is None and "sliding_attention" in kinds:
        raise NotSupported("it has sliding-window attention")
    # Where a class does not know layer_types, its window holds for all layers.
    slides = "sliding_attention" in kinds or not (declared and by_layer)
    if window is not None and slides and window < capacity:
        raise NotSupported(
            f"it has sliding-window attention, which sees the last {window} tokens alone (a context_length of "
            f"{window} or less, which the window holds, gets the fast path)"
        )


def _rotary_dim(model: PreTrainedModel, family: Family, capacity: int) -> int:
    """How much of a head is turned, by its position alone, whatever the length of the sequence."""
    config = model.config
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    unchanged_up_to = {
        "longrope": rope.get("original_max_position_embeddings"), "dynamic": config.max_position_embeddings
    }.get(kind)  # fmt: skip
    if kind not in CONSTANT_ROPES and unchanged_up_to is None:
        raise NotSupported(f"its rotary embedding is of the type {kind}")
    if unchanged_up_to is not None and capacity > unchanged_up_to:
        raise NotSupported(
            f"its rotary embedding, of the type {kind}, changes in sequences of more than {unchanged_up_to} "
            f"tokens (a context_length of {unchanged_up_to} or less gets the fast path)"
        )
    rotary: Any = model.get_submodule("model.rotary_emb")
    turned, head_dim = 2 * len(rotary.inv_freq), head_dim_of(config)
    if turned != head_dim and not (family.partial_rotary and turned < head_dim):
        raise NotSupported(f"its rotary embedding turns {turned} numbers of a head of {head_dim}")
    return turned


_STATES = {"linear_attention", "conv", "mamba", "recurrent", "hybrid", "hybrid_sliding"}
_OTHERS = {"full_attention": "", "attention": "", "mlp": "", "moe": "", "sliding_attention": "sliding windows"}


def _peculiarities(config: PreTrainedConfig) -> str:
    """What a configuration tells of why a model is not among the known ones, for people."""
    text = config.get_text_config()
    found = []
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        found.append("a mixture of experts")
    if any(getattr(text, name, None) for name in ("attn_logit_softcapping", "final_logit_softcapping")):
        found.append("soft-capped logits")
    for kind in sorted(set(getattr(text, "layer_types", None) or [])):
        words = "recurrent layers" if kind in _STATES else _OTHERS.get(kind, f"layers of the kind {kind}")
        found += [words] if words and words not in found else []
    return f", which has {' and '.join(found)}" if found else ""
