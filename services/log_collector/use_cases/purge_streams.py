"""Delete the output of purged tenants."""

from dataclasses import dataclass, field

from loguru import logger

from services.chassis.errors import Unavailable
from services.chassis.purges import Round
from services.chassis.tenancy import PurgedTenants
from services.log_collector.domain.log_stream import StreamState
from services.log_collector.use_cases.ports import LogStore, UnitOfWork


@dataclass(frozen=True, slots=True)
class PurgeStreams:
    """Delete streams and stored output of tenants that are PURGED, on this node.

    A stream that is being collected stays until it is complete. Who could act late: an event of an
    attempt that opens its stream, or makes it again, or a pass that was cut off between output and
    row. What refuses it: output is deleted of what is COMPLETED alone, which is final; a row goes
    in a statement that sees its state; this looks at what is, again and again; a row goes after
    its output, so that what is left on the disk is found.
    """

    unit_of_work: UnitOfWork
    store: LogStore
    purged: PurgedTenants
    node_id: str | None
    streams_per_pass_max: int
    round: Round = field(default_factory=Round)
    """Of complete streams, the output of each of which is deleted by itself."""

    async def __call__(self) -> int:
        """Run one pass; return how many streams were deleted. Raises Unavailable."""
        # 1. While nobody is purged nothing is asked.
        purged = self.purged.names()
        if not purged:
            return 0
        node_id, limit = self.node_id, self.streams_per_pass_max
        # 2. Find what nobody will write to any more; what has not begun has no output.
        async with self.unit_of_work.system(because="a purge finds any tenant's streams") as tx:
            complete, expected = [
                await tx.streams.in_state(state, purged, node_id, offset=offset, limit=limit)
                for state, offset in (
                    (StreamState.COMPLETED, self.round.passed_over),
                    (StreamState.EXPECTED, 0),
                )
            ]
        # 3. Their output; what can't be deleted holds up none of the others.
        deleted = [attempt_id for attempt_id in complete if await self._is_deleted(attempt_id)]
        failed = len(complete) - len(deleted)
        self.round.passed(found=len(complete), failed=failed, limit=limit)
        # 4. Their rows, but for what has begun meanwhile.
        async with self.unit_of_work.system(because="a purge deletes any tenant's streams") as tx:
            count = await tx.streams.delete(deleted, StreamState.COMPLETED)
            return count + await tx.streams.delete(expected, StreamState.EXPECTED)

    async def _is_deleted(self, attempt_id: str) -> bool:
        try:
            await self.store.delete(attempt_id)
        except Unavailable as error:
            logger.warning("purged output not deleted", attempt_id=attempt_id, error=error.message)
            return False
        return True
