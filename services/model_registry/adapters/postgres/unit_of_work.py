"""The chassis' unit of work with the registry's repositories in it.

Owns: nothing but the joining. Facts become events by the function that `bootstrap` gives, so that
storage knows no protobuf.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from services.chassis.db import idempotency
from services.chassis.db.unit_of_work import PostgresUnitOfWork, Transaction
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.model_registry import telemetry
from services.model_registry.adapters.postgres.leavings import PostgresLeavings
from services.model_registry.adapters.postgres.repositories import (
    PostgresArtifacts,
    PostgresModels,
    PostgresVersions,
)
from services.model_registry.domain.model import ModelChanged
from services.model_registry.use_cases.ports import Once

CONSUMER: Final = "model-registry"
"""Under this name the inbox remembers events; another name would forget them all."""


class RegistryTransaction:
    """One tenant's open transaction."""

    def __init__(
        self, tx: Transaction, event_of: Callable[[TenantId, ModelChanged], NewEvent]
    ) -> None:
        self.models = PostgresModels(tx)
        self.versions = PostgresVersions(tx)
        self.artifacts = PostgresArtifacts(tx)
        self._tx = tx
        self._event_of = event_of

    def emit(self, fact: ModelChanged) -> None:
        """Add the fact's outbox row to the commit."""
        assert self._tx.tenant is not None, "facts belong to a tenant"
        self._tx.emit(self._event_of(self._tx.tenant, fact))
        self._tx.on_commit(telemetry.CHANGES.labels(fact.change).inc)

    async def claim_event(self, event_id: str) -> None:
        """Add the event's inbox row. Raises DuplicateEvent."""
        await self._tx.claim_event(CONSUMER, event_id)

    async def earlier_answer(self, once: Once | None) -> str | None:
        """Look the key up, or begin to answer for it."""
        if once is None:
            return None
        earlier = await idempotency.remember(
            self._tx, method=once.method, key=once.key, request_hash=once.request_hash
        )
        return None if earlier is None else earlier.decode()

    async def answer(self, once: Once | None, answer: str) -> None:
        """Keep the answer under the key."""
        if once is not None:
            await idempotency.answer(
                self._tx, method=once.method, key=once.key, response=answer.encode()
            )


class RegistrySystemTransaction:
    """An open transaction that is no tenant's."""

    def __init__(self, tx: Transaction) -> None:
        self.leavings = PostgresLeavings(tx)


class RegistryUnitOfWork:
    """Opens transactions on the registry's database.

    `reading` is on an autocommitting engine: a statement is one round trip there, instead of three.
    """

    def __init__(
        self,
        unit_of_work: PostgresUnitOfWork,
        *,
        reading: PostgresUnitOfWork,
        event_of: Callable[[TenantId, ModelChanged], NewEvent],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._reading = reading
        self._event_of = event_of

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[RegistryTransaction]:
        """Open one for a tenant."""
        async with self._unit_of_work(tenant) as tx:
            yield RegistryTransaction(tx, self._event_of)

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[RegistrySystemTransaction]:
        """Open one that is no tenant's."""
        async with self._unit_of_work.system(because=because) as tx:
            yield RegistrySystemTransaction(tx)

    @asynccontextmanager
    async def reading(self, tenant: TenantId) -> AsyncIterator[RegistryTransaction]:
        """Open one to look things up by key."""
        async with self._reading(tenant) as tx:
            yield RegistryTransaction(tx, self._event_of)
            assert not tx.emitted, "a look-up has nothing to publish"
