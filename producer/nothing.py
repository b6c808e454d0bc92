"""What `as_completed` and `gather` return for no handles, which do not say whether to await it: both work."""

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Never


class NoHandles(Generator[Never, None, None], AsyncGenerator[Never, None]):
    """An iterator and an async iterator of nothing."""

    def send(self, _value: None, /) -> Never:
        """The end of it."""
        raise StopIteration

    def throw(self, error: Any, *_: Any) -> Never:
        """It ends with that error."""
        raise error

    async def asend(self, _value: None, /) -> Never:
        """The end of it."""
        raise StopAsyncIteration

    async def athrow(self, error: Any, *_: Any) -> Never:
        """It ends with that error."""
        raise error


class NoResults(list[Any], Coroutine[Any, Any, list[Any]]):
    """An empty list that can be awaited, and then is one."""

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return self
        yield

    def send(self, _value: Any, /) -> Never:
        """The end of it."""
        raise StopIteration([])

    def throw(self, error: Any, *_: Any) -> Never:
        """It ends with that error."""
        raise error

    def close(self) -> None:
        """Nothing to close."""
