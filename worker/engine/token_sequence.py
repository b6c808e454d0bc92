"""Prompt and output of one generation: their ids on the host, and on the device for who looks at them there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .reuse.prompt_lookup import PromptLookup


class TokenSequence:
    """The tokens that are known, and how many of them the model has not read yet."""

    def __init__(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], max_new_tokens: int, device: torch.device
    ) -> None:
        """`output_ids`: of earlier attempts. `max_new_tokens` counts them, too."""
        self.ids = [*prompt_ids, *output_ids]
        """Every token whose id is known here, on the host."""
        self.prompt_tokens = len(prompt_ids)
        self.unread = 1
        """Tokens at the end that the model has not read: the one that was chosen, and those that it forced."""
        self.lookup: PromptLookup | None = None
        """Drafts out of these tokens, where there are to be any."""
        self._capacity = len(prompt_ids) + max_new_tokens
        self._device = device

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return self._capacity - len(self.ids)

    def append(self, token_id: int) -> None:
        """The id of one more is known."""
        self.ids.append(token_id)
        if self.lookup:
            self.lookup.push(token_id)

    def append_forced(self, token_ids: Sequence[int]) -> None:
        """The ids of those after the one that was chosen last are known, too."""
        for token_id in token_ids:
            self.append(token_id)
        self.unread += len(token_ids)

    def draft(self) -> list[int]:
        """Tokens that may come next, out of the text so far; none where nothing is to be had."""
        return self.lookup.draft(room=self.room - 1) if self.lookup else []

    def place_on_device(self) -> None:
        """With room for the answer, as the sampler's penalties look at it."""
        on_host = torch.empty((1, self._capacity), dtype=torch.int64)
        on_host[0, : len(self.ids)] = torch.tensor(self.ids)
        self.on_device = on_host.to(self._device)
        """(1, capacity) int64: those that were known then, and those that were noted since."""
        self._row = self.on_device.numpy()[0] if self._device.type == "cpu" else None
        """The same memory, where writing to it so takes a tenth of the time."""

    def note(self, place: int, token: Tensor) -> None:
        """The token of that place is known on the device.  token: (1, 1) int64."""
        if place >= self._capacity:
            return
        if self._row is not None:
            self._row[place] = int(token)
        else:
            self.on_device[0, place] = token[0, 0]

    def unread_ids(self) -> Tensor:
        """(1, unread) int64 on the device; they are noted there."""
        ids = torch.tensor([self.ids[-self.unread :]], device=self._device)
        self.on_device[0, len(self.ids) - self.unread : len(self.ids)] = ids[0]
        return ids
