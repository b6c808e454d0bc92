"""How an engine is to run, where its device leaves a choice. Plain values: they travel to the engine's process."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""auto: bfloat16 on a GPU (float16 on one before compute capability 8.0), float32 on a CPU."""
Weights = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
Group = Literal[32, 64, 128]
MIN_CONTEXT = 16
"""Tokens. In less there is no room for a prompt and an answer."""


def _number(value: object) -> object:
    """An environment has texts alone, and pydantic makes no number of one for a Literal."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class EngineOptions(BaseModel):
    """The defaults are right for a worker. In its settings: `engine:`, or GENQUEUE_ENGINE__CONTEXT_LENGTH=4096."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Literal["auto", "static", "dynamic"] = "auto"
    """static: our own forward pass over a cache that is allocated once. dynamic: transformers' model and growing
    cache, the reference. auto: static for the models that it knows."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether the decode step of the static path is compiled. auto: on a GPU, and for all but the smallest models
    on a CPU; where there is no compiler, the step runs without. On a GPU, never leaves out our kernels as well."""
    weights: Weights = "auto"
    """The form in which weights are held. int8: a scale for each row. int4: a scale and a zero for each group of
    columns; embedding and head are int8. They are made from any checkpoint when it is loaded, and rows, keys and
    values are of the worker's `dtype`. auto: int4 for a checkpoint of GPTQ or AWQ, else as `dtype` says."""
    weights_group: Annotated[Group, BeforeValidator(_number)] = 32
    """Columns of a group of int4; fewer are nearer to the checkpoint, and take more memory."""
    context_length: Annotated[int, Field(ge=MIN_CONTEXT)] | None = None
    """Tokens of prompt and answer together. None: the model's own, or what the device has memory for; on a CPU,
    what half of the free memory is enough for."""
    prefill_chunk: Annotated[int, Field(ge=1)] | None = None
    """Tokens that are read between two looks at whether to stop. None: 2048 on a GPU, 256 on a CPU; 256 and 64
    where the engine is deterministic."""
    prefix_cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    """For the keys and values of earlier prompts, in host memory, beside those that the cache holds anyway. 0
    turns the reuse of common beginnings off."""
    parked_cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    """For the keys and values of jobs that wait for one of a higher priority, in host memory. What does not fit is
    read again. On a GPU, the first GiB of both budgets is pinned at the start."""
    prompt_lookup: bool = True
    """Whether drafts are taken from the prompt and the output, for requests that do not say."""
    deterministic: bool = False
    """Whether the text is a function of weights, request and kind of hardware, in any dtype, whatever happened
    before. Each token is read in the one way in which an undisturbed run reads it: the prompt in chunks that begin
    at multiples of `prefill_chunk`, the output by decode steps, also when a job goes on; there are no drafts."""
