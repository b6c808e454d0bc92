"""From a request to the ids of its prompt, and to how many may follow: what does not fit is refused in words."""

from collections.abc import Iterable

import torch
from torch import Tensor

from producer.contract import DEFAULT_MAX_NEW_TOKENS, GenerationRequest, InvalidRequest, PromptTooLong

from .tokenizer import Tokenizer


class Prompts:
    """Those of one model.  context_length: tokens of prompt and answer together."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._vocab_size = vocab_size

    def encode(self, request: GenerationRequest) -> Tensor:
        """The prompt's token ids, (seq_len,) int64 on the CPU.

        Raises InvalidRequest for a prompt that the tokenizer, the vocabulary or the chat template refuses, or
        with max_new_tokens beyond the context, and PromptTooLong for one that fills the context, by itself or with
        the output that the request brings.
        """
        for ids in (request.output_token_ids, request.allowed_token_ids, request.logit_bias):
            self._check_vocabulary(ids or ())
        if request.prompt_token_ids is not None:
            self._check_vocabulary(request.prompt_token_ids)
            prompt_ids = torch.tensor(request.prompt_token_ids, dtype=torch.int64)
        else:
            prompt_ids = self._encode_text(request)
            self._check_vocabulary(prompt_ids.tolist())
        if not len(prompt_ids):
            raise InvalidRequest("the prompt has no tokens: send at least one character")
        self.max_new_tokens(request, len(prompt_ids))
        return prompt_ids

    def max_new_tokens(self, request: GenerationRequest, prompt_tokens: int) -> int:
        """How many the answer may have, after a prompt of so many.  Raises as `encode` does.

        Those that the request brings, `output_token_ids`, are among them.
        """
        room = self._context_length - prompt_tokens
        given = len(request.output_token_ids or ())
        if given and room <= given:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens and output_token_ids {given}, and the context of this "
                f"model holds {self._context_length}: nothing can follow. Give the worker more context, "
                "where it has memory (engine.context_length)"
            )
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, and the context of this model holds "
                f"{self._context_length} with the answer: shorten the prompt to {self._context_length - 1} or less"
            )
        wanted = request.max_new_tokens or min(given + DEFAULT_MAX_NEW_TOKENS, room)
        if wanted > room:
            raise InvalidRequest(
                f"max_new_tokens {wanted} does not fit: after a prompt of {prompt_tokens} tokens, the context of "
                f"{self._context_length} has room for {room}. Set max_new_tokens to {room} or less"
            )
        if request.min_new_tokens > wanted:
            raise InvalidRequest(
                f"min_new_tokens {request.min_new_tokens} is above max_new_tokens, which is {wanted} unless given"
            )
        return wanted

    def _encode_text(self, request: GenerationRequest) -> Tensor:
        if request.messages is not None:
            text, add_special_tokens = self._chat(request), False
        else:
            assert request.prompt is not None, "GenerationRequest holds exactly one kind of prompt"
            text, add_special_tokens = request.prompt, request.add_special_tokens
        if len(text) > self._context_length * self._tokenizer.max_chars_per_token:
            raise PromptTooLong(  # known without tokenizing, which takes seconds for a long text
                f"the prompt has {len(text)} characters, which are more tokens than the {self._context_length} of "
                "the model's context: shorten it"
            )
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def bad_words_ids(self, request: GenerationRequest) -> list[list[int]]:
        """The tokens of the words that are not to come: of each as it stands, and behind a space."""
        texts = [text for word in request.bad_words or () for text in (word, f" {word}")]
        found = [self._tokenizer.encode(text, add_special_tokens=False).tolist() for text in texts]
        return [ids for ids in found if ids and max(ids) < self._vocab_size]

    def _chat(self, request: GenerationRequest) -> str:
        assert request.messages is not None, "it is a chat"
        tools = request.tools if request.calls_tools else None
        return self._tokenizer.chat_template.prompt(request.messages, tools, request.chat_template_kwargs)

    def _check_vocabulary(self, ids: Iterable[int]) -> None:
        if (highest := max(ids, default=0)) >= self._vocab_size:
            raise InvalidRequest(
                f"token id {highest} is not in the vocabulary of this model, which has {self._vocab_size} ids "
                f"(0 to {self._vocab_size - 1})"
            )
