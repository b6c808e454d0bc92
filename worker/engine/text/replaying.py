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
        text += output.push(token_id)
        if output.finish_reason == "stop":
            by = "end-of-sequence token" if output.stop is None else f"stop string {output.stop!r:.80}"
            raise InvalidRequest(
                f"nothing can follow output_token_ids: the {by} ends the output with its token {place}. Leave "
                "that token and what follows it out, or submit without what ended it"
            )
    return text


def replay(output: Output, resumed_ids: Sequence[int], vocab_size: int) -> None:
    """Replay what an earlier attempt has published.  Raises EngineError where it cannot be this model's."""
    for token_id in resumed_ids:
        if output.finish_reason or not 0 <= token_id < vocab_size:
            raise EngineError(
                f"the tokens of the earlier attempt cannot be this model's: token {output.token_count} is beyond "
                "the end of the output or of the vocabulary. Was the model changed in between?"
            )
        output.push(token_id)
