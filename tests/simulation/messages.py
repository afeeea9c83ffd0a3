"""Kafka as it is on bad days, around the broker in memory.

Owns: a producer whose sends are lost, late, or kept without an answer, and a subscription that
brings what was brought before, in another order over the partitions, and whose positions are
written out late. Leaves partitions and groups to `chassis.events.memory_broker`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Final

from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.events.memory_broker import MemoryBroker, MemorySubscription
from services.chassis.events.ports import ReceivedRecord, Record, TopicPartition
from tests.simulation.wire import Odds, Wire
from tests.support.sim_loop import current_process

_WRITTEN_OUT_S_MAX: Final = 1.0


class BadProducer:
    """The `Producer` port: each key's records are kept in order up to its first failure."""

    def __init__(
        self,
        broker: MemoryBroker,
        wire: Wire,
        chance: Random,
        odds: Odds,
        on_append: Callable[[Record], None],
    ) -> None:
        self._broker = broker
        self._wire = wire
        self._chance = chance
        self._odds = odds
        self._on_append = on_append

    async def send(self, record: Record) -> None:
        """Keep one record."""
        (error,) = await self.send_all([record])
        if error is not None:
            raise error

    async def send_all(self, records: Sequence[Record]) -> list[Exception | None]:
        """Keep what is not refused, all of it at once."""
        outcomes: list[Exception | None] = []
        failed: dict[bytes, Exception] = {}
        for record in records:
            if record.key not in failed and self._chance.random() < self._odds.lost_there:
                failed[record.key] = Unavailable("broker")
            outcomes.append(failed.get(record.key))
        kept = [record for record, error in zip(records, outcomes, strict=True) if error is None]
        try:
            await self._wire.call(lambda: self._keep(kept))
        except ModelyardError as error:
            return [error] * len(records)
        return outcomes

    async def ping(self) -> None:
        """Return unless the broker is down."""
        await self._wire.call(lambda: None)

    def _keep(self, records: Sequence[Record]) -> None:
        if not self._broker.up.is_set():
            raise Unavailable("broker")
        for record in records:
            self._broker.append(record)
            self._on_append(record)


class BadSubscription:
    """The `Subscription` port around a member of a group."""

    def __init__(self, member: MemorySubscription, chance: Random, odds: Odds) -> None:
        self._member = member
        self._chance = chance
        self._odds = odds

    async def poll(self, *, records_max: int, wait_s: float) -> Sequence[ReceivedRecord]:
        """Return the next records, now and then from further back, partitions in any order."""
        if self._chance.random() < self._odds.lost_back:
            self._go_back()
        records = await self._member.poll(records_max=records_max, wait_s=wait_s)
        partitions = sorted({record.origin for record in records})
        self._chance.shuffle(partitions)
        return [record for origin in partitions for record in records if record.origin == origin]

    def _go_back(self) -> None:
        """Read again what was read, as after a rebalance whose positions were not written out."""
        for origin, position in sorted(self._member.positions.items()):
            self._member.positions[origin] = self._chance.randint(max(0, position - 5), position)

    def assigned(self) -> frozenset[TopicPartition]:
        """Return the partitions that are this member's."""
        return self._member.assigned()

    def store(self, origin: TopicPartition, offset: int) -> None:
        """Move the group's position within a second, unless the process dies before."""
        process = current_process()

        def write_out() -> None:
            if process is None or not process.is_dead:
                self._member.store(origin, offset)

        delay_s = _WRITTEN_OUT_S_MAX * self._chance.random()
        asyncio.get_running_loop().call_later(delay_s, write_out)

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions."""
        await self._member.pause(partitions)

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions again."""
        await self._member.resume(partitions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Return how much lies ahead."""
        return await self._member.lag()
