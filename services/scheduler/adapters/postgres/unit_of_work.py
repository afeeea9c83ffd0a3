"""The scheduler's transactions: the chassis' with this service's repositories and facts.

Owns: that a fact leaves as a child of its submission's trace, whoever moves the thing, and that a
phase that a job's move has ended becomes a span once the move is committed.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db import idempotency
from services.chassis.db.lease import HeldLease, Seizing
from services.chassis.db.unit_of_work import PostgresUnitOfWork as ChassisUnitOfWork
from services.chassis.db.unit_of_work import Transaction as ChassisTransaction
from services.chassis.errors import InProgress, KeyReused
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.attempts import PostgresAttempts
from services.scheduler.adapters.postgres.deployments import (
    PostgresDeployments,
    PostgresReplicas,
    PostgresTenantDeployments,
)
from services.scheduler.adapters.postgres.fleet import PostgresFleet, PostgresNodes
from services.scheduler.adapters.postgres.jobs import PostgresJobs, PostgresTenantJobs
from services.scheduler.adapters.postgres.leavings import PostgresLeavings
from services.scheduler.adapters.postgres.line import PostgresLine, PostgresUsage
from services.scheduler.adapters.postgres.queues import PostgresTenantQueues
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.jobs.job import JobTransitioned
from services.scheduler.telemetry import record_phase, transition
from services.scheduler.use_cases.ports import Fact, Lease, Repeatable, RequestKey

_SEIZING: Final = Seizing(CHASSIS)

Listener = Callable[[Fact], None]
EventOf = Callable[[Fact], NewEvent]
"""Tells a fact as an event; given from outside, so that storage knows no protobuf."""


class _Emitting:
    """What both kinds of transaction share."""

    def __init__(
        self, inner: ChassisTransaction, event_of: EventOf, listeners: Sequence[Listener]
    ) -> None:
        self._inner = inner
        self._event_of = event_of
        self._listeners = listeners

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        return self._inner.now

    def emit(self, fact: Fact) -> None:
        """Publish a fact if and only if this transaction commits."""
        event = self._event_of(fact)
        with transition(event.type, subject=event.subject, parent=event.traceparent) as traceparent:
            self._inner.emit(replace(event, traceparent=traceparent))
        for listener in self._listeners:
            self._inner.on_commit(partial(listener, fact))
        if isinstance(fact, JobTransitioned) and fact.ended_phase is not None:
            phase = fact.ended_phase
            self._inner.on_commit(
                lambda: record_phase(phase, job_id=fact.job_id, parent=fact.traceparent)
            )


class PostgresTransaction(_Emitting):
    """One tenant's transaction; implements `ports.Transaction`."""

    def __init__(
        self,
        inner: ChassisTransaction,
        event_of: EventOf,
        listeners: Sequence[Listener],
        tenant: TenantId,
    ) -> None:
        super().__init__(inner, event_of, listeners)
        self.answers = PostgresAnswers(inner)
        self.jobs = PostgresTenantJobs(inner.connection, tenant)
        self.deployments = PostgresTenantDeployments(inner.connection, tenant)
        self.queues = PostgresTenantQueues(inner.connection, tenant)
        self.fleet = PostgresFleet(inner.connection)


class PostgresSystemTransaction(_Emitting):
    """A transaction that spans tenants; implements `ports.SystemTransaction`."""

    def __init__(
        self, inner: ChassisTransaction, event_of: EventOf, listeners: Sequence[Listener]
    ) -> None:
        super().__init__(inner, event_of, listeners)
        self.answers = PostgresAllAnswers(inner)
        self.jobs = PostgresJobs(inner.connection)
        self.attempts = PostgresAttempts(inner.connection)
        self.deployments = PostgresDeployments(inner.connection)
        self.replicas = PostgresReplicas(inner.connection)
        self.nodes = PostgresNodes(inner.connection)
        self.line = PostgresLine(inner.connection)
        self.usage = PostgresUsage(inner.connection)
        self.leavings = PostgresLeavings(inner.connection)

    async def hold(self, lease: Lease) -> None:
        """Begin a lease holder's transaction with this."""
        await self._inner.hold(HeldLease(lease.name, lease.holder, lease.epoch))

    async def seize(self, name: str, *, holder: str, unheld_for: timedelta) -> HeldLease | None:
        """Take a lease that nobody has held for so long."""
        return await _SEIZING(self._inner.connection, name, holder=holder, unheld_for=unheld_for)


class PostgresReading:
    """Reads that each stand alone; implements `ports.Reading`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.attempts = PostgresAttempts(connection)
        self.fleet = PostgresFleet(connection)
        self.nodes = PostgresNodes(connection)
        self.line = PostgresLine(connection)
        self.usage = PostgresUsage(connection)


class PostgresAnswers:
    """Earlier answers, each the id of what a request made; implements `ports.Answers`."""

    def __init__(self, inner: ChassisTransaction) -> None:
        self._inner = inner

    async def remember(self, method: str, key: RequestKey, makes: str) -> str | None:
        """Return the id that an equal earlier request made, if any; else this one makes this."""
        made = await idempotency.remember(
            self._inner,
            method=method,
            key=key.key,
            request_hash=key.request_hash,
            response=makes.encode(),
        )
        return None if made is None else made.decode()


class PostgresAllAnswers:
    """Earlier answers to all tenants; implements `ports.AllAnswers`."""

    def __init__(self, inner: ChassisTransaction) -> None:
        self._inner = inner

    async def remember(
        self, method: str, asked: Sequence[Repeatable]
    ) -> Sequence[str | KeyReused | InProgress | None]:
        """Return of each the id that an equal earlier request made, if any."""
        requests = [
            idempotency.Request(
                each.tenant, each.key.key, each.key.request_hash, each.makes.encode()
            )
            for each in asked
        ]
        found = await idempotency.remember_all(self._inner, method=method, requests=requests)
        return [each.decode() if isinstance(each, bytes) else each for each in found]

    async def forget(self, method: str, asked: Sequence[Repeatable]) -> None:
        """Take back what this transaction has remembered."""
        keys = [(each.tenant, each.key.key) for each in asked]
        await idempotency.forget(self._inner, method=method, keys=keys)


class PostgresUnitOfWork:
    """Opens transactions on the scheduler's database; implements `ports.UnitOfWork`."""

    def __init__(self, inner: ChassisUnitOfWork, event_of: EventOf) -> None:
        self._inner = inner
        self._event_of = event_of
        self._listeners: list[Listener] = []

    def add_listener(self, listener: Listener) -> None:
        """Call this with each fact once it is committed; it must not raise."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[PostgresTransaction]:
        """Open a transaction for a tenant."""
        async with self._inner(tenant) as inner:
            yield PostgresTransaction(inner, self._event_of, self._listeners, tenant)

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[PostgresSystemTransaction]:
        """Open a transaction that is no tenant's."""
        async with self._inner.system(because=because) as inner:
            yield PostgresSystemTransaction(inner, self._event_of, self._listeners)

    @asynccontextmanager
    async def reading(self, *, because: str) -> AsyncIterator[PostgresReading]:
        """Open for reads that each stand alone."""
        async with self._inner.reading(because=because) as connection:
            yield PostgresReading(connection)
