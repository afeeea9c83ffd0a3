"""What only the leader does, now and again.

Owns: who acts, and when a loop looks: when woken, and each `interval_max`, since an admission may
have been under way. The lease is the scheduling loop's: whoever admits is who ends and stops. And
when this process stands for it.

A pass that fails, in whatever way, is told and tried again at the next turn: were its process to
end, the next leader would meet the same row, and so would the one after that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger
from prometheus_client import Counter

from services.chassis.db.lease import HeldLease, LeaseKeeper
from services.chassis.errors import ModelyardError
from services.chassis.events.projection import CompactedProjection
from services.chassis.waking import Waking


@dataclass(frozen=True, slots=True)
class Candidacy:
    """Keeps the leader's lease, once this process could admit; before that it lets others lead.

    Not for ever: drains, losses and time-outs need no tenants, and somebody has to see to them.
    """

    lease: LeaseKeeper
    tenants: CompactedProjection
    lets_others: timedelta

    async def run(self, stopping: asyncio.Event) -> None:
        """Wait for the tenants, then keep the lease until `stopping` is set."""
        async with asyncio.TaskGroup() as tasks:
            waits: list[asyncio.Task[object]] = [
                tasks.create_task(self.tenants.caught_up()),
                tasks.create_task(stopping.wait()),
            ]
            await asyncio.wait(
                waits,
                timeout=self.lets_others.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for each in waits:
                each.cancel()
        if not self.tenants.is_caught_up:
            logger.warning("stands for the lead without knowing the tenants")
        await self.lease.run(stopping)


@dataclass(frozen=True, slots=True)
class WhileLeading:
    """Runs a pass if this process leads; another one's leader does it else."""

    look: Callable[[HeldLease], Awaitable[int]]
    """Runs one pass and tells how many things it found; may raise ModelyardError."""
    lease: LeaseKeeper

    async def __call__(self) -> int:
        """Return how many things were found."""
        held = self.lease.held
        return 0 if held is None else await self.look(held)


@dataclass(frozen=True, slots=True)
class LeaderLoop:
    """Runs a pass whenever it is woken, if this process leads."""

    look: WhileLeading
    waking: Waking
    done: str
    """What the log says of a pass that found some."""
    failed: str
    """What the log says of a pass that failed; the next one tries again."""
    found: Counter | None = None
    """Grows by what the passes found."""
    pass_max: int | None = None
    """What one pass finds at most, and does away with; after as many the next one follows at once.
    None: what it found may be there still, so the next one takes its time."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Look while this process leads, until `stopping` is set."""
        await self.waking.repeat(self.turn, stopping)

    async def turn(self) -> bool:
        """Look once, if this process leads; return whether the next look should follow."""
        try:
            count = await self.look()
        except ModelyardError as error:
            logger.warning(self.failed, error=error.message)
            return False
        except Exception as error:  # noqa: BLE001 a bug that one pass meets ends no process
            logger.opt(exception=error).error(self.failed)
            return False
        if count:
            logger.info(self.done, count=count)
            if self.found is not None:
                self.found.inc(count)
        return count == self.pass_max
