"""`relay`: how fast committed events reach the broker, and how soon a lone one does.

The relay of one process, as a service runs it, between a PostgreSQL with fsync and an Apache Kafka.
A round commits ten thousand of the scheduler's job events in one transaction, four of each job, and
ends when the last one is marked, which follows its acknowledgement. Then events are committed one
by one, with pauses in which the relay has nothing to do.

    relay.acknowledged_per_s    the median of the rounds, from the commit to the last mark
    relay.idle_p50_ms           of lone events, from the commit's answer to the acknowledgement

Rows and records are looked at afterwards: each event is marked, lies in its topic once, and behind
the earlier ones of its job.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
import uvloop
from modelyard.scheduler.v1 import job_events_pb2
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import kafka, postgres
from deploy.local.state import CHECKOUT
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.lease import HeldLease, PostgresLeases
from services.chassis.db.migrate import upgrade
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay, Rows
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.events.envelope import NewEvent, from_record
from services.chassis.events.kafka_consumer import open_reader
from services.chassis.events.kafka_producer import open_producer
from services.chassis.events.ports import Producer, Record
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import KafkaSettings, PostgresSettings
from services.chassis.tenancy import tenant_id
from services.scheduler.adapters.postgres.tables import CHASSIS
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import JobState, JobTransitioned
from services.scheduler.entrypoints.facts import JOB_LIFECYCLE, event_of
from tests.bench.figures import median, print_figures, print_table, say
from tests.bench.start import own_state

ROUNDS: Final = 7
WARM_UP_ROUNDS: Final = 1
BURST: Final = 10_000
"""Events of a round: as many as one transaction takes."""
EVENTS_PER_JOB: Final = 4
LONE_COUNT: Final = 200
LONE_INTERVAL_S: Final = 0.05
_ROUND_S_MAX: Final = 60.0
_READ_RECORDS_MAX: Final = 1_000
_STATES: Final = (JobState.QUEUED, JobState.ADMITTED, JobState.STARTING, JobState.RUNNING)


@dataclass(slots=True)
class Watched:
    """Outbox and producer as they are, with a note of what came to which end, and when."""

    outbox: PostgresOutbox
    producer: Producer
    committed_at: float = 0.0
    acknowledged_at: float = 0.0
    marked_count: int = 0
    marked: asyncio.Condition = field(default_factory=asyncio.Condition)

    def commit(self) -> None:
        """Note a commit, of which the relay hears afterwards."""
        self.committed_at = time.perf_counter()

    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        """Read a batch."""
        return await self.outbox.unpublished(shards, stopped=stopped, rows_max=rows_max)

    async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
        """Mark a batch."""
        count = await self.outbox.mark(rows, leases)
        async with self.marked:
            self.marked_count += count
            self.marked.notify_all()
        return count

    async def send(self, record: Record) -> None:
        """Send one record."""
        await self.producer.send(record)

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        """Send a batch."""
        outcomes = await self.producer.send_all(records)
        self.acknowledged_at = time.perf_counter()
        return outcomes

    async def ping(self) -> None:
        """Ask the broker."""
        await self.producer.ping()

    async def until_marked(self, count: int) -> None:
        """Return once so many have been marked."""
        async with asyncio.timeout(_ROUND_S_MAX), self.marked:
            await self.marked.wait_for(lambda: self.marked_count >= count)


@dataclass(frozen=True, slots=True)
class Yard:
    """A relay that runs, what it relays from, and what it was seen doing."""

    unit_of_work: PostgresUnitOfWork
    watched: Watched
    ids: TimeOrderedIds


@dataclass(frozen=True, slots=True)
class Round:
    """A burst's way to the broker."""

    seconds: float
    cpu_seconds: float
    """Of this process: all that the relay is."""


def main() -> None:
    """Measure on a database and a broker of the bench's own."""
    with own_state() as state:
        server = postgres.start(state)
        postgres.provision(state, server)
        broker = kafka.start(state)
        kafka.ensure_topics(broker, kafka.declared_topics())
        url = postgres.service_url(state, "scheduler")
        asyncio.run(upgrade(url, CHECKOUT / "services" / "scheduler" / "migrations"))
        rounds, lone_ms = uvloop.run(_measure(url, KafkaSettings(bootstrap_servers=broker)))
    _print(rounds, lone_ms)


async def _measure(url: str, kafka_settings: KafkaSettings) -> tuple[list[Round], list[float]]:
    settings = PostgresSettings(url=SecretStr(url), statement_timeout=timedelta(seconds=30))
    async with open_engine(settings, application_name="bench") as engine:
        async with _running(engine, kafka_settings) as yard:
            rounds = [await _burst(yard) for _ in range(WARM_UP_ROUNDS + ROUNDS)]
            lone_ms = [await _lone(yard) for _ in range(LONE_COUNT)]
        await _check_rows(engine, count=BURST * len(rounds) + LONE_COUNT)
    await _check_records(kafka_settings, count=BURST * len(rounds) + LONE_COUNT)
    return rounds[WARM_UP_ROUNDS:], lone_ms


@asynccontextmanager
async def _running(engine: AsyncEngine, settings: KafkaSettings) -> AsyncIterator[Yard]:
    """Run the relay as the scheduler's `bootstrap` makes it."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    unit_of_work = PostgresUnitOfWork(engine, CHASSIS, source="/scheduler", clock=clock, ids=ids)
    async with open_producer(settings, client_id="bench") as producer:
        watched = Watched(PostgresOutbox(engine, CHASSIS), producer)
        relay = Relay(
            watched,
            PostgresLeases(engine, CHASSIS),
            watched,
            holder=ids.new("proc"),
            clock=clock,
            idle=unit_of_work.idle,
        )
        unit_of_work.add_listener(watched.commit)
        unit_of_work.add_listener(relay.wake)
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay.run(stopping))
            for keeper in relay.keepers.values():
                await keeper.wait_held()
            yield Yard(unit_of_work, watched, ids)
            stopping.set()


async def _burst(yard: Yard) -> Round:
    """Commit a burst; return how it left."""
    expected = yard.watched.marked_count + BURST
    async with yard.unit_of_work.system(because="bench") as tx:
        for _ in range(BURST // EVENTS_PER_JOB):
            for event in _events_of_a_job(yard.ids):
                tx.emit(event)
    begun_cpu = time.process_time()
    await yard.watched.until_marked(expected)
    seconds = time.perf_counter() - yard.watched.committed_at
    return Round(seconds, time.process_time() - begun_cpu)


async def _lone(yard: Yard) -> float:
    """Commit one event while nothing else happens; return the ms until it is acknowledged."""
    await asyncio.sleep(LONE_INTERVAL_S)
    expected = yard.watched.marked_count + 1
    async with yard.unit_of_work.system(because="bench") as tx:
        tx.emit(next(_events_of_a_job(yard.ids)))
    await yard.watched.until_marked(expected)
    return (yard.watched.acknowledged_at - yard.watched.committed_at) * 1e3


def _events_of_a_job(ids: TimeOrderedIds) -> Iterator[NewEvent]:
    job_id = JobId(ids.new("job"))
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    for version, state in enumerate(_STATES, start=1):
        yield event_of(
            JobTransitioned(
                job_id=job_id,
                tenant=tenant_id("bench"),
                name="bench",
                state=state,
                reason="",
                version=version,
                attempt_number=1,
                attempt_id=AttemptId(ids.new("att")),
                at=datetime.now(UTC),
                source_digest="",
                traceparent=traceparent,
            )
        )


async def _check_rows(engine: AsyncEngine, *, count: int) -> None:
    """Check that each event has its row, and each row its mark."""
    outbox = CHASSIS.outbox
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SHOW fsync")) == "on"
        found = await connection.scalar(sa.select(sa.func.count(outbox.c.published_at)))
        left = await connection.scalar(
            sa.select(sa.func.count()).where(outbox.c.published_at.is_(None))
        )
    assert (found, left) == (count, 0), f"{found} marked and {left} not, of {count} events"


async def _check_records(settings: KafkaSettings, *, count: int) -> None:
    """Check that each event lies in its topic once, and those of a job in their order."""
    versions: defaultdict[str, list[int]] = defaultdict(list)
    async with open_reader(settings, JOB_LIFECYCLE, client_id="bench") as reader:
        while not reader.is_caught_up():
            for record in await reader.poll(records_max=_READ_RECORDS_MAX, wait_s=1.0):
                event = from_record(record)
                fact = job_events_pb2.JobTransitioned.FromString(event.data)
                versions[event.key].append(fact.version)
    found = sum(len(each) for each in versions.values())
    assert found == count, f"{found} records for {count} events"
    assert all(each == list(range(1, len(each) + 1)) for each in versions.values())


def _print(rounds: Sequence[Round], lone_ms: Sequence[float]) -> None:
    print_table(
        f"{LONE_COUNT} lone events: commit to acknowledgement", [("idle", lone_ms)], unit="ms"
    )
    rates = [BURST / each.seconds for each in rounds]
    cpu_us = median([each.cpu_seconds / BURST * 1e6 for each in rounds])
    say(
        f"\n{len(rounds)} bursts of {BURST} events: commit to last mark\n"
        f"  a second, round by round: {', '.join(f'{rate:.0f}' for rate in rates)}\n"
        f"  CPU time of the relay's process: {cpu_us:.0f} us an event"
    )
    print_figures("relay", {"acknowledged_per_s": median(rates), "idle_p50_ms": median(lone_ms)})
