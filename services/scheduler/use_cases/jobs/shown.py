"""Jobs as their tenant sees them.

Those in line know what they wait for, and arrays how their elements stand.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from services.scheduler.domain.fleet.reach import FleetDoors
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.array import ElementCounts
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants.tenant import Tenant
from services.scheduler.use_cases.ports import Transaction

CountsElements = Callable[[Sequence[JobId]], Awaitable[Mapping[JobId, ElementCounts]]]
"""Tells of each array how many of its elements are jobs in each state."""
_UNASKED = FleetDoors(node_count=0)


async def shown(
    tx: Transaction, jobs: Sequence[Job], *, of: Tenant, node_silence_max: timedelta
) -> Sequence[Job]:
    """Return jobs that this transaction has read with what they wait for: a question a size."""
    jobs = await counted(jobs, tx.jobs.element_counts)
    is_any_queued = any(job.state is JobState.QUEUED for job in jobs)
    pauses = await tx.queues.pauses() if is_any_queued else {}
    booked = await tx.jobs.booked() if of.plan.running_max else Resources()
    sizes = {job.spec.resources for job in jobs if job.state is JobState.QUEUED}
    doors = {
        size: await tx.fleet.doors_for(size, tenant=of.id, silence_max=node_silence_max)
        for size in sizes
    }
    return [
        of.job_shown(
            job,
            booked=booked,
            doors=doors.get(job.spec.resources, _UNASKED),
            pause=pauses.get(job.spec.queue),
        )
        for job in jobs
    ]


async def counted(jobs: Sequence[Job], count: CountsElements) -> Sequence[Job]:
    """Return jobs, of which arrays know how many of their elements are in which state."""
    array_ids = [job.id for job in jobs if job.has_elements]
    if not array_ids:
        return jobs
    counts = await count(array_ids)
    return [
        replace(job, element_counts=counts[job.id]) if job.id in counts else job for job in jobs
    ]
