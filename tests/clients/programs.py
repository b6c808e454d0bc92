"""What people write with clients of others, against an address: `python programs.py NAME URL` prints the answer.

Runs in an environment of its own, `requirements.txt` beside it, and knows nothing of this project. What the model
says to each prompt is in `answers.py`.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

ASKED, WEATHER, WHO = "Hi", "How is the weather in Vienna?", "Who was it?"
KEY = "none"
CHAT = [{"role": "user", "content": ASKED}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": CITY}}]


# -- openai


def _openai(url: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=KEY)


def openai_chat(url: str) -> str:
    """Chat completions: whole, a stream, its helper, what was stored; and completions and models."""
    client = _openai(url)
    whole = client.chat.completions.create(model="tiny", messages=CHAT, store=True, n=2, logprobs=True)
    text = whole.choices[0].message.content
    chunks = client.chat.completions.create(
        model="tiny", messages=CHAT, stream=True, stream_options={"include_usage": True}
    )
    *said, last = list(chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == text
    assert last.usage.completion_tokens > 0
    with client.chat.completions.stream(model="tiny", messages=CHAT) as stream:
        assert stream.get_final_completion().choices[0].message.content == text
    assert client.chat.completions.retrieve(whole.id).choices == whole.choices
    assert client.chat.completions.delete(whole.id).deleted
    assert client.completions.create(model="tiny", prompt=[ASKED, ASKED]).choices[1].text == text
    streamed = client.completions.create(model="tiny", prompt=ASKED, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text
    assert [client.models.retrieve(model.id).id for model in client.models.list()] == ["tiny"]
    return str(text)


def openai_parsed(url: str) -> str:
    """Structured answers of chat completions and of responses, whole and as they come."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    client, asked = _openai(url), [{"role": "user", "content": WHO}]
    chat = client.chat.completions.parse(model="tiny", messages=asked, response_format=Person)
    response = client.responses.parse(model="tiny", input=WHO, text_format=Person)
    with client.responses.stream(model="tiny", input=WHO, text_format=Person) as stream:
        streamed = stream.get_final_response()
    assert chat.choices[0].message.parsed == response.output_parsed == streamed.output_parsed == Person(**ADA)
    return str(response.output_parsed.name)


def openai_tools(url: str) -> str:
    """A call that is parsed, and its answer."""
    import openai
    from pydantic import BaseModel

    class weather(BaseModel):  # noqa: N801 - the function's name
        city: str

    client, tools = _openai(url), [openai.pydantic_function_tool(weather)]
    asked: list[Any] = [{"role": "user", "content": WEATHER}]
    message = client.chat.completions.parse(model="tiny", messages=asked, tools=tools).choices[0].message
    [call] = message.tool_calls
    assert call.function.parsed_arguments == weather(city="Vienna")
    asked += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    return str(
        client.chat.completions.create(model="tiny", messages=asked, tools=tools).choices[0].message.content
    )


def openai_responses(url: str) -> str:
    """Responses: in the background, streamed, taken up, cancelled, deleted, their items."""
    client = _openai(url)
    made = client.responses.create(model="tiny", input=ASKED, background=True, stream=True)
    events = [event for event, _ in zip(made, range(4), strict=False)]
    response_id = events[0].response.id
    events += client.responses.retrieve(response_id, stream=True, starting_after=events[-1].sequence_number)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole = events[-1].response
    assert client.responses.retrieve(response_id).output_text == whole.output_text
    assert client.responses.cancel(response_id).status == "completed"
    assert [item.content[0].text for item in client.responses.input_items.list(response_id)] == [ASKED]
    client.responses.delete(response_id)
    return str(whole.output_text)


def openai_responses_tools(url: str) -> str:
    """A call in a stream of events, and its answer behind it."""
    client = _openai(url)
    tools = [{"type": "function", **TOOLS[0]["function"], "strict": True}]  # type: ignore[dict-item]
    with client.responses.stream(model="tiny", input=WEATHER, tools=tools) as stream:
        first = stream.get_final_response()
    [call] = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Vienna"}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    asked = {"model": "tiny", "tools": tools, "input": [output], "previous_response_id": first.id}
    return str(client.responses.create(**asked).output_text)


# -- langchain


def _langchain(url: str, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=url, api_key=KEY, model="tiny", **options)


def langchain(url: str) -> str:
    """Chat completions, whole."""
    return str(_langchain(url, temperature=0).invoke(ASKED).content)


def langchain_stream(url: str) -> str:
    """As a stream, with what it cost."""
    chunks = list(_langchain(url, stream_usage=True).stream(ASKED))
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0
    return "".join(chunk.content for chunk in chunks)


def langchain_responses(url: str) -> str:
    """The Responses API, as a stream."""
    model = _langchain(url, use_responses_api=True)
    return "".join(part["text"] for chunk in model.stream(ASKED) for part in chunk.content if "text" in part)


def _langchain_called(model: Any) -> str:
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = model.bind_tools(TOOLS)
    asked: list[Any] = [HumanMessage(WEATHER), bound.invoke(WEATHER)]
    [call] = asked[1].tool_calls
    assert call["args"] == {"city": "Vienna"}
    chunks = list(bound.stream(WEATHER))
    assert [each["args"] for each in sum(chunks[1:], chunks[0]).tool_calls] == [{"city": "Vienna"}]
    asked.append(ToolMessage("sunny", tool_call_id=call["id"]))
    return str(bound.invoke(asked).text)


def langchain_tools(url: str) -> str:
    """A call, whole and as a stream, and its answer."""
    return _langchain_called(_langchain(url))


def langchain_responses_tools(url: str) -> str:
    """The same, in the Responses API."""
    return _langchain_called(_langchain(url, use_responses_api=True))


def langchain_structured(url: str) -> str:
    """Structured answers, by a schema and by a function."""
    schema = {
        "title": "Person",
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    }
    schema["description"] = "Somebody."
    by_schema = _langchain(url).with_structured_output(schema, method="json_schema").invoke(WHO)
    by_function = _langchain(url).with_structured_output(schema, method="function_calling").invoke(f"{WHO} Call.")
    assert by_schema == by_function
    return str(by_schema["name"])


# -- instructor


def instructor(url: str) -> str:
    """A model of pydantic, by a function, by a schema, and as it comes."""
    import instructor
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    people = []
    for mode, prompt in ((instructor.Mode.TOOLS, f"{WHO} Call."), (instructor.Mode.JSON_SCHEMA, WHO)):
        client = instructor.from_openai(_openai(url), mode=mode)
        asked = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "response_model": Person}
        people += [
            client.chat.completions.create(**asked),
            *list(client.chat.completions.create_partial(**asked))[-1:],
        ]
    assert [person.model_dump() for person in people] == [ADA] * 4
    return str(people[0].name)


# -- litellm


def _litellm(url: str, **asked: Any) -> Any:
    import litellm

    return litellm.completion(model="openai/tiny", api_base=url, api_key=KEY, **asked)


def litellm(url: str) -> str:
    """Chat completions, whole and as a stream."""
    whole = _litellm(url, messages=CHAT).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in _litellm(url, messages=CHAT, stream=True)]
    assert "".join(pieces) == whole
    return str(whole)


def litellm_tools(url: str) -> str:
    """A call, whole and as a stream, and its answer."""
    import litellm

    asked: list[Any] = [{"role": "user", "content": WEATHER}]
    message = _litellm(url, messages=asked, tools=TOOLS).choices[0].message
    chunks = list(_litellm(url, messages=asked, tools=TOOLS, stream=True))
    built = litellm.stream_chunk_builder(chunks).choices[0].message
    for each in (message, built):
        assert json.loads(each.tool_calls[0].function.arguments) == {"city": "Vienna"}
    asked += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}]
    return str(_litellm(url, messages=asked, tools=TOOLS).choices[0].message.content)


def litellm_responses(url: str) -> str:
    """The Responses API."""
    import litellm

    made = litellm.responses(model="openai/tiny", api_base=url, api_key=KEY, input=ASKED)
    return "".join(part.text for item in made.output for part in item.content)


# -- llm


def _llm(url: str, **options: Any) -> Any:
    from llm.default_plugins.openai_models import Chat

    model = Chat("tiny", model_name="tiny", api_base=url, **options)
    model.key = KEY
    return model


def llm(url: str) -> str:
    """Chat completions, whole and as a stream."""
    model = _llm(url)
    whole = model.prompt(ASKED, stream=False).text()
    assert model.prompt(ASKED).text() == whole
    return str(whole)


def llm_tools(url: str) -> str:
    """A function of Python's, which is called and answered."""
    asked = []

    def weather(city: str) -> str:
        """Now."""
        asked.append(city)
        return "sunny"

    answers = []
    for stream in (True, False):
        chain = _llm(url, supports_tools=True).chain(WEATHER, tools=[weather], stream=stream)
        answers.append(chain.text())
    assert asked == ["Vienna"] * 2
    assert answers[0] == answers[1]
    return str(answers[0])


# -- pydantic-ai


def _pydantic_ai(url: str, *, has_responses: bool = False) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OpenAIResponsesModel if has_responses else OpenAIChatModel
    return kind("tiny", provider=OpenAIProvider(base_url=url, api_key=KEY))


def pydantic_ai(url: str) -> str:
    """Chat completions."""
    from pydantic_ai import Agent

    return Agent(_pydantic_ai(url)).run_sync(ASKED).output


def pydantic_ai_responses(url: str) -> str:
    """The Responses API, and a second turn."""
    from pydantic_ai import Agent

    agent = Agent(_pydantic_ai(url, has_responses=True))
    first = agent.run_sync(ASKED)
    assert agent.run_sync(ASKED, message_history=first.all_messages()).output == first.output
    return first.output


def _pydantic_ai_called(model: Any) -> str:
    from pydantic_ai import Agent

    asked = []
    agent = Agent(model)

    @agent.tool_plain
    def weather(city: str) -> str:
        """Now."""
        asked.append(city)
        return "sunny"

    async def stream() -> str:
        async with agent.run_stream(WEATHER) as run:
            return "".join([text async for text in run.stream_text(delta=True)])

    whole = agent.run_sync(WEATHER).output
    assert asyncio.run(stream()) == whole
    assert asked == ["Vienna"] * 2
    return whole


def pydantic_ai_tools(url: str) -> str:
    """A tool that is called, whole and as a stream."""
    return _pydantic_ai_called(_pydantic_ai(url))


def pydantic_ai_responses_tools(url: str) -> str:
    """The same, in the Responses API."""
    return _pydantic_ai_called(_pydantic_ai(url, has_responses=True))


# -- lm_eval


def lm_eval(url: str) -> str:
    """A generation task on local data, by chat completions and by completions."""
    import tempfile
    from pathlib import Path

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    scores = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "sums.json")
        data.write_text("\n".join(json.dumps(row) for row in SUMS))
        task = {
            "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }  # fmt: skip
        for kind, path in (("local-chat-completions", "chat/completions"), ("local-completions", "completions")):
            options = f"model=tiny,base_url={url}/{path},num_concurrent=2,tokenizer_backend=None"
            results = simple_evaluate(
                model=kind, model_args=options, tasks=[task], task_manager=TaskManager(include_defaults=False),
                apply_chat_template=path == "chat/completions", bootstrap_iters=0,
            )  # fmt: skip
            scores.append(float(results["results"]["sums"]["exact_match,none"]))
    return str(scores)


ADA = {"name": "Ada", "age": 36}
SUMS = [{"question": f"{number} + {number} =", "answer": str(2 * number)} for number in range(5)]
PROGRAMS: dict[str, Callable[[str], str]] = {
    program.__name__: program
    for program in (
        *(openai_chat, openai_parsed, openai_tools, openai_responses, openai_responses_tools),
        *(langchain, langchain_stream, langchain_responses),
        *(langchain_tools, langchain_responses_tools, langchain_structured),
        instructor,
        *(litellm, litellm_tools, litellm_responses, llm, llm_tools),
        *(pydantic_ai, pydantic_ai_responses, pydantic_ai_tools, pydantic_ai_responses_tools),
        lm_eval,
    )
}

if __name__ == "__main__":
    print(PROGRAMS[sys.argv[1]](sys.argv[2]))
