"""Bugs that the product does not have: each breaks one promise in one place, in tests only.

The checkers have to find each of them, or they would not find the like of it in the product.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final
from zlib import crc32

from typing_extensions import override

from services.chassis.db.lease import HeldLease
from services.chassis.db.relay import OutboxRow, Rows
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.model_registry.domain.model import ModelChanged
from services.scheduler.domain.attempts.attempt import Attempt, AttemptState, AttemptTransitioned
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import JobId, NodeId
from services.scheduler.domain.jobs.job import Job, JobState, StopCause
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.line import Head, Waiting
from services.scheduler.domain.scheduling.shares import Average, Averages
from services.scheduler.use_cases.ports import Fact, LineNews
from services.scheduler.use_cases.scheduling.preempt_jobs import PreemptJobs
from tests.simulation.database import Client, Transaction
from tests.simulation.registry_store import MemoryRegistryTransaction, MemoryVersions
from tests.simulation.scheduler_store import (
    MemoryAttempts,
    MemoryJobs,
    MemoryLine,
    MemoryNodes,
    MemorySystemTransaction,
    MemoryTenantJobs,
    MemoryTransaction,
    MemoryUsage,
)
from tests.simulation.world import FREE, Made


class UncheckedEpochs(Transaction):
    """A holder's transaction asks nobody whether its lease is over."""

    @override
    async def hold(self, lease: HeldLease) -> None:
        self.server.lease = lease


class SkippedRows:
    """An outbox of which each twentieth batch lacks its first row, which is marked all the same."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._batch_count = 0
        self._skipped: list[OutboxRow] = []

    async def unpublished(
        self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
    ) -> Rows:
        rows = await self._client.unpublished(shards, stopped=stopped, rows_max=rows_max)
        self._batch_count += len(rows) > 1
        if len(rows) < 2 or self._batch_count % 20:
            return rows
        self._skipped.append(rows[0])
        return rows[1:]

    async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
        rows, self._skipped = [*self._skipped, *rows], []
        return await self._client.mark(rows, leases)


class FreedWhenAsked(MemoryTenantJobs):
    """A cancelled job's capacity is free before its container has ended."""

    @override
    async def save(self, job: Job) -> None:
        await super().save(job)
        if job.state is JobState.STOPPING and job.node_id is not None:
            await MemoryNodes(self._tx).release(job.node_id, job.spec.resources)


class FreeingTransaction(MemoryTransaction):
    """A transaction with `FreedWhenAsked`."""

    jobs_type = FreedWhenAsked


class FreedAsLost(MemoryNodes):
    """A node that is given up has all its capacity back, before its attempts have ended."""

    @override
    async def save(self, node: Node) -> None:
        await super().save(replace(node, used=Resources()) if node.lost_at else node)


class LosingTransaction(MemorySystemTransaction):
    """A transaction with `FreedAsLost`."""

    nodes_type = FreedAsLost


class MixingNodes(MemoryNodes):
    """Nobody knows that a node takes one tenant's work at a time."""

    @override
    async def at_work(self, *, silence_max: timedelta) -> Sequence[Node]:
        nodes = await super().at_work(silence_max=silence_max)
        return [replace(node, allows_mixed_tenants=True) for node in nodes]

    @override
    async def get(self, node_id: NodeId) -> Node:
        return replace(await super().get(node_id), allows_mixed_tenants=True)


class MixingTransaction(MemorySystemTransaction):
    """A transaction with `MixingNodes`."""

    nodes_type = MixingNodes


class MistakenWish(MemoryTenantJobs):
    """A job that is cancelled stops as if it were to come back."""

    @override
    async def save(self, job: Job) -> None:
        if job.stop is not None and job.stop.cause is StopCause.CANCELLED:
            job = replace(job, stop=replace(job.stop, cause=StopCause.SUSPENDED))
        await super().save(job)


class MistakenTransaction(MemoryTransaction):
    """A transaction with `MistakenWish`."""

    jobs_type = MistakenWish


class LineFromItsEnd(MemoryLine):
    """Of two with one priority, who came last is first."""

    @override
    async def everybody(self) -> AsyncIterator[Sequence[Waiting]]:
        async for some in super().everybody():
            yield [_turned(waiting) for waiting in some]

    @override
    async def take_news(self, *, limit: int, with_totals: bool) -> LineNews:
        news = await super().take_news(limit=limit, with_totals=False)
        changes = [
            replace(each, waiting=None if each.waiting is None else _turned(each.waiting))
            for each in news.changes
        ]
        return replace(news, changes=changes)


def _turned(waiting: Waiting) -> Waiting:
    return replace(waiting, head=replace(waiting.head, queue_seq=-waiting.head.queue_seq))


class ForgottenChanges(MemoryLine):
    """Of each fifth job nobody hears that it has changed; nor are totals ever compared."""

    @override
    async def take_news(self, *, limit: int, with_totals: bool) -> LineNews:
        news = await super().take_news(limit=limit, with_totals=False)
        told = [each for each in news.changes if crc32(each.head_id.encode()) % 5]
        return replace(news, changes=told)


class DeafTransaction(MemorySystemTransaction):
    """A transaction with `ForgottenChanges`."""

    line_type = ForgottenChanges


class HeedlessLine(MemoryLine):
    """No queue is paused."""

    @override
    async def paused(self) -> Collection[tuple[TenantId, str]]:
        return ()


class HeedlessTransaction(MemorySystemTransaction):
    """A transaction with `HeedlessLine`."""

    line_type = HeedlessLine


class Grudge(MemoryUsage):
    """What one tenant is said to have held lately is far more than there is."""

    @override
    async def averages(self) -> Averages:
        kept = await super().averages()
        return replace(kept, by_tenant={**kept.by_tenant, FREE: Average(cpu_millicores=1e9)})


class GrudgingTransaction(MemorySystemTransaction):
    """A transaction with `Grudge`."""

    usage_type = Grudge


class NoPause(MemoryJobs):
    """A job is tried again at once."""

    @override
    async def save(self, job: Job) -> None:
        await super().save(replace(job, retry_at=None))


class ForgottenNeeds(MemoryJobs):
    """What new jobs wait for is not kept."""

    @override
    async def add(self, jobs: Sequence[Job]) -> None:
        await super().add([replace(job, needs=()) for job in jobs])


class ForgetfulTransaction(MemorySystemTransaction):
    """A transaction with `ForgottenNeeds`."""

    jobs_type = ForgottenNeeds


class MissedEnds(MemoryJobs):
    """Only ends in success are seen by those that wait for them."""

    @override
    async def releasable(self, *, limit: int) -> Sequence[JobId]:
        found = await self.some(await super().releasable(limit=limit))
        needed = {each.job_id for job in found for each in job.needs}
        states = {job.id: job.state for job in await self.some(sorted(needed))}
        return [
            job.id
            for job in found
            if any(states[each.job_id] is JobState.SUCCEEDED for each in job.needs)
        ]


class MissingTransaction(MemorySystemTransaction):
    """A transaction with `MissedEnds`."""

    jobs_type = MissedEnds


class TasksThatFit(MemoryAttempts):
    """Of several tasks those begin for which there is room, and the last one never has any."""

    @override
    async def add(self, attempts: Sequence[Attempt]) -> None:
        lasts = [each for each in attempts if each.task > 0 and each.task == each.task_count - 1]
        await super().add([each for each in attempts if each not in lasts])


class PartialTransaction(MemorySystemTransaction):
    """A transaction with `TasksThatFit`."""

    attempts_type = TasksThatFit


class ForgottenSplits(MemoryJobs):
    """That an element was split off its array is not kept."""

    @override
    async def save(self, job: Job) -> None:
        rest_count = job.spec.array_size if job.is_array else job.rest_count
        await super().save(replace(job, rest_count=rest_count))


class SplittingTransaction(MemorySystemTransaction):
    """A transaction with `ForgottenSplits`."""

    jobs_type = ForgottenSplits


class UntoldLoss(MemorySystemTransaction):
    """That an attempt is lost is recorded, and nobody is told."""

    @override
    def emit(self, fact: Fact) -> None:
        is_loss = isinstance(fact, AttemptTransitioned) and fact.attempt.state is AttemptState.LOST
        if not is_loss:
            super().emit(fact)


class MisledTransaction(MemorySystemTransaction):
    """A transaction with `LineFromItsEnd`."""

    line_type = LineFromItsEnd


class HastyTransaction(MemorySystemTransaction):
    """A transaction with `NoPause`."""

    jobs_type = NoPause


class PreemptsEquals(PreemptJobs):
    """Jobs of the same priority make room, too."""

    @override
    async def _as_submitted(self, head: Head) -> Head | None:
        if (asked := await super()._as_submitted(head)) is None:
            return None
        return replace(asked, shape=replace(asked.shape, priority=asked.shape.priority + 1))


class NoInbox(MemoryRegistryTransaction):
    """The inbox is off: events are not remembered."""

    @override
    async def claim_event(self, event_id: str) -> None:
        pass


class ForgottenOutputs(MemoryVersions):
    """No constraint knows which outputs are versions already."""

    @override
    async def has_output(self, *, job_id: str, output_name: str) -> bool:
        return False


class NoConstraint(MemoryRegistryTransaction):
    """The unique constraint on outputs is off."""

    def __init__(
        self, tx: Transaction, event_of: Callable[[TenantId, ModelChanged], NewEvent]
    ) -> None:
        super().__init__(tx, event_of)
        self.versions = ForgottenOutputs(tx, self._tenant)


class NothingOnce(NoInbox, NoConstraint):
    """Neither inbox nor constraint."""


PLANTED: Final[Mapping[str, Made]] = {
    "epoch check off": Made(transaction=UncheckedEpochs),
    "relay skips a row": Made(outbox=SkippedRows),
    "capacity freed early": Made(tenant_transaction=FreeingTransaction),
    "inbox off": Made(registry_transaction=NothingOnce),
    "lost node's capacity freed early": Made(system_transaction=LosingTransaction),
    "nodes mix tenants that must not": Made(system_transaction=MixingTransaction),
    "a cancelled job comes back": Made(tenant_transaction=MistakenTransaction),
    "the line is read from its end": Made(system_transaction=MisledTransaction),
    "changes in the line are not told": Made(system_transaction=DeafTransaction),
    "a paused queue's jobs are admitted": Made(system_transaction=HeedlessTransaction),
    "a tenant's share is not what it has": Made(system_transaction=GrudgingTransaction),
    "retries know no pause": Made(system_transaction=HastyTransaction),
    "what a job waits for is forgotten": Made(system_transaction=ForgetfulTransaction),
    "a needed job's failure is missed": Made(system_transaction=MissingTransaction),
    "tasks that fit begin without the others": Made(system_transaction=PartialTransaction),
    "an array's splits are forgotten": Made(system_transaction=SplittingTransaction),
    "equal priorities are preempted": Made(preempt_jobs=PreemptsEquals),
    "a loss is not told": Made(system_transaction=UntoldLoss),
    "runner stops nothing when it is cut off": Made(isolation_stop_after=timedelta(days=1)),
}
HARMLESS: Final[Mapping[str, Made]] = {
    "only the inbox off": Made(registry_transaction=NoInbox),
    "only the constraint off": Made(registry_transaction=NoConstraint),
}
"""Either of the two keeps the promise alone."""
