"""Checkpoints as GPTQ and AWQ write them, of random numbers: word by word, by the definition of each format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from .models import random_model, save_tokenizer

AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def save_packed_model(
    folder: Path,
    quantization: dict[str, Any],
    model: PreTrainedModel | None = None,
    *,
    in_order: bool = True,
    scales: torch.dtype = torch.float16,
    also: str = "proj.weight",
) -> dict[str, Tensor]:
    """A model folder whose linears are packed, and what else has a name that ends as `also`.

    model: else a random one.
    in_order: whether the groups of GPTQ are runs of columns, as they are without act-order.
    Returns the weights that it stands for, (out, in) float32, by the names of their tensors.
    """
    (model or random_model()).save_pretrained(folder)
    save_tokenizer(folder)
    tensors = load_file(folder / "model.safetensors")
    generator = np.random.default_rng(0)
    weights = {}
    for name in [name for name in tensors if name.endswith(("proj.weight", also))]:
        shape = tuple(tensors.pop(name).shape)
        packed, weight = _packed(shape, quantization, generator, in_order=in_order, scales=scales)
        tensors |= {f"{name.removesuffix('weight')}{field}": tensor for field, tensor in packed.items()}
        weights[name] = torch.from_numpy(weight)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return weights


def _packed(
    shape: tuple[int, int],
    quantization: dict[str, Any],
    generator: np.random.Generator,
    *,
    in_order: bool,
    scales: torch.dtype,
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The tensors of a matrix, (out, in), and the weights that they stand for."""
    outputs, inputs = shape
    group = inputs if quantization["group_size"] == -1 else quantization["group_size"]
    groups = -(-inputs // group)
    values = generator.integers(0, 16, (inputs, outputs))
    symmetric = quantization.get("sym", False)
    zeros = np.full((groups, outputs), 8) if symmetric else generator.integers(0, 16, (groups, outputs))
    kept_scales = torch.from_numpy(generator.random((groups, outputs)) / 40 + 0.002).to(scales)
    of_input = np.arange(inputs) // group
    if not in_order:
        of_input = generator.permutation(of_input)
    weight = (values - zeros[of_input]).astype(np.float32) * kept_scales.float().numpy()[of_input]
    awq = quantization["quant_method"] == "awq"
    kept_zeros = zeros if awq or quantization.get("checkpoint_format") == "gptq_v2" else (zeros - 1) % 16
    places = AWQ_PLACES if awq else range(8)
    packed = {
        "qweight": torch.from_numpy(_words(values, places) if awq else _words(values.T, places).T.copy()),
        "qzeros": torch.from_numpy(_words(kept_zeros, places)),
        "scales": kept_scales,
    }
    if not awq:
        packed["g_idx"] = torch.from_numpy(of_input.astype(np.int32))
    return packed, weight.T.copy()


def _words(values: np.ndarray, places: Any) -> np.ndarray:
    """Eight of a row to an int32: the k-th four bits hold the value at the k-th of `places`."""
    words = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
    for bits, place in enumerate(places):
        words |= values[:, place::8].astype(np.uint32) << np.uint32(4 * bits)
    return words.view(np.int32)
