"""One prompt, no Redis: the engine for a script or for the command line.

from worker.standalone import generate
print(generate("tiny", "What is genqueue?", 64, "cpu"))
"""

import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from producer.contract import GenerationRequest
from producer.contract.requests import DRAWN_SEEDS

from .engine_options import EngineOptions, Weights
from .errors import ConfigError
from .extras import worker_extra
from .models.config_loader import find_model
from .progress import ShownProgress

with worker_extra():
    from .engine import Engine, resolve_device
    from .engine.faults import memory_for_the_model
    from .engine.forward.choice import prepare_for_one_answer


def generate(
    model_name: str | None,
    prompt: str,
    max_new_tokens: int | None = None,
    device: str = "cpu",
    *,
    model_path: Path | None = None,
    model_paths: Path | None = None,
    dtype: str = "auto",
    weights: str = "auto",
    chat: bool = False,
    on_text: Callable[[str], None] | None = None,
    on_cut_off: Callable[[int], None] | None = None,
    **sampling: Any,
) -> str:
    """Load a model, answer one prompt, and return the answer.

    `on_text` is called with each piece of text as it comes; joined, the pieces are the answer. An exception that
    it raises ends the generation. `on_cut_off` is called with the number of tokens where no more were allowed.
    `chat` sends the prompt as a user's message, through the model's chat template. `sampling` takes the other
    fields of GenerationRequest, `messages` excepted.
    `model_path`: a model folder, which needs no name; `model_paths`: the model paths file; None takes
    configs/model_paths.yaml of the current folder, else of the checkout.
    `dtype`, `weights`: as a worker's `dtype` and `engine.weights`.

    Raises ConfigError for a model, a device, a dtype or weights that cannot be used here, and JobError for a
    request that is not valid or a generation that failed. Bad input is found before the model is loaded, as far as
    it can be.
    """
    asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    request = GenerationRequest.parse({**asked, "max_new_tokens": max_new_tokens, **sampling})
    engine = load_engine(
        model_name, device, model_path=model_path, model_paths=model_paths, dtype=dtype, weights=weights
    )
    return run(engine, request, on_text=on_text, on_cut_off=on_cut_off)


def load_engine(
    model_name: str | None,
    device: str,
    *,
    model_path: Path | None = None,
    model_paths: Path | None = None,
    dtype: str = "auto",
    weights: str = "auto",
    progress: bool = True,
) -> Engine:
    """Find and load a model by its name, or from its folder.  Raises ConfigError.

    `progress` shows a bar on stderr while weights are loaded, and while `tiny` is trained on its first use.
    """
    torch_device = resolve_device(device)  # first: the cheapest thing that can be wrong
    if weights not in get_args(Weights):
        raise ConfigError(f"weights {weights!r} are not known: use {', '.join(get_args(Weights))}")
    options = EngineOptions.model_validate({"weights": weights})
    path = find_model(model_name, model_path, model_paths, progress=progress)
    with ShownProgress(visible=progress) as shown, memory_for_the_model(device):
        # No warm-up: compiling takes longer than one answer.
        engine = Engine.load(path, torch_device, dtype, options, shown)
        if engine.small_weights and torch_device.type == "cpu":
            prepare_for_one_answer(engine.path, engine.parameters)
    return engine


def run(
    engine: Engine,
    request: GenerationRequest,
    *,
    on_text: Callable[[str], None] | None = None,
    on_cut_off: Callable[[int], None] | None = None,
) -> str:
    """Answer one request on a loaded engine; `on_text` and `on_cut_off` as in `generate`.  Raises JobError."""
    seed = secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed
    with closing(engine.start(request, engine.encode(request), seed=seed)) as generation:
        pieces = [generation.given_text]
        if on_text and generation.given_text:
            on_text(generation.given_text)
        for count, step in enumerate(generation, 1):
            if step.text:
                pieces.append(step.text)
                if on_text:
                    on_text(step.text)
            if step.finish_reason == "length" and on_cut_off:
                on_cut_off(count)
    return "".join(pieces)
