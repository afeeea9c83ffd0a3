"""One run: clients and faults until so many steps have happened, then all has to end."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from loguru import logger

from tests.simulation.checkers import LEFT_WITHIN, SETTLES_WITHIN
from tests.simulation.clients import Clients
from tests.simulation.faults import Faults
from tests.simulation.hosts import Hosts
from tests.simulation.scheduler_store import JOBS
from tests.simulation.world import FREE, NODES, TENANTS, Made, World
from tests.support.sim_loop import Deadlock, Livelock, SimLoop, run_simulated

STEPS: Final = 800
"""Of the first part, where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    seed: int
    step: int
    """The last one, or the one at which something was violated."""
    digest: str
    """Of all that happened, in its order."""
    violation: str | None
    job_count: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    virtual_s: float = 0.0

    @property
    def told(self) -> str:
        """Say what was violated, and how to see it again."""
        return f"SEED={self.seed} STEP={self.step}: {self.violation}"


async def _run(world: World, hosts: Hosts, faults: Faults) -> str | None:
    """Run a world; return what was violated, if anything."""
    for tenant in TENANTS:
        world.tell_tenant(tenant, is_suspended=False)
    for host in hosts.all():
        host.start()
    story = world.loop.create_task(_tell(world, Clients(world, hosts.schedulers), faults))
    try:
        await asyncio.wait({story, world.failed}, return_when=asyncio.FIRST_COMPLETED)
        if world.failed.done():
            return str(world.failed.exception())
        await story
        return str(world.failed.exception()) if world.failed.done() else None
    finally:
        story.cancel()
        await asyncio.wait({story})
        for host in hosts.all():
            await host.kill()
        world.failed.cancel()


async def _tell(world: World, clients: Clients, faults: Faults) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clients.run())
        striking = tasks.create_task(faults.strike())
        await world.over.wait()
        striking.cancel()
        await asyncio.wait({striking})
        faults.heal()
    await _empty(world, clients)
    ends_at = world.loop.time() + SETTLES_WITHIN.total_seconds()
    while (what := world.checkers.unsettled()) is not None:
        if world.loop.time() > ends_at:
            world.fail(f"not settled: {what}")
            return
        await asyncio.sleep(1)
    world.check(world.checkers.settled)


async def _empty(world: World, clients: Clients) -> None:
    """Suspend a tenant and drain a node while nothing goes wrong: soon nothing of either runs."""
    [node_id, _] = NODES
    world.tell_tenant(FREE, is_suspended=True)
    await clients.drain(node_id)
    await asyncio.sleep(LEFT_WITHIN.total_seconds())
    world.check(lambda: world.checkers.left(FREE, node_id))
    world.tell_tenant(FREE, is_suspended=False)
    await clients.uncordon(node_id)


@contextlib.contextmanager
def _watching_logs(fail: Callable[[str], None], *, is_told: bool) -> Iterator[None]:
    """Take each bug that a loop survives, and so only tells of, for what it is."""

    def look(message: Any) -> None:
        record = message.record
        if record["exception"] is not None:
            fail(f"{record['message']}: {record['exception'].value!r}")
        if is_told:
            sys.stderr.write(f"{record['message']} {record['extra']}\n")

    logger.remove()
    handler = logger.add(look, level="DEBUG" if is_told else "ERROR", format="{message}")
    try:
        yield
    finally:
        logger.remove(handler)
        logger.add(sys.stderr)


def simulate(
    seed: int,
    *,
    steps: int = STEPS,
    made: Made | None = None,
    is_told: bool = False,
    look: Callable[[World], None] | None = None,
) -> Outcome:
    """Run a world; the same seed and steps give the same outcome. `look` sees it at its end."""
    worlds: list[World] = []

    async def run() -> Outcome:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        world = World(seed, steps=steps, made=made or Made(), loop=loop)
        worlds.append(world)
        loop.set_exception_handler(
            lambda _, about: world.fail(f"{about['message']}: {about.get('exception')!r}")
        )
        with _watching_logs(world.fail, is_told=is_told):
            hosts = Hosts.of(world)
            world.checkers.awake_for_s = hosts.awake_for_s
            faults = Faults(world, hosts)
            violation = await _run(world, hosts, faults)
        if look is not None:
            look(world)
        return _outcome(world, faults, seed, violation)

    try:
        return run_simulated(run(), Random(seed))
    except (Deadlock, Livelock) as stuck:
        return Outcome(seed, worlds[0].step, worlds[0].digest, f"time stands still: {stuck}")


def _outcome(world: World, faults: Faults, seed: int, violation: str | None) -> Outcome:
    jobs = world.scheduler.rows(JOBS).values()
    return Outcome(
        seed,
        world.step if world.failed_step is None else world.failed_step,
        world.digest,
        violation,
        job_count=len(jobs),
        ends=dict(Counter(str(row.job.state) for row in jobs)),
        faults=faults.counts,
        virtual_s=world.loop.time(),
    )
