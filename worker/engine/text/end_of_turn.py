"""The token that ends an assistant's turn, as the chat template shows it. Knows no model.

A model that was tuned to chats ends its answer as the template ends the assistant's messages. Some folders leave
that token out of generation_config.json, and their answers would go on with the user's turn.
"""

import re
from collections.abc import Callable, Mapping

from jinja2 import TemplateError, TemplateSyntaxError
from tokenizers import AddedToken

Chat = list[dict[str, str]]
Render = Callable[[Chat], str]

_ANSWER = "genqueue"
_CHATS: tuple[Chat, ...] = (
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _ANSWER}],
    # Some templates end a turn where the next one begins.
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": "Hello"},
    ],
)
_MARKUP = re.compile(r"<\S+>|\[\S+\]")


def find_end_of_turn(render: Render, added_tokens: Mapping[int, AddedToken]) -> int | None:
    """The id of the added token that follows an assistant's message; None where none does.

    `render`: a chat to text, without a prompt for an answer.  Raises TemplateSyntaxError for what is no template.
    """
    for chat in _CHATS:
        try:
            text = render(chat)
        except TemplateSyntaxError:
            raise
        except (TemplateError, TypeError, ValueError):  # it refuses such a chat
            continue
        _, answer, after = text.rpartition(_ANSWER)
        if answer and (found := _token_at(after.lstrip(), added_tokens)) is not None:
            return found
    return None


def _token_at(text: str, added_tokens: Mapping[int, AddedToken]) -> int | None:
    """The longest token that the text begins with. Words and spaces that are tokens of their own do not count."""
    found = [
        (len(token.content), token_id)
        for token_id, token in added_tokens.items()
        if token.content and text.startswith(token.content) and (token.special or _MARKUP.fullmatch(token.content))
    ]
    return max(found)[1] if found else None
