"""The leader's loop: give free capacity to those who wait for it.

Owns: when to run a cycle, and that room is made, if at all, for the one that it has left without.
Every process has this loop; the one that holds the lease `scheduling` acts. A failed cycle is told
and tried again at the next turn.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loguru import logger

from services.chassis.db.lease import LeaseKeeper
from services.chassis.errors import ModelyardError
from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.attempts.work import AttemptWork
from services.scheduler.entrypoints.loops.preemption import MakeRoom
from services.scheduler.telemetry import (
    COUNT_MENDS,
    CYCLE_DURATION,
    LINE_MENDS,
    PLACEMENTS,
    WAITING,
)
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import (
    CycleReport,
    RunSchedulingCycle,
)


@dataclass(frozen=True, slots=True)
class SchedulingLoop:
    """Runs a cycle whenever something was committed that may change who can run.

    Not before all tenants are known: one of them may be suspended.
    """

    run_cycle: RunSchedulingCycle
    lease: LeaseKeeper
    waking: Waking
    are_tenants_known: Callable[[], bool]
    offer: Callable[[Sequence[AttemptWork]], None]
    """Tells this process's runner what was admitted: it need not read that first."""
    make_room: MakeRoom | None = None
    """For the first one that a cycle has left without; None: nobody is stopped for anybody."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Run cycles while this process leads, until `stopping` is set."""
        await self.waking.repeat(self.turn, stopping)

    async def turn(self) -> bool:
        """Run one cycle, if this process leads; return whether the next one should follow."""
        held = self.lease.held
        if held is None or not self.are_tenants_known():
            return False
        try:
            with CYCLE_DURATION.time():
                report = await self.run_cycle(held)
        except ModelyardError as error:
            logger.warning("scheduling cycle failed", error=error.message)
            return False
        except Exception as error:  # noqa: BLE001 a bug that one cycle meets ends no process
            logger.opt(exception=error).error("scheduling cycle failed")
            return False
        self.offer(report.admitted)
        _tell(report)
        if self.make_room is not None and report.blocked is not None and not report.is_cut:
            await self.make_room(held, report.blocked)
        return report.is_cut


def _tell(report: CycleReport) -> None:
    if not report.is_line_right:
        LINE_MENDS.inc()
        logger.error("line in memory is not the table's; it is read whole again")
    if report.are_counts_mended:
        COUNT_MENDS.inc()
        logger.error("counts of the line were not the table's; all in line were counted anew")
    for kind in OwnerKind:
        WAITING.labels(kind.lower()).set(report.waiting[kind])
    for placement, outcome in report.outcomes:
        PLACEMENTS.labels(placement.head.kind.lower(), outcome).inc()
        logger.info(
            "placement applied",
            owner_kind=placement.head.kind,
            owner_id=placement.head.id,
            node_id=placement.node_id,
            outcome=outcome,
        )
