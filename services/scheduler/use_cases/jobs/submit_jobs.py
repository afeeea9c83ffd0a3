"""Take jobs in, many in one commit."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.chassis.errors import ModelyardError, NotFound
from services.chassis.ids import Ids
from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.dependencies import States, needs_of
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobDependency, JobSpec
from services.scheduler.use_cases.jobs.checks import JobChecks
from services.scheduler.use_cases.jobs.shown import counted
from services.scheduler.use_cases.ports import (
    Repeatable,
    RequestKey,
    SystemTransaction,
    UnitOfWork,
)

METHOD: Final = "SubmitJob"

Answer = Job | ModelyardError
"""The queued job, or for a repeated request the one that the first made; or why there is none."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What one caller asks for."""

    tenant: TenantId
    spec: JobSpec
    key: RequestKey | None
    traceparent: str | None


@dataclass(slots=True)
class _Case:
    """A submission on its way to an answer."""

    asked: Submission
    job_id: JobId
    answer: Answer | None = None
    needs: tuple[JobDependency, ...] = ()

    @property
    def repeatable(self) -> Repeatable | None:
        key = self.asked.key
        return None if key is None else Repeatable(self.asked.tenant, key, makes=self.job_id)

    def refuse_by(self, check: Callable[[], None]) -> None:
        try:
            check()
        except ModelyardError as refusal:
            self.answer = refusal


@dataclass(frozen=True, slots=True)
class SubmitJobs:
    """Queue jobs: rows, events and idempotency rows in one commit, before the answers.

    The named exception to one request, one transaction (ADR-0023). Each submission is answered for
    itself; what is raised concerns all of them, and then none is queued. No two of one call have
    the same tenant and key.
    """

    unit_of_work: UnitOfWork
    ids: Ids
    checks: JobChecks

    async def __call__(self, asked: Sequence[Submission]) -> Sequence[Answer]:
        """Return an answer for each, in their order."""
        cases = [_Case(each, JobId(self.ids.new("job"))) for each in asked]
        # 1. Each description is within its bounds.
        for case in cases:
            case.refuse_by(case.asked.spec.check)
        if _open(cases):
            async with self.unit_of_work.system(because="submissions share a commit") as tx:
                await self._take_in(tx, _open(cases))
        return [case.answer for case in cases if case.answer is not None]

    async def _take_in(self, tx: SystemTransaction, cases: Sequence[_Case]) -> None:
        # 2. A repeated request is answered as before, however full the line is by now.
        await self._answer_repeated(tx, cases)
        fresh = _open(cases)
        # 3. Its tenant may start it; there are an image and a machine for it, what it waits for can
        #    come, and there is a place in line.
        for case in fresh:
            case.refuse_by(partial(self.checks.check_allowed, case.asked.tenant, case.asked.spec))
        await self._look_at_needed(tx, _open(fresh))
        await self._refuse_too_large(tx, _open(fresh))
        await self._refuse_without_place(tx, _open(fresh))
        # 4. Last in line.
        jobs = []
        for case in _open(fresh):
            job, queued = Job.queued(
                case.job_id,
                case.asked.tenant,
                case.asked.spec,
                at=tx.now,
                traceparent=case.asked.traceparent,
                needs=case.needs,
            )
            jobs.append(job)
            case.answer = job
            tx.emit(queued)
        await tx.jobs.add(jobs)
        # 5. What was refused may be asked again with its key.
        refused = [case for case in fresh if isinstance(case.answer, ModelyardError)]
        await tx.answers.forget(METHOD, _repeatable(refused))

    async def _answer_repeated(self, tx: SystemTransaction, cases: Sequence[_Case]) -> None:
        keyed = [case for case in cases if case.repeatable is not None]
        found = await tx.answers.remember(METHOD, _repeatable(keyed))
        made = [JobId(answer) for answer in found if isinstance(answer, str)]
        jobs: dict[JobId, Job] = {}
        for job in await tx.jobs.some(made):
            [jobs[job.id]] = await counted([job], partial(tx.jobs.element_counts, job.tenant))
        for case, answer in zip(keyed, found, strict=True):
            if isinstance(answer, str):
                case.answer = jobs.get(JobId(answer)) or NotFound("job", answer)
            else:
                case.answer = answer

    async def _look_at_needed(self, tx: SystemTransaction, cases: Sequence[_Case]) -> None:
        needed: defaultdict[TenantId, set[JobId]] = defaultdict(set)
        for case in cases:
            if after := case.asked.spec.after:
                needed[case.asked.tenant] |= {each.job_id for each in after}
        for tenant, job_ids in needed.items():
            states = await tx.jobs.states(tenant, sorted(job_ids))
            # One that ends from here on leaves a row that the next pass sees (ADR-0036).
            for case in cases:
                if case.asked.tenant == tenant:
                    case.refuse_by(partial(_find_needs, case, states))

    async def _refuse_too_large(self, tx: SystemTransaction, cases: Sequence[_Case]) -> None:
        for resources in {case.asked.spec.resources for case in cases}:
            reach = await tx.nodes.reach_for(resources)
            for case in cases:
                if case.asked.spec.resources == resources:
                    case.refuse_by(partial(self.checks.check_reach, reach, case.asked.spec))

    async def _refuse_without_place(self, tx: SystemTransaction, cases: Sequence[_Case]) -> None:
        tenants = sorted({case.asked.tenant for case in cases})
        in_line = Counter(await tx.line.queued_counts(tenants))
        for case in cases:
            tenant = case.asked.tenant
            case.refuse_by(partial(self.checks.check_place, tenant, queued_count=in_line[tenant]))
            in_line[tenant] += 1


def _find_needs(case: _Case, states: States) -> None:
    case.needs = needs_of(case.asked.spec, states)


def _open(cases: Sequence[_Case]) -> list[_Case]:
    return [case for case in cases if case.answer is None]


def _repeatable(cases: Sequence[_Case]) -> list[Repeatable]:
    return [each for case in cases if (each := case.repeatable) is not None]
