"""Send stored blocks to Kafka, from the disk and for as long as it takes.

The cursor of an attempt moves after the acknowledgement; a crash in between sends a block again, so
readers skip the sequences that they have. A broker that is away for a day is a day of lag.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Final

from loguru import logger

from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.waiting import is_set_within
from services.log_collector.use_cases.ports import BlockPublisher, LogStore, PublishableBlock
from services.log_collector.use_cases.unpublished import Unpublished

_ATTEMPTS_PER_BATCH: Final = 8
_BYTES_PER_ATTEMPT: Final = 2 * 1024 * 1024
BLOCK_BYTES_MAX: Final = 950_000
"""Brokers take records of a million bytes, and there are headers."""
_INTERVAL: Final = timedelta(milliseconds=50)
"""Between two batches, so that a flood's cursor isn't moved for each block."""
_RETRY_AFTER: Final = timedelta(milliseconds=200)
_RETRY_AFTER_MAX: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class PublishBlocks:
    """Publish all attempts' blocks, each attempt's in order, all attempts in turn."""

    store: LogStore
    publisher: BlockPublisher
    unpublished: Unpublished

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish until asked to stop; what is left then waits on the disk."""
        for attempt_id in await self.store.unpublished_attempts():
            self.unpublished.add(attempt_id)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_when(stopping))
            pause = _RETRY_AFTER
            while not stopping.is_set():
                grown = self.unpublished.grown.next()
                attempt_ids = self.unpublished.take(_ATTEMPTS_PER_BATCH)
                if not attempt_ids:
                    await grown.wait()
                elif await self._publish(attempt_ids):
                    pause = _RETRY_AFTER
                    await is_set_within(stopping, _INTERVAL.total_seconds())
                else:
                    await is_set_within(stopping, pause.total_seconds())
                    pause = min(2 * pause, _RETRY_AFTER_MAX)

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self.unpublished.grown.fire()

    async def _publish(self, attempt_ids: list[str]) -> bool:
        """Publish the next blocks of these attempts; tell whether all were acknowledged."""
        is_whole = True
        blocks: list[PublishableBlock] = []
        for attempt_id in attempt_ids:
            try:
                found = await self.store.publishable(
                    attempt_id, bytes_max=_BYTES_PER_ATTEMPT, block_bytes_max=BLOCK_BYTES_MAX
                )
            except Unavailable as error:
                is_whole = False
                self._put_off(attempt_id, error)
                continue
            blocks += found.blocks
            if found.has_more:
                self.unpublished.add(attempt_id)
        outcomes = await self.publisher.publish(blocks)
        for attempt_id, sent in groupby(
            zip(blocks, outcomes, strict=True), key=lambda one: one[0].attempt_id
        ):
            is_whole = await self._mark(attempt_id, sent) and is_whole
        return is_whole

    async def _mark(
        self, attempt_id: str, sent: Iterable[tuple[PublishableBlock, Exception | None]]
    ) -> bool:
        """Move an attempt's cursor; tell whether it got where it can."""
        through, stopped_by = None, None
        for block, error in sent:
            if error is None or isinstance(error, PayloadTooLarge):
                through = block.last_sequence
            if error is not None:
                # None behind it was kept: the next turn goes on from here.
                stopped_by = error
                self.unpublished.add(attempt_id)
                break
        is_too_large = isinstance(stopped_by, PayloadTooLarge)
        if is_too_large:
            logger.error("log block is too large to publish", attempt_id=attempt_id)
        if through is not None:
            try:
                await self.store.mark_published(attempt_id, through=through)
            except Unavailable as failure:
                self._put_off(attempt_id, failure)
                return False
        return stopped_by is None or is_too_large

    def _put_off(self, attempt_id: str, error: Unavailable) -> None:
        logger.warning("log blocks are put off", attempt_id=attempt_id, error=str(error))
        self.unpublished.add(attempt_id)
