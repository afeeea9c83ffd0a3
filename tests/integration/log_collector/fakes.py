"""The collector's database in memory, and waiting for what other tasks bring about."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from services.chassis.errors import Conflict, Unavailable
from services.chassis.events.ports import DuplicateEvent
from services.chassis.tenancy import TenantId
from services.log_collector.domain.log_stream import LogStream, StreamState, StreamTransitioned
from tests.support.eventually import WITHIN_S, eventually


class MemoryLogStreams:
    """The streams that a transaction may see."""

    def __init__(self, rows: dict[str, LogStream], tenant: TenantId | None) -> None:
        self._rows = rows
        self._tenant = tenant

    def _mine(self) -> list[LogStream]:
        return [row for row in self._rows.values() if self._tenant in {None, row.tenant}]

    async def find(self, attempt_id: str) -> LogStream | None:
        return next((row for row in self._mine() if row.attempt_id == attempt_id), None)

    async def of_owner(self, owner_id: str) -> Sequence[LogStream]:
        mine = [row for row in self._mine() if row.owner_id == owner_id]
        return sorted(mine, key=lambda row: row.attempt_number)

    async def collected_on(self, node_id: str | None, *, limit: int) -> Sequence[LogStream]:
        return [
            row for row in self._mine() if row.state.is_collected and node_id in {None, row.node_id}
        ][:limit]

    async def in_state(
        self,
        state: StreamState,
        tenants: Sequence[TenantId],
        node_id: str | None,
        *,
        offset: int,
        limit: int,
    ) -> Sequence[str]:
        found = [
            row
            for row in self._mine()
            if row.tenant in tenants and row.state is state and node_id in {None, row.node_id}
        ]
        found.sort(key=lambda row: (row.tenant, row.owner_id, row.attempt_number))
        return [row.attempt_id for row in found[offset:][:limit]]

    async def delete(self, attempt_ids: Sequence[str], state: StreamState) -> int:
        found = [
            row.attempt_id
            for row in self._mine()
            if row.attempt_id in attempt_ids and row.state is state
        ]
        for attempt_id in found:
            del self._rows[attempt_id]
        return len(found)

    async def next_number(self, owner_id: str) -> int:
        return max((row.attempt_number for row in await self.of_owner(owner_id)), default=0) + 1

    async def add(self, stream: LogStream) -> None:
        numbers = {row.attempt_number for row in await self.of_owner(stream.owner_id)}
        if stream.attempt_id in self._rows or stream.attempt_number in numbers:
            raise Conflict("log stream", stream.attempt_id)
        self._rows[stream.attempt_id] = stream

    async def save(self, stream: LogStream) -> None:
        assert stream.attempt_id in self._rows
        self._rows[stream.attempt_id] = stream


class MemoryTransaction:
    """An open transaction on copies."""

    def __init__(self, database: "MemoryDatabase", tenant: TenantId | None) -> None:
        self.rows = dict(database.rows)
        self.claimed = set(database.claimed)
        self.facts: list[StreamTransitioned] = []
        self.streams = MemoryLogStreams(self.rows, tenant)

    def emit(self, fact: StreamTransitioned) -> None:
        self.facts.append(fact)

    async def claim_event(self, event_id: str) -> None:
        if event_id in self.claimed:
            raise DuplicateEvent("log-collector", event_id)
        self.claimed.add(event_id)


class MemoryDatabase:
    """A unit of work over dictionaries; `is_down` makes each one fail.

    With `is_commit_unheard` the next one that emits a fact fails though it is committed.
    """

    def __init__(self, *streams: LogStream) -> None:
        self.rows = {stream.attempt_id: stream for stream in streams}
        self.claimed: set[str] = set()
        self.facts: list[StreamTransitioned] = []
        self.is_down = False
        self.is_commit_unheard = False
        self.tenant_transaction_count = 0

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[MemoryTransaction]:
        self.tenant_transaction_count += 1
        async with self._open(tenant) as tx:
            yield tx

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[MemoryTransaction]:
        assert because
        async with self._open(None) as tx:
            yield tx

    @asynccontextmanager
    async def _open(self, tenant: TenantId | None) -> AsyncIterator[MemoryTransaction]:
        if self.is_down:
            raise Unavailable("database")
        tx = MemoryTransaction(self, tenant)
        yield tx
        self.rows, self.claimed = tx.rows, tx.claimed
        self.facts += tx.facts
        if tx.facts and self.is_commit_unheard:
            self.is_commit_unheard = False
            raise Unavailable("database")


async def until(is_so: Callable[[], bool | Awaitable[bool]], *, within_s: float = WITHIN_S) -> None:
    """Return as soon as something is so; fails when it takes too long."""

    async def check() -> bool:
        found = is_so()
        return found if isinstance(found, bool) else await found

    await eventually(check, what="what the test waits for", within_s=within_s)
