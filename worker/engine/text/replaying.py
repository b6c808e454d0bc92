"""Output that was generated before goes through a job's `Output` again, without the model."""

from collections.abc import Sequence

from producer.contract import EngineError, InvalidRequest

from .output import Output


def begin_with(output: Output, given_ids: Sequence[int]) -> str:
    """Replay the output that a request brings along. Returns its text, as far as it is certain.

    Raises InvalidRequest where it has ended already.
    """
    text = ""
    for place, token_id in enumerate(given_ids):
        if output.constraint is not None and not output.constraint.push(token_id):
            raise InvalidRequest(
                f"output_token_ids do not keep to what the request asks of its answer: token {place} may not come "
                "there. Leave that token and what follows it out, or submit without response_format and grammar"
            )
        text += output.push(token_id)
        if output.finish_reason == "stop":
            raise InvalidRequest(
                f"nothing can follow output_token_ids: the {_what_ended(output, token_id)} ends the output with "
                f"its token {place}. Leave that token and what follows it out, or submit without what ended it"
            )
    return text


def _what_ended(output: Output, token_id: int) -> str:
    if output.stop is not None:
        return f"stop string {output.stop!r:.80}"
    return "end-of-sequence token" if token_id in output.eos_token_ids else "structure that it is held to"


def replay(output: Output, resumed_ids: Sequence[int], vocab_size: int) -> None:
    """Replay what an earlier attempt has published.  Raises EngineError where it cannot be this model's."""
    for token_id in resumed_ids:
        fits = 0 <= token_id < vocab_size and not output.finish_reason
        if not fits or (output.constraint is not None and not output.constraint.push(token_id)):
            raise EngineError(
                f"the tokens of the earlier attempt cannot be this model's: token {output.token_count} is beyond "
                "the end of the output or of the vocabulary, or not what the request asks for. Was the model "
                "changed in between?"
            )
        output.push(token_id)
