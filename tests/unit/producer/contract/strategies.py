"""Any value that each model of the contract can take."""

from typing import get_args

from hypothesis import strategies as st

from producer.contract import (
    EngineFacts,
    ErrorCode,
    ErrorInfo,
    Event,
    EventId,
    FunctionCall,
    GenerationRequest,
    GenerationResult,
    Markup,
    Message,
    Started,
    StartedData,
    Timings,
    TokenLogprob,
    Tokens,
    TokensData,
    ToolCall,
    Usage,
    terminal_event,
)
from producer.contract.chat import FunctionCallParam, FunctionDefinition, Tool, ToolCallParam

# Without lone surrogates: UTF-8 cannot hold them, and the contract refuses them.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
prompts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
counts = st.integers(0, 2**40)
token_ids = st.lists(st.integers(0, 200_000), max_size=20).map(tuple)
floats = st.floats(allow_nan=False, allow_infinity=False)
maybe_ms = st.none() | st.floats(0, 1e9)

function_names = st.sampled_from(["f", "get_weather", "files.read-all", "a" * 64])
arguments = st.sampled_from(["{}", '{"city": "Wien"}', "no JSON"])
tool_calls = st.builds(
    ToolCallParam,
    id=st.none() | st.just("abc"),
    function=st.builds(FunctionCallParam, name=function_names, arguments=arguments),
)
messages = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts)
    | st.builds(
        Message,
        role=st.just("assistant"),
        content=texts,
        reasoning=st.none() | texts,
        tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    )
    | st.builds(Message, role=st.just("tool"), content=texts, tool_call_id=st.none() | st.just("abc")),
    min_size=1,
    max_size=4,
).map(tuple)
tools = st.lists(
    st.builds(
        Tool,
        type=st.just("function"),
        function=st.builds(
            FunctionDefinition,
            name=function_names,
            description=st.none() | texts,
            parameters=st.none()
            | st.just({"type": "object", "properties": {"city": {"type": ["string", "null"]}}}),
            strict=st.none() | st.booleans(),
        ),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda tool: tool.function.name,
).map(tuple)

sampling = {
    "max_new_tokens": st.none() | st.integers(100, 10_000),
    "min_new_tokens": st.integers(0, 100),
    "temperature": st.floats(0, 100),
    "top_p": st.floats(0, 1, exclude_min=True),
    "top_k": counts,
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 100),
    "presence_penalty": st.floats(-100, 100),
    "frequency_penalty": st.floats(-100, 100),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "stop": st.lists(prompts, max_size=16).map(tuple),
    "ignore_eos": st.booleans(),
    "logprobs": st.none() | st.integers(0, 20),
    "skip_special_tokens": st.booleans(),
}
generation_requests = st.one_of(
    st.builds(GenerationRequest, prompt=prompts, add_special_tokens=st.booleans(), **sampling),
    st.builds(GenerationRequest, messages=messages, output_token_ids=token_ids.filter(bool), **sampling),
    st.builds(
        GenerationRequest,
        messages=messages,
        tools=tools,
        tool_choice=st.sampled_from([None, "none", "auto", "required"]),
        chat_template_kwargs=st.none() | st.just({"enable_thinking": False, "style": None}),
        **{**sampling, "ignore_eos": st.just(False)},  # a call that is asked for has an end
    ),
    st.builds(GenerationRequest, prompt_token_ids=token_ids.filter(bool), **sampling),
)

results = st.builds(
    GenerationResult,
    job_id=st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
    status=st.sampled_from(["finished", "failed", "cancelled"]),
    model=st.just("tiny"),
    text=texts,
    token_ids=token_ids,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "cancelled", "error"]),
    stop=st.none() | texts,
    seed=st.none() | counts,
    usage=st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, cached_tokens=counts),
    timings=st.builds(
        Timings,
        queued_ms=maybe_ms,
        prefill_ms=maybe_ms,
        decode_ms=maybe_ms,
        time_to_first_token_ms=maybe_ms,
        tokens_per_second=maybe_ms,
    ),
    attempts=st.integers(0, 9),
    worker=st.none() | texts,
    error=st.none() | st.builds(ErrorInfo, code=st.sampled_from(get_args(ErrorCode)), message=texts),
    content=st.none() | texts,
    reasoning=st.none() | texts,
    tool_calls=st.none()
    | st.lists(
        st.builds(ToolCall, id=texts, function=st.builds(FunctionCall, name=texts, arguments=texts)),
        min_size=1,
        max_size=2,
    ).map(tuple),
)

logprobs = st.builds(
    TokenLogprob, logprob=floats, top=st.lists(st.tuples(st.integers(0, 9), floats), max_size=3).map(tuple)
)
started = st.builds(
    Started,
    data=st.builds(
        StartedData,
        attempt=st.integers(1, 9),
        worker=texts,
        model=texts,
        prompt_tokens=counts,
        resumed_tokens=counts,
        seed=counts,
        runs_on=st.none()
        | st.builds(EngineFacts, device=st.none() | texts, dtype=st.none() | texts, genqueue=st.none() | texts),
        markup=st.none()
        | st.builds(
            Markup, tool_calls=st.none() | texts, reasoning=st.none() | texts, reasoning_open=st.booleans()
        ),
    ),
)
tokens = st.builds(
    Tokens,
    data=st.builds(
        TokensData,
        index=counts,
        ids=token_ids,
        text=texts,
        logprobs=st.none() | st.lists(logprobs, max_size=3).map(tuple),
    ),
)
events: st.SearchStrategy[Event] = started | tokens | results.map(terminal_event)
event_ids = st.builds(EventId, st.integers(1, 2**32), st.integers(0, 2**40))
