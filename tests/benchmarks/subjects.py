"""What the engines are measured on: a shape with random weights, or a trained model with a text."""

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tests.models import save_tokenizer
from worker.engine import ModelLoader, Tokenizer
from worker.engine.loading.model_config import read_config
from worker.engine_options import Weights

from .shapes import SHAPES, build
from .small_shapes import build_small

TEXT = Path(__file__).with_name("quality.txt")


class Subject:
    """One model, of which all engines get the same weights and prompts."""

    name: str
    config: PreTrainedConfig
    trained: bool
    """Whether all engines have these very weights, so that their texts can be compared."""
    for_llama_cpp: Sequence[str]
    """How its process is told."""

    def model(self, device: torch.device, dtype: torch.dtype, weights: Weights) -> PreTrainedModel:
        """weights: auto, or int8 or int4."""
        raise NotImplementedError

    def tokenizer(self) -> Tokenizer:
        """Of the model, or one that fits it."""
        raise NotImplementedError

    def prompt(self, tokens: int) -> list[int]:
        """The same each time."""
        raise NotImplementedError


class RandomWeights(Subject):
    """A shape. Its text goes round in circles, which drafts would follow."""

    trained = False

    def __init__(self, shape: str, positions: int) -> None:
        """positions: that a prompt and its answer have room for."""
        self.name = shape
        self.config = copy.deepcopy(SHAPES[shape])
        self.config.max_position_embeddings = positions
        self.for_llama_cpp = ["--shape", shape]

    def model(self, device: torch.device, dtype: torch.dtype, weights: Weights) -> PreTrainedModel:
        if weights == "auto":
            return build(self.name, device, dtype, positions=self.config.max_position_embeddings)
        return build_small(copy.deepcopy(self.config), device, dtype, weights)

    def tokenizer(self) -> Tokenizer:
        with TemporaryDirectory() as folder:
            return Tokenizer(save_tokenizer(Path(folder)))

    def prompt(self, tokens: int) -> list[int]:
        vocabulary = min(config.vocab_size for config in SHAPES.values()) - 8
        return random.Random(tokens).choices(range(8, vocabulary), k=tokens)


class TrainedModel(Subject):
    """A folder, and the beginning of quality.txt for a prompt."""

    trained = True

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = folder.name, folder
        self.config = read_config(folder)
        self.for_llama_cpp = ["--model-path", str(folder)]

    def model(self, device: torch.device, dtype: torch.dtype, weights: Weights) -> PreTrainedModel:
        return ModelLoader(self._folder, str(dtype).removeprefix("torch."), weights=weights).load(device)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self._folder)

    def prompt(self, tokens: int) -> list[int]:
        ids: list[int] = self.tokenizer().encode(TEXT.read_text()).tolist()
        if len(ids) < tokens:
            raise ValueError(f"{TEXT.name} has {len(ids)} tokens for {self.name}, and {tokens} are asked for")
        return ids[:tokens]
