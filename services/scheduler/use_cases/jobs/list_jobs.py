"""Show a tenant's jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.spec import NO_LABELS, check_labels
from services.scheduler.domain.queues.queue import check_queue_name
from services.scheduler.use_cases.jobs.shown import shown
from services.scheduler.use_cases.paging import Page, PageRequest
from services.scheduler.use_cases.ports import Tenants, UnitOfWork


@dataclass(frozen=True, slots=True)
class ListJobs:
    """Show a tenant's jobs, newest first, a page at a time."""

    unit_of_work: UnitOfWork
    tenants: Tenants
    node_silence_max: timedelta

    async def __call__(
        self,
        tenant: TenantId,
        page: PageRequest,
        *,
        states: Sequence[JobState] = (),
        labels: Mapping[str, str] = NO_LABELS,
        queue: str | None = None,
        array_id: JobId | None = None,
        array_index: int | None = None,
    ) -> Page[Job]:
        """Return a page of jobs in one of these states, no states: any, with all of these labels.

        And of this queue, None: any; of this array its elements, or the one of this index, None:
        all jobs that are no elements. Raises InvalidArgument for labels, a queue and an index that
        no job may have.
        """
        if array_index is not None and array_id is None:
            raise InvalidArgument("array_index", "is one of an array, which is to be named, too")
        check_labels(labels, field="labels")
        if queue is not None:
            check_queue_name(queue, field="queue")
        known = self.tenants.get(tenant)
        async with self.unit_of_work(tenant) as tx:
            jobs = await tx.jobs.newest(
                before=JobId(page.after) if page.after else None,
                states=states,
                labels=labels,
                queue=queue,
                array_id=array_id,
                array_index=array_index,
                limit=page.size + 1,
            )
            found = await shown(tx, jobs, of=known, node_silence_max=self.node_silence_max)
        return Page.of(found, page.size, lambda job: job.id)
