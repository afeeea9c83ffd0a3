"""The chassis' unit of work with the collector's repository in it.

Owns: nothing but the joining. Facts become events by the function that `bootstrap` gives, so that
storage knows no protobuf.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from services.chassis.db.unit_of_work import PostgresUnitOfWork, Transaction
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.log_collector.adapters.postgres.repositories import PostgresLogStreams
from services.log_collector.domain.log_stream import StreamTransitioned

CONSUMER: Final = "log-collector"
"""Under this name the inbox remembers events; another name would forget them all."""


class LogTransaction:
    """An open transaction."""

    def __init__(self, tx: Transaction, event_of: Callable[[StreamTransitioned], NewEvent]) -> None:
        self.streams = PostgresLogStreams(tx)
        self._tx = tx
        self._event_of = event_of

    def emit(self, fact: StreamTransitioned) -> None:
        """Add the fact's outbox row to the commit."""
        self._tx.emit(self._event_of(fact))

    async def claim_event(self, event_id: str) -> None:
        """Add the event's inbox row. Raises DuplicateEvent."""
        await self._tx.claim_event(CONSUMER, event_id)


class LogUnitOfWork:
    """Opens transactions on the collector's database."""

    def __init__(
        self,
        unit_of_work: PostgresUnitOfWork,
        event_of: Callable[[StreamTransitioned], NewEvent],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._event_of = event_of

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[LogTransaction]:
        """Open one for a tenant."""
        async with self._unit_of_work(tenant) as tx:
            yield LogTransaction(tx, self._event_of)

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[LogTransaction]:
        """Open one that is no tenant's."""
        async with self._unit_of_work.system(because=because) as tx:
            yield LogTransaction(tx, self._event_of)
