"""Files of clients, on Redis in parts, so that any gateway serves them. No more than a few parts are in memory."""

import re
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..ledger.files import Room, RunOf, Written, delete_file, write_file
from .errors import NOT_AGAIN, ApiError, not_found
from .queueing import GatewayProducer
from .settings import GatewaySettings

PART_BYTES = 256 * 2**10
"""Of a part of a file that is uploaded."""
PARTS_AT_ONCE = 8
"""That are read in one go."""
UPLOAD_S = 3_600
"""How long what came of a file is kept, where no more comes."""
AT_ONCE = 500
"""Records that are asked for in one go."""
FILE_ID = re.compile(r"file-[0-9a-f]{32}")


class StoredFile(BaseModel):
    """What is known of a file that is whole."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a gateway of a later version may have written it

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    """Unix seconds."""
    expires_at: int
    parts: int

    def described(self) -> dict[str, Any]:
        """OpenAI's file object."""
        shown = self.model_dump(exclude={"parts"})
        return {**shown, "object": "file", "status": "processed", "status_details": None}


def new_file_id() -> str:
    """Ids stand in the order of their times."""
    return f"file-{stamp()}{uuid.uuid4().hex[:20]}"


def stamp() -> str:
    """The time, as the beginning of an id."""
    return f"{time.time_ns() // 1_000_000:012x}"


class FileStore:
    """Those of all owners.  Its methods raise BrokerUnavailable."""

    def __init__(self, producer: GatewayProducer, settings: GatewaySettings) -> None:
        self._producer = producer
        self._settings = settings

    async def write(
        self, owner: str, file_id: str, number: int, data: bytes, *, ttl_s: float = UPLOAD_S, record: str = ""
    ) -> None:
        """A part of a client's file.  Raises ApiError where it is more than may be."""
        settings = self._settings
        room = Room(settings.max_file_bytes, settings.max_files_bytes, settings.max_files)
        step = write_file(self._producer.keys, owner, file_id, number, data, ttl_s=ttl_s, room=room, record=record)
        if (said := await self._producer.do(step)) != "ok":
            raise self._refused(said)

    async def write_of_run(
        self, owner: str, file_id: str, number: int, data: bytes, *, run: RunOf, ttl_s: float, record: str
    ) -> Written:
        """A part of a file that a batch writes."""
        keys = self._producer.keys
        step = write_file(keys, owner, file_id, number, data, ttl_s=ttl_s, room=Room(), record=record, run=run)
        return await self._producer.do(step)

    async def find(self, owner: str, file_id: str) -> StoredFile:
        """Raises ApiError 404, also for one of another owner, and one that is not whole."""
        if FILE_ID.fullmatch(file_id):
            name = self._producer.keys.file(owner, file_id)
            if (found := _read(await self._producer.ask(lambda r: r.hget(name, "record")))) is not None:
                return found
        raise not_found(f"file {file_id}")

    async def ids(self, owner: str) -> list[str]:
        """Of all, also of those that are not whole."""
        name = self._producer.keys.files(owner)
        return list(map(bytes.decode, await self._producer.ask(lambda r: r.zrange(name, 0, -1))))

    async def some(self, owner: str, file_ids: Sequence[str]) -> list[StoredFile]:
        """Those of them that are whole, in their order."""
        names = [self._producer.keys.file(owner, each) for each in file_ids]

        def read(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hget(name, "record")
            return pipeline.execute()

        return [found for raw in await self._producer.ask(read) if (found := _read(raw)) is not None]

    async def delete(self, owner: str, file_id: str) -> bool:
        """Whether it was there, whole or not."""
        return await self._producer.do(delete_file(self._producer.keys, owner, file_id))

    async def parts(self, owner: str, file_id: str, first: int = 0) -> list[bytes]:
        """A few, from that one; of one behind the last, nothing."""
        name, numbers = self._producer.keys.file_parts(owner, file_id), range(first, first + PARTS_AT_ONCE)
        found = await self._producer.ask(lambda r: r.hmget(name, *numbers))
        return found[: found.index(None)] if None in found else found  # type: ignore[no-any-return]

    async def content(self, owner: str, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """Its bytes.  Raises ApiError where it goes meanwhile."""
        number = 0
        while number < file.parts:
            parts = await self.parts(owner, file.id, number)
            if not parts:
                raise not_found(f"file {file.id}")
            for part in parts:
                yield part
            number += len(parts)

    def _refused(self, said: Written) -> ApiError:
        settings = self._settings
        why = {
            "file_too_large": f"a file may have {settings.max_file_bytes} bytes",
            "no_room": f"the files of a key may have {settings.max_files_bytes} bytes: delete some",
            "too_many": f"a key may have {settings.max_files} files: delete some",
        }
        if said not in why:
            return ApiError(409, "the file was deleted while it came", code=said, headers=NOT_AGAIN)
        return ApiError(413, why[said], param="file", code=said, headers={"connection": "close"})


def _read(raw: bytes | None) -> StoredFile | None:
    try:
        return None if raw is None else StoredFile.model_validate_json(raw)
    except ValidationError:  # anybody may have written it
        return None
