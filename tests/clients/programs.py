"""What people write with clients of others, against an address: `python programs.py NAME URL` prints the answer.

Runs in an environment of its own, `requirements.txt` beside it, and knows nothing of this project.
"""

import sys
from collections.abc import Callable

ASKED = "Hi"
KEY = "none"


def langchain(url: str) -> str:
    """Chat completions, whole."""
    from langchain_openai import ChatOpenAI

    return str(ChatOpenAI(base_url=url, api_key=KEY, model="tiny", temperature=0).invoke(ASKED).content)


def langchain_stream(url: str) -> str:
    """As a stream, with what it cost."""
    from langchain_openai import ChatOpenAI

    chunks = list(ChatOpenAI(base_url=url, api_key=KEY, model="tiny", stream_usage=True).stream(ASKED))
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0
    return "".join(chunk.content for chunk in chunks)


def langchain_responses(url: str) -> str:
    """The Responses API, as a stream."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=url, api_key=KEY, model="tiny", use_responses_api=True)
    return "".join(part["text"] for chunk in model.stream(ASKED) for part in chunk.content if "text" in part)


def litellm(url: str) -> str:
    """Chat completions, whole and as a stream."""
    import litellm

    asked = {
        "model": "openai/tiny",
        "api_base": url,
        "api_key": KEY,
        "messages": [{"role": "user", "content": ASKED}],
    }
    whole = litellm.completion(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(pieces) == whole
    return str(whole)


def llm(url: str) -> str:
    """Chat completions, whole and as a stream."""
    from llm.default_plugins.openai_models import Chat

    model = Chat("tiny", model_name="tiny", api_base=url)
    model.key = KEY
    whole = model.prompt(ASKED, stream=False).text()
    assert model.prompt(ASKED).text() == whole
    return str(whole)


def pydantic_ai(url: str) -> str:
    """Chat completions."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return (
        Agent(OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=url, api_key=KEY))).run_sync(ASKED).output
    )


def pydantic_ai_responses(url: str) -> str:
    """The Responses API, and a second turn."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIResponsesModel("tiny", provider=OpenAIProvider(base_url=url, api_key=KEY)))
    first = agent.run_sync(ASKED)
    assert agent.run_sync(ASKED, message_history=first.all_messages()).output == first.output
    return first.output


PROGRAMS: dict[str, Callable[[str], str]] = {
    program.__name__: program
    for program in (
        *(langchain, langchain_stream, langchain_responses),
        *(litellm, llm, pydantic_ai, pydantic_ai_responses),
    )
}

if __name__ == "__main__":
    print(PROGRAMS[sys.argv[1]](sys.argv[2]))
