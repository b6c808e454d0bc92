"""Lists of a client's own things, page by page, as OpenAI has them: `after`, `limit`, `order`."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from .errors import refused

T = TypeVar("T")
Some = Callable[[Sequence[str]], Awaitable[Sequence[dict[str, Any]]]]
"""Reads what is there of some ids."""


@dataclass(frozen=True)
class Page:
    """What of a list is asked for.  after: the id of the last that was seen."""

    after: str | None
    limit: int
    newest_first: bool

    @classmethod
    def of(cls, request: Request, *, most: int, limit: int, order: str = "desc") -> "Page":
        """By its query.  most: that a page may have.  limit, order: where it says none.  Raises ApiError."""
        query = request.query_params
        order, number = query.get("order", order), query.get("limit", str(limit))
        if order not in ("asc", "desc"):
            raise refused("order", "asc or desc", code="invalid_value")
        if not number.isascii() or not number.isdigit() or len(number) > 9 or not 1 <= int(number) <= most:
            raise refused("limit", f"1 to {most}", code="invalid_value")
        return cls(query.get("after"), int(number), order == "desc")

    def rest(self, items: Sequence[T], id_of: Callable[[T], str]) -> list[T]:
        """What comes behind those that were seen.  items: the oldest first.  Raises ApiError."""
        ordered = list(reversed(items)) if self.newest_first else list(items)
        if self.after is None:
            return ordered
        for place, item in enumerate(ordered):
            if id_of(item) == self.after:
                return ordered[place + 1 :]
        raise refused("after", "the id of one of this list", code="invalid_value")

    def behind(self, ids: Sequence[str], form: re.Pattern[str]) -> list[str]:
        """As `rest`, of ids in the order of their times: the last that was seen may be deleted by now."""
        if self.after is not None and not form.fullmatch(self.after):
            raise refused("after", "the id of one of this list", code="invalid_value")
        ordered = sorted(ids, reverse=self.newest_first)
        if self.after is None:
            return ordered
        return [each for each in ordered if (each < self.after if self.newest_first else each > self.after)]

    async def read(self, ids: Sequence[str], some: Some, at_once: int) -> dict[str, Any]:
        """The object, of ids behind those that were seen. Which of them are there still, reading them tells.

        some: reads so many of them at once.
        """
        found: list[dict[str, Any]] = []
        for at in range(0, len(ids), at_once):
            found += await some(ids[at : at + at_once])
            if len(found) > self.limit:
                break
        return self.listed(found)

    def listed(self, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The object.  found: what comes behind those that were seen, one more than fit where there are more."""
        page = list(found[: self.limit])
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        has_more = len(found) > self.limit
        return {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": has_more}
