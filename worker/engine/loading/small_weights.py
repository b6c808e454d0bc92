"""From a model whose weights lie in mapped files to one whose matrices are small: one matrix after the other.

Of the files nothing stays in memory but what the system keeps of them, and may take back: a model that is loaded
so needs the room of its small form, and of one piece of a matrix beside it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import ConfigError
from ...progress import ReportProgress
from ..forward.matrices import (
    GROUPS,
    Int8Matrix,
    SmallMatrix,
    bytes_of,
    empty_like,
    form_of,
    part,
    to_int4,
    to_int8,
)
from ..forward.small_modules import SmallEmbedding, SmallLinear, small_modules
from .packed_files import PackedLinear
from .weights_form import WeightsForm

logger = logging.getLogger(__name__)

_KINDS = nn.Linear, nn.Embedding, PackedLinear
_PIECE = 2**22
"""Weights that are looked at at once: 16 MiB as float32, and some times as much for what is made of them."""


@torch.inference_mode()
def make_small(
    model: PreTrainedModel,
    form: WeightsForm,
    dtype: torch.dtype,
    device: torch.device,
    progress: ReportProgress,
) -> None:
    """Linears and embeddings become small, and go to `device`; all else becomes `dtype` where it is.

    Raises ConfigError where a model has nothing to make small, or files that cannot be read so.
    """
    places = _places_in(model, form)
    made: dict[int, SmallMatrix] = {}  # embedding and head may be one
    ends = _ends(model)
    otherwise: list[str] = []
    for number, (parent, name, module) in enumerate(places):
        progress("loading weights", number, len(places))
        matrix = _small(module, form, made, device, is_end=id(module) in ends)
        wanted_int4 = form.small == "int4" and form.files is None and id(module) not in ends
        if wanted_int4 and isinstance(matrix, Int8Matrix):
            otherwise.append(f"{name} of {matrix.shape[1]} columns")
        setattr(parent, name, _module(module, matrix, dtype))
    if otherwise:
        logger.warning(
            "%d matrices, %s the first of them, have a number of columns that no group of int4 divides (%s): they "
            "are int8",
            len(otherwise),
            otherwise[0],
            ", ".join(map(str, GROUPS)),
        )
    _convert_the_rest(model, dtype)
    progress("loading weights", len(places), len(places))


def planned_bytes(model: PreTrainedModel, form: WeightsForm, dtype: torch.dtype) -> int:
    """What `make_small` will make of a model, which may be on the meta device.  Raises ConfigError as it does."""
    places, ends, seen, total = _places_in(model, form), _ends(model), set(), 0
    for _, _, module in places:
        if isinstance(module, PackedLinear):
            total += module.planned_bytes
        elif id(module.weight) not in seen:
            seen.add(id(module.weight))
            outputs, inputs = module.weight.shape
            group = _int4_group(module, form, is_end=id(module) in ends)
            if group is None:
                total += outputs * (inputs + 4)
            else:
                total += outputs * (inputs // 2 + inputs // group * 3)
    small = {id(module) for _, _, module in places}
    kept: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holder, _, field = name.rpartition(".")
        # One that is tied to a small matrix, and of a module that is none, is held beside it.
        if field != "weight" or id(model.get_submodule(holder)) not in small:
            kept.setdefault(id(parameter), (name, parameter))
    for name, parameter in kept.values():
        itemsize = parameter.dtype.itemsize if _stays_as_it_is(model, name) else dtype.itemsize
        total += parameter.numel() * itemsize
    return total


def described(model: nn.Module) -> str:
    """Forms and bytes, for people; empty for a model that has no small weights."""
    counts: dict[str, int] = {}
    seen = set()
    for module in small_modules(model).values():
        matrix = module.matrix
        if module.values.data_ptr() in seen:
            continue
        seen.add(module.values.data_ptr())
        form = form_of(matrix)
        counts[form] = counts.get(form, 0) + bytes_of(matrix)
    return " and ".join(f"{form} ({size / 2**20:,.0f} MiB)" for form, size in sorted(counts.items()))


def _places_in(model: PreTrainedModel, form: WeightsForm) -> list[tuple[nn.Module, str, Any]]:
    """Raises ConfigError where there are none."""
    places = list(_places(model))
    if not places:
        raise ConfigError(
            f"engine.weights is {form.small}, and {type(model).__name__} keeps its matrices in modules of its own "
            "that cannot be made small: leave it at auto"
        )
    return places


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """What can be made small, with the module that holds it and its name there."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) in _KINDS or _is_scaled_embedding(module):
                yield parent, name, module


def _is_scaled_embedding(module: nn.Module) -> bool:
    """Whether it is an embedding times `embed_scale`, of which each model of the kind of Gemma has a class."""
    named = type(module).__name__.endswith("ScaledWordEmbedding")
    return named and isinstance(module, nn.Embedding) and hasattr(module, "embed_scale")


def _ends(model: PreTrainedModel) -> set[int]:
    """Embedding and head, by their `id`."""
    return {id(model.get_input_embeddings()), id(model.get_output_embeddings())}


def _int4_group(module: Any, form: WeightsForm, *, is_end: bool) -> int | None:
    """Columns of a group; None for a matrix that is to be int8.

    As is one that files in int4 have in floats: whoever made them has left it out because int4 costs it too much.
    """
    if form.small == "int8" or form.files is not None or is_end or isinstance(module, nn.Embedding):
        return None
    inputs = module.weight.shape[1]
    return next((group for group in reversed(GROUPS) if group <= form.group and inputs % group == 0), None)


def _small(
    module: Any, form: WeightsForm, made: dict[int, SmallMatrix], device: torch.device, *, is_end: bool
) -> SmallMatrix:
    if isinstance(module, PackedLinear):
        return module.read(device)
    weight = module.weight.detach()
    key = weight.data_ptr()
    if key not in made:
        group = _int4_group(module, form, is_end=is_end)
        if group is None:
            made[key] = _by_pieces(weight, to_int8, device)
        else:
            made[key] = _by_pieces(weight, lambda piece: to_int4(piece, group, zeros=True), device)
    return made[key]


def _by_pieces(
    weight: torch.Tensor, make: Callable[[torch.Tensor], SmallMatrix], device: torch.device
) -> SmallMatrix:
    outputs, inputs = weight.shape
    whole: SmallMatrix | None = None
    for start in range(0, outputs, at_once := max(_PIECE // inputs, 1)):
        piece = make(weight[start : start + at_once].to(device))
        if whole is None:  # allocated once: pieces that are joined would be held twice
            whole = empty_like(piece, outputs)
        for field, values in zip(part(whole, start, start + at_once), piece, strict=True):
            if field is not None and values is not None:
                field.copy_(values)
    assert whole is not None, "a matrix has rows"
    return whole


def _module(module: Any, matrix: SmallMatrix, dtype: torch.dtype) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return SmallEmbedding(matrix, dtype, getattr(module, "embed_scale", None))
    return SmallLinear(matrix, module.bias, dtype)


def _convert_the_rest(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Parameters alone: buffers, as of rotary embeddings, are float32 for a reason. As are some parameters."""
    for name, parameter in model.named_parameters():
        if not _stays_as_it_is(model, name):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _stays_as_it_is(model: PreTrainedModel, name: str) -> bool:
    """name: of a parameter."""
    kinds = "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"  # not each version of transformers has both
    as_they_are = {name for kind in kinds for name in getattr(model, kind, None) or ()}
    return bool(as_they_are & set(name.split(".")))
