"""A file as it is uploaded: it goes to Redis part by part, and is never whole in memory."""

import asyncio
import time
from typing import Any

from starlette.requests import Request

from ..contract import BrokerUnavailable
from .bodies import check_plain
from .errors import ApiError, refused
from .forms import Form, form_of, no_form
from .settings import GatewaySettings
from .stored_files import PART_BYTES, FileStore, StoredFile, new_file_id

PURPOSE = "batch"
SLOWEST = 16 * 2**10
"""Bytes a second that a client must send at least, after its first `body_s`."""
FRAME_BYTES = 64 * 2**10
"""Of a body, what is not the file's."""
SHORTEST_S, LONGEST_S = 3_600, 2_592_000
"""OpenAI's bounds of expires_after."""
FORGET_S = 5.0
_CLOSE = {"connection": "close"}


class Upload:
    """One, from the first byte to the last."""

    def __init__(self, request: Request, store: FileStore, settings: GatewaySettings, owner: str) -> None:
        check_plain(request)
        self._request = request
        self._store = store
        self._settings = settings
        self._owner = owner
        self._id = new_file_id()
        self._form = form_of(request)
        self._chunks = request.stream()
        self._parts = 0
        self._bytes = 0

    async def run(self) -> StoredFile:
        """The file, once it is whole.

        Raises ApiError, and what reading the request raises: nothing is left of the file then.
        """
        try:
            self._check_length()
            await self._take()
            return await self._finish()
        except BrokerUnavailable:  # and so it is now, most likely
            raise
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._forget()))
            raise

    def _check_length(self) -> None:
        said = self._request.headers.get("content-length", "0")
        self._check_size(int(said) if said.isdigit() else 0)

    def _check_size(self, of_body: int) -> None:
        most = self._settings.max_file_bytes
        if of_body > most + FRAME_BYTES:
            why = f"a file may have {most} bytes"
            raise ApiError(413, why, param="file", code="file_too_large", headers=_CLOSE)

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        by, came = loop.time() + self._settings.body_s, 0
        try:
            async with asyncio.timeout_at(by) as bound:
                async for chunk in self._chunks:
                    self._form.feed(chunk)
                    _check_purpose(self._form.fields.get("purpose", PURPOSE))
                    came += len(chunk)
                    self._check_size(came)
                    while len(self._form.pending) >= PART_BYTES:
                        await self._write(self._form.take(PART_BYTES))
                    bound.reschedule(by + came / SLOWEST)
        except TimeoutError:
            said = f"the file comes too slowly: send {SLOWEST} bytes a second at least"
            raise ApiError(408, said, code="timeout", headers=_CLOSE) from None

    async def _finish(self) -> StoredFile:
        ttl_s, now = _checked(self._form, self._settings), int(time.time())
        rest = self._form.take(PART_BYTES)
        file = StoredFile(
            id=self._id,
            filename=self._form.filename or "",
            purpose=self._form.fields["purpose"],
            bytes=self._bytes + len(rest),
            created_at=now,
            expires_at=now + ttl_s,
            parts=self._parts + 1,
        )
        await self._store.write(
            self._owner, self._id, self._parts, rest, ttl_s=ttl_s, record=file.model_dump_json()
        )
        return file

    async def _write(self, part: bytes) -> None:
        await self._store.write(self._owner, self._id, self._parts, part)
        self._parts += 1
        self._bytes += len(part)

    async def _forget(self) -> None:
        if self._form.filename is None:
            return
        try:
            async with asyncio.timeout(FORGET_S):
                await self._store.delete(self._owner, self._id)
        except Exception:  # noqa: BLE001, S110 - Redis forgets it by itself in a while
            pass


def _checked(form: Form, settings: GatewaySettings) -> int:
    """How long the file is kept, s.  Raises ApiError for a body that is not as OpenAI has it."""
    if not form.is_over:
        raise no_form("it was cut off")
    if form.filename is None:
        raise refused("file", "there is none in the body", code="missing_required_parameter")
    fields = dict(form.fields)
    _check_purpose(fields.pop("purpose", None))
    anchor, seconds = fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
    for name in fields:
        raise refused(name, "there is no such field here: leave it out", code="unsupported_parameter")
    if anchor not in (None, "created_at") or (anchor is None) != (seconds is None):
        raise refused("expires_after", "an anchor `created_at`, and seconds", code="invalid_value")
    return settings.files_ttl_s if seconds is None else lifetime("expires_after.seconds", seconds, settings)


def _check_purpose(given: str | None) -> None:
    if given != PURPOSE:
        raise refused("purpose", f"{PURPOSE}: files are kept for nothing else here")


def lifetime(name: str, given: Any, settings: GatewaySettings) -> int:
    """How long a client wants a file to be kept, within OpenAI's bounds and ours, s.  Raises ApiError."""
    text = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    most = min(LONGEST_S, max(settings.files_ttl_s, SHORTEST_S))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not SHORTEST_S <= int(text) <= most:
        raise refused(name, f"{SHORTEST_S} to {most}", code="invalid_value")
    return int(text)
