"""Models with small weights, and the same in full: what the one answers, the other must."""

from typing import Any, Literal

import torch
from transformers import Qwen2ForCausalLM

from worker.engine.forward.matrices import to_float
from worker.engine.forward.small_modules import small_modules
from worker.engine.loading.small_weights import make_small
from worker.engine.loading.weights_form import WeightsForm
from worker.progress import no_progress

from .models import CPU, random_model


def small_and_plain(
    weights: Literal["int8", "int4"], *, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Qwen2ForCausalLM, Qwen2ForCausalLM]:
    """A random model whose weights were made small, and one of what they stand for.  options: `random_model`'s."""
    small, plain = random_model(**options), random_model(**options)
    make_small(small, WeightsForm("auto", weights), dtype, CPU, no_progress)
    for name, module in small_modules(small).items():
        plain.get_submodule(name).weight.data = to_float(module.matrix, torch.float32)
    return small, plain.to(dtype)
