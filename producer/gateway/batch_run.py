"""One run of a batch by one gateway, from wherever it is to its end: on the engine of `genqueue batch`.

Its jobs have ids that follow from the batch and the row, and its outputs say which rows are done. So a run may
stop anywhere: the next finds the jobs that are there, and submits none of them twice.
"""

import asyncio
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..batch.answers import Answer
from ..batch.identity import Identity
from ..batch.openai_answers import line_without_response
from ..batch.outbox import Outbox
from ..batch.reading import json_lines
from ..batch.rows import Row, RowParser
from ..batch.runner import Options, Runner
from ..contract import GenerationResult, GenqueueError
from ..ending import end
from .batch_answers import answer_line
from .batch_files import Input, InputGoneError, LostError, Outputs, through_outages
from .batch_rows import ENDPOINTS, RowReader, check_rows
from .errors import ApiError
from .queueing import GatewayProducer
from .settings import GatewaySettings
from .stored_batches import LEASE_S, BatchStore, Lease, StoredBatch
from .stored_files import FileStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOLD_S = 1.0
"""Between two looks at whether it is to end early, each of which holds the lease."""
FLUSH_S = 0.5
"""How long an answer may wait for others to be written with it."""
GATHER_S = 3_600
"""How long the workers keep an answer that no gateway is there to gather."""
END_S = 20.0
"""How long a worker may take to end a job that is cancelled."""
MOST_TRIES = 3
"""So often a batch is taken on of which nobody knows why it could not go on."""
AGAIN_S = LEASE_S
"""Until it is taken on again: as long as if its gateway had been killed."""
READ_BYTES = 64 * 2**10
LATE_S = 60.0
"""A row's job waits for so much longer than the batch, which ends it."""
_WHY = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "this request could not be answered within the completion window"),
}


class BatchRun:
    """One.  To be cancelled where the gateway ends."""

    def __init__(
        self,
        producer: GatewayProducer,
        settings: GatewaySettings,
        files: FileStore,
        batches: BatchStore,
        lease: Lease,
    ) -> None:
        self._producer = producer
        self._settings = settings
        self._files = files
        self._batches = batches
        self._lease = lease
        self._is_to_end = asyncio.Event()
        self._batch: StoredBatch
        self._outputs: Outputs | None = None

    async def run(self) -> None:
        """Until the batch is over, or another gateway runs it."""
        working = asyncio.create_task(self._work(), name=f"genqueue-batch-{self._lease.batch_id}")
        holding = asyncio.create_task(self._hold(), name="genqueue-batch-lease")
        try:
            await asyncio.wait((working, holding), return_when=asyncio.FIRST_COMPLETED)
            for task in (holding, working):
                if task.done():
                    task.result()
        except LostError:
            logger.debug("batch %s is over, or run by another gateway", self._lease.batch_id)
        finally:
            await end((working, holding))

    async def _hold(self) -> None:
        while True:
            counts = self._outputs.counts if self._outputs is not None else {}
            if await self._mark(counts) == "cancelling":
                self._is_to_end.set()
            await asyncio.sleep(HOLD_S)

    async def _mark(self, fields: dict[str, Any], *, was: str = "", **options: float) -> str:
        status = await through_outages(lambda: self._batches.mark(self._lease, fields, was=was, **options))
        if status in ("lost", "gone"):
            raise LostError
        return status

    async def _work(self) -> None:
        try:
            self._batch = await through_outages(
                lambda: self._batches.find(self._lease.owner, self._lease.batch_id)
            )
        except ApiError:  # it is not kept any more
            await self._mark({})
            return
        try:
            if self._batch.status == "validating" and not await self._check():
                return
            self._outputs = Outputs(self._files, self._batch, self._lease)
            await self._outputs.recover()
            await self._finish(await self._answer_rows(self._outputs), self._outputs)
        except (InputGoneError, ApiError) as error:
            fault = {"code": "input_file_gone", "message": str(error), "line": None, "param": "input_file_id"}
            await self._fail([fault])
        except LostError:
            raise
        except Exception:
            tries = 1 + (self._batch.number("tries") or 0)
            if tries < MOST_TRIES:
                await self._mark({"tries": tries}, lease_s=AGAIN_S)
                raise
            logger.exception("batch %s fails", self._lease.batch_id)
            said = "a gateway failed on it, again and again: its log says why"
            await self._fail([{"code": "internal", "message": said, "line": None, "param": None}])

    async def _check(self) -> bool:
        """Whether there is more to be done: it fails at once where its file will not do."""
        asked, settings = self._batch.asked, self._settings

        def check(file: io.BufferedReader) -> Any:
            return check_rows(json_lines(file, settings.max_body_bytes), asked.endpoint, settings.max_batch_rows)

        checked = await self._on_thread(check)
        if not checked.faults and not await through_outages(lambda: self._is_known(checked.model)):
            checked.fault("model_not_found", f"there is no model {checked.model!r} here")
        if checked.faults:
            return not await self._fail(checked.faults, was="validating")
        fields = {"status": "in_progress", "in_progress_at": _now(), "model": checked.model, "total": checked.rows}
        await self._mark(fields, was="validating")
        self._batch = await through_outages(lambda: self._batches.find(self._lease.owner, asked.id))
        return True

    async def _is_known(self, model: str) -> bool:
        return bool(await self._producer.workers_lately(model)) or await self._producer.knows(model)

    async def _fail(self, faults: list[dict[str, Any]], *, was: str = "") -> bool:
        """Whether it has: it may be cancelled by now."""
        published = await self._outputs.publish() if self._outputs is not None else {}
        fields = {"status": "failed", "failed_at": _now(), "errors": json.dumps(faults), **published}
        return await self._mark(fields, was=was, lease_s=0) == "failed"

    async def _answer_rows(self, outputs: Outputs) -> str:
        """Returns the status that the batch ends with."""
        batch = self._batch
        if batch.number("total") is None:  # it was cancelled before anything was known of it
            return "cancelled"
        status = batch.status
        why = "cancelled" if status == "cancelling" else ""
        if status == "in_progress":
            why = await self._generate(outputs)
        if status == "in_progress" and not why:
            fields = {"status": "finalizing", "finalizing_at": _now(), **outputs.counts}
            why = "" if await self._mark(fields, was="in_progress") == "finalizing" else "cancelled"
        if why:
            await self._give_up_the_rest(outputs, why)
        return why or "completed"

    async def _finish(self, status: str, outputs: Outputs) -> None:
        fields = {**await outputs.publish(), **outputs.counts, "status": status, f"{status}_at": _now()}
        await self._mark(fields, lease_s=0)

    async def _generate(self, outputs: Outputs) -> str:
        """Have the rows answered.  Returns why that was given up, or nothing."""
        asked, model = self._batch.asked, self._model
        left_s = asked.expires_at - time.time()
        if left_s <= 0:
            return "expired"
        queue = {
            "model": model,
            "priority": "low",
            "group": self._lease.owner or None,
            "queue_ttl_s": left_s + LATE_S,
            "result_ttl_s": GATHER_S,
        }
        put = partial(self._put, outputs)
        options = Options(queue, in_flight=asked.in_flight)
        runner = Runner(self._producer, options, Outbox(put, in_order=False), logger.warning)
        with await self._input() as file:
            running = asyncio.create_task(runner.run(self._rows(file, outputs), may_begin_without=True))
            flushing = asyncio.create_task(self._keep_flushing(outputs))
            stopping = asyncio.create_task(self._is_to_end.wait())
            tasks = (running, flushing, stopping)
            try:
                await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                for task in (flushing, running):
                    if task.done():
                        task.result()
                return "" if running.done() else "cancelled" if stopping.done() else "expired"
            finally:
                await end(tasks)

    async def _keep_flushing(self, outputs: Outputs) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await outputs.flush()

    def _put(self, outputs: Outputs, answer: Answer) -> None:
        kind = ENDPOINTS[self._batch.asked.endpoint]
        line = answer_line(answer, kind, self._lease.owner, self._model)
        outputs.put(answer.row.job_id, line, failed=answer.failed)

    @property
    def _model(self) -> str:
        return self._batch.fields["model"]

    def _rows(self, file: io.BufferedReader, outputs: Outputs) -> Iterator[Row | None]:
        asked = self._batch.asked
        taken_in_with = {"max_tokens": asked.max_tokens, "share_prefixes": asked.share_prefixes}
        settings = self._settings.model_copy(update=taken_in_with)
        reader = RowReader(asked.endpoint, self._lease.owner, settings)
        parser = RowParser({}, chat=False, template=None, read_row=reader)
        records = json_lines(file, self._settings.max_body_bytes)
        return parser.rows(records, Identity({"gateway_batch": asked.id}), outputs.done)

    async def _give_up_the_rest(self, outputs: Outputs, why: str) -> None:
        """A line for each row that is not done. The first of them may be with the workers, and are ended."""
        await outputs.flush()

        def undone(file: io.BufferedReader) -> list[Row]:
            return [replace(row, request=None) for row in self._rows(file, outputs) if row is not None]

        rows = await self._on_thread(undone)
        first, others = rows[: self._batch.asked.in_flight], rows[self._batch.asked.in_flight :]
        ends = await asyncio.gather(*(self._end_of(row.job_id) for row in first))
        for row, result in zip(first, ends, strict=True):
            if result is not None and result.status == "finished":
                self._put(outputs, Answer(row, result))
            else:
                outputs.put(row.job_id, line_without_response(row, *_WHY[why]), failed=True)
        for row in others:
            outputs.put(row.job_id, line_without_response(row, *_WHY[why]), failed=True)

    async def _end_of(self, job_id: str) -> GenerationResult | None:
        """End a job that may be there. None of one that is not, or does not end."""
        try:
            await through_outages(lambda: self._producer.cancel(job_id))
            return await through_outages(lambda: self._producer.result(job_id, timeout_s=END_S, check=False))
        except GenqueueError:
            return None

    async def _on_thread(self, work: Callable[[io.BufferedReader], T]) -> T:
        """Do something with the input that takes a while."""
        with await self._input() as file:
            return await asyncio.to_thread(work, file)

    async def _input(self) -> AbstractContextManager[io.BufferedReader]:
        owner, file_id = self._lease.owner, self._batch.asked.input_file_id
        file = await through_outages(lambda: self._files.find(owner, file_id))
        return _opened(Input(self._files, owner, file))


@contextmanager
def _opened(raw: Input) -> Iterator[io.BufferedReader]:
    """Whoever reads it reads no more, once the block is left."""
    try:
        yield io.BufferedReader(raw, READ_BYTES)
    finally:
        raw.abandon()


def _now() -> int:
    return int(time.time())
