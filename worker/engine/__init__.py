"""The engine: torch lives here and nowhere else (but for the training in worker.models.tiny_model).

request -> Engine.encode -> Engine.start -> Generation -> Step, Step, Step ...
           Tokenizer        Sampler, Output  prefill, decode on a ForwardPath and its cache
"""

import os

from ..engine_options import EngineOptions

# torch reads this at its first allocation. Weights in huge pages are read a fifth to a half faster on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from .engine import Engine
from .forward.choice import SMALL_MODEL_PARAMETERS
from .generation import Generation
from .loading.device import resolve_device, set_threads
from .loading.model_loader import ModelLoader
from .step import Step
from .text.tokenizer import TokenIds, Tokenizer

__all__ = [
    "SMALL_MODEL_PARAMETERS",
    "Engine",
    "EngineOptions",
    "Generation",
    "ModelLoader",
    "Step",
    "TokenIds",
    "Tokenizer",
    "resolve_device",
    "set_threads",
]
