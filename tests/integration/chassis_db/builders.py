"""What the tests of the database side are made of: events, clocks, a producer that can fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.chassis.events.envelope import NewEvent
from services.chassis.events.ports import Record
from services.chassis.tenancy import TenantId

ALPHA = TenantId("alpha")
BETA = TenantId("beta")
TOPIC = "modelyard.account.lifecycle.v1"
WAIT_MAX_S = 30.0


def an_event(
    key: str = "acc_1",
    *,
    data: bytes = b"1",
    tenant: TenantId = ALPHA,
    traceparent: str | None = None,
) -> NewEvent:
    return NewEvent(
        topic=TOPIC,
        key=key,
        type="modelyard.account.changed.v1",
        subject=f"accounts/{key}",
        tenant=tenant,
        data=data,
        dataschema="modelyard.account.v1.AccountChanged",
        traceparent=traceparent,
    )


@dataclass(slots=True)
class ManualClock:
    """A clock that moves when told."""

    seconds: float = 1_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass(slots=True)
class FakeProducer:
    """Keeps what it is sent, like a broker would; fails and pauses as told.

    `refuse` names the error of a record; then later records of its key fail with it, as the port
    promises. While `open_gate` is not set, acknowledgements wait after the records were kept.
    """

    kept: list[Record] = field(default_factory=list)
    refuse: Callable[[Record], Exception | None] = lambda _: None
    open_gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open_gate.set()

    async def send(self, record: Record) -> None:
        (error,) = await self.send_all([record])
        if error is not None:
            raise error

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        failed: dict[bytes, Exception] = {}
        outcomes: list[Exception | None] = []
        for record in records:
            error = failed.get(record.key) or self.refuse(record)
            if error is None:
                self.kept.append(record)
            else:
                failed[record.key] = error
            outcomes.append(error)
        self.arrived.set()
        await self.open_gate.wait()
        return outcomes

    async def ping(self) -> None: ...

    def values(self, key: str = "acc_1") -> list[bytes | None]:
        """What was kept under a key, duplicates included."""
        return [record.value for record in self.kept if record.key == key.encode()]

    def values_once(self, key: str = "acc_1") -> list[bytes | None]:
        """What a reader that drops known event ids sees."""
        first = {header(record, "ce_id"): record for record in reversed(self.kept)}
        return [
            record.value
            for record in self.kept
            if record.key == key.encode() and first[header(record, "ce_id")] is record
        ]


def header(record: Record, name: str) -> str | None:
    value = dict(record.headers).get(name)
    return value.decode() if value is not None else None


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once `holds`; the test fails by time-out otherwise."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not await holds():  # noqa: ASYNC110 (what is waited for happens in the database)
            await asyncio.sleep(0.01)  # tidy: allow sleep because it polls, bounded


@asynccontextmanager
async def running(run: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a loop of the service beside the block, and stop it as the supervisor would."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(WAIT_MAX_S * 2):
        tasks.create_task(_coroutine(run(stopping)))
        try:
            yield
        finally:
            stopping.set()


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
