"""What goes wrong, in turn and at once, until all of it is healed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final, cast

from services.scheduler.domain.attempts.attempt import AttemptState, attempt_of_container
from services.scheduler.domain.identities import NodeId
from tests.simulation.hosts import Host, Hosts, SchedulerHost
from tests.simulation.scheduler_store import ATTEMPTS
from tests.simulation.world import TENANTS, SimClock, World

AWAY_S: Final = (15.0, 80.0)
"""How long a node is away: less than it takes to be lost, or more."""


class Faults:
    """The faults of one run."""

    def __init__(self, world: World, hosts: Hosts) -> None:
        self.counts: dict[str, int] = {}
        """How often what has struck."""
        self._world = world
        self._chance = world.chance
        self._hosts = hosts.all()
        self._runners = hosts.schedulers
        self._away: set[NodeId] = set()
        """Nodes that are cut off, or whose processes are gone."""

    async def strike(self) -> None:
        """Let one fault after another begin, until this is cancelled."""
        faults = (
            self._crash,
            self._crash,
            self._freeze,
            self._freeze,
            self._storm,
            self._storm,
            self._stop_engine,
            self._hurt_container,
            self._stop_broker,
            self._move_clock,
            self._suspend,
            self._cut_off,
            self._lose_node,
        )
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._chance.expovariate(1 / 5))
                fault = self._chance.choice(faults)
                name = fault.__name__.strip("_")
                self.counts[name] = self.counts.get(name, 0) + 1
                tasks.create_task(fault())

    async def _crash(self) -> None:
        host = self._chance.choice(self._hosts)
        if host.process is not None:
            await host.kill()
            await self._for_a_while(10)
            self._start(host)

    async def _freeze(self) -> None:
        host = self._chance.choice(self._hosts)
        host.freeze()
        await self._for_a_while(25)
        host.thaw()

    async def _storm(self) -> None:
        """Calls from one machine go astray."""
        odds = self._chance.choice(self._hosts).odds
        odds.late, odds.lost_there, odds.lost_back = 0.2, 0.05, 0.05
        odds.late_s_max = self._chance.choice((0.5, 4.0, 12.0))
        await self._for_a_while(20)
        odds.stop()

    async def _stop_engine(self) -> None:
        engine = self._chance.choice(list(self._world.engines.values()))
        engine.go_down(ends_all=self._chance.random() < 0.3)
        await self._for_a_while(15)
        engine.come_back()

    async def _hurt_container(self) -> None:
        engine = self._chance.choice(list(self._world.engines.values()))
        lose_one = partial(engine.lose_one, self._is_start_recorded)
        self._chance.choice((engine.kill_one, lose_one))()
        engine.stale_odds = 0.1
        await self._for_a_while(10)
        engine.stale_odds = 0.0

    def _is_start_recorded(self, name: str) -> bool:
        attempt = self._world.scheduler.rows(ATTEMPTS).get(attempt_of_container(name))
        return attempt is not None and attempt.state is AttemptState.STARTED

    async def _stop_broker(self) -> None:
        self._world.broker.go_down()
        await self._for_a_while(10)
        self._world.broker.come_back()

    async def _move_clock(self) -> None:
        """A machine's clock is wrong for a while; the database's leaps ahead for good."""
        ahead = timedelta(seconds=self._chance.uniform(-60, 60))
        clock = self._chance.choice([*(host.clock for host in self._hosts), None])
        if clock is None:
            database = self._chance.choice((self._world.scheduler, self._world.registry))
            cast("SimClock", database.clock).ahead += abs(ahead) / 4
            return
        clock.ahead = ahead
        await self._for_a_while(15)
        clock.ahead = timedelta()

    async def _suspend(self) -> None:
        tenant = self._chance.choice(TENANTS)
        self._world.tell_tenant(tenant, is_suspended=True)
        await self._for_a_while(15)
        self._world.tell_tenant(tenant, is_suspended=False)

    async def _cut_off(self) -> None:
        """A node's processes reach nothing outside of their machine, at times until it is lost."""
        with self._busiest_node() as runners:
            for host in runners:
                host.odds.is_cut_off = True
            await asyncio.sleep(self._chance.uniform(*AWAY_S))
            for host in runners:
                host.odds.is_cut_off = False

    async def _lose_node(self) -> None:
        """A node's processes are gone, at times with all that runs there, or until it is lost."""
        with self._busiest_node() as runners:
            engines = {self._world.engines[host.node_id] for host in runners}
            has_power = self._chance.random() < 0.7
            for engine in engines if not has_power else ():
                engine.go_down(ends_all=True)
            for host in runners:
                await host.kill()
            await asyncio.sleep(self._chance.uniform(*AWAY_S))
            for engine in engines:
                engine.come_back()
            for host in runners:
                self._start(host)

    @contextmanager
    def _busiest_node(self) -> Iterator[list[SchedulerHost]]:
        """Give the runners of the node on which most runs, one fault at a time; maybe of none."""
        engines = self._world.engines
        there = [node_id for node_id in engines if node_id not in self._away]
        chosen = sorted(there, key=lambda node_id: len(engines[node_id].running()))[-1:]
        self._away.update(chosen)
        yield [host for host in self._runners if host.node_id in chosen]
        self._away.difference_update(chosen)

    def _start(self, host: Host) -> None:
        """Start a process, unless another fault's end has."""
        if host.process is None:
            host.start()

    async def _for_a_while(self, seconds_max: float) -> None:
        await asyncio.sleep(seconds_max * self._chance.random())

    def heal(self) -> None:
        """End whatever fault there is."""
        for engine in self._world.engines.values():
            engine.stale_odds = 0.0
            engine.come_back()
        self._world.broker.come_back()
        for tenant in TENANTS:
            self._world.tell_tenant(tenant, is_suspended=False)
        for host in self._hosts:
            host.odds.stop()
            host.odds.is_cut_off = False
            host.clock.ahead = timedelta()
            self._start(host)
            host.thaw()
