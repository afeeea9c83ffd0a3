"""JobService: translates, calls one use case, translates back."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from modelyard.scheduler.v1 import job_events_pb2, job_explanation_pb2, job_pb2, job_stats_pb2
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceServicer
from typing_extensions import override

from services.chassis.errors import InvalidArgument
from services.chassis.rpc.context import Context, principal
from services.chassis.telemetry.tracing import current_traceparent, trace_id_of
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt
from services.scheduler.domain.attempts.ending import AttemptEnding
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.array import all_counts
from services.scheduler.domain.jobs.job import Job, JobProgress, JobState
from services.scheduler.domain.jobs.retries import JobRetries, retry_reasons
from services.scheduler.domain.jobs.spec import (
    DependencyCondition,
    JobDependency,
    JobInput,
    JobOutput,
    JobSpec,
    JobTimeouts,
)
from services.scheduler.domain.jobs.stats import WINDOW_DEFAULT, JobStats, JobTimes
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE
from services.scheduler.domain.scheduling.explanation import Explanation
from services.scheduler.entrypoints.grpc.messages import (
    basis_to_pb,
    duration_from_pb,
    duration_to_pb,
    element_to_pb,
    failure_to_pb,
    name_from_pb,
    page_from_pb,
    request_key_of,
    resources_from_pb,
    resources_to_pb,
    timestamp_to_pb,
)
from services.scheduler.telemetry import JOBS_SUBMITTED
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.check_job import CheckJob
from services.scheduler.use_cases.jobs.explain_job import ExplainJob
from services.scheduler.use_cases.jobs.get_job import GetJob
from services.scheduler.use_cases.jobs.get_stats import GetStats
from services.scheduler.use_cases.jobs.list_attempts import ListAttempts
from services.scheduler.use_cases.jobs.list_jobs import ListJobs
from services.scheduler.use_cases.ports import RequestKey


class SubmitOne(Protocol):
    """Takes one job in."""

    async def __call__(
        self, tenant: TenantId, spec: JobSpec, *, key: RequestKey | None, traceparent: str | None
    ) -> Job:
        """Return the queued job, or for a repeated request the job that the first one made."""
        ...


@dataclass(frozen=True, slots=True)
class JobRpcs(JobServiceServicer):
    """Answers `modelyard.scheduler.v1.JobService` for the caller's tenant."""

    submit_job: SubmitOne
    check_job: CheckJob
    get_job: GetJob
    explain_job: ExplainJob
    list_jobs: ListJobs
    list_attempts: ListAttempts
    get_stats: GetStats
    cancel_job: CancelJob

    @override
    async def SubmitJob(
        self, request: pb.SubmitJobRequest, context: Context
    ) -> pb.SubmitJobResponse:
        """Queue a job."""
        job = await self.submit_job(
            principal().tenant,
            spec_from_pb(request.spec),
            key=request_key_of(context, request),
            traceparent=current_traceparent(),
        )
        JOBS_SUBMITTED.inc()
        return pb.SubmitJobResponse(job=job_to_pb(job))

    @override
    async def CheckJob(self, request: pb.CheckJobRequest, context: Context) -> pb.CheckJobResponse:
        """Refuse what a submission would be refused for."""
        await self.check_job(principal().tenant, spec_from_pb(request.spec))
        return pb.CheckJobResponse()

    @override
    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """Show one job."""
        job = await self.get_job(
            principal().tenant, JobId(name_from_pb(request.job_id, kind="job"))
        )
        return pb.GetJobResponse(job=job_to_pb(job))

    @override
    async def ExplainJob(
        self, request: pb.ExplainJobRequest, context: Context
    ) -> pb.ExplainJobResponse:
        """Say what holds a job."""
        explanation = await self.explain_job(
            principal().tenant, JobId(name_from_pb(request.job_id, kind="job"))
        )
        return pb.ExplainJobResponse(explanation=explanation_to_pb(explanation))

    @override
    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Show the tenant's jobs."""
        page = await self.list_jobs(
            principal().tenant,
            page_from_pb(request.page),
            states=states_from_pb(request.states),
            labels=dict(request.labels),
            queue=request.queue or None,
            array_id=JobId(request.array_id) if request.array_id else None,
            array_index=request.array_index if request.HasField("array_index") else None,
        )
        response = pb.ListJobsResponse(jobs=[job_to_pb(job) for job in page.items])
        response.page.next_page_token = page.next_token
        return response

    @override
    async def ListAttempts(
        self, request: pb.ListAttemptsRequest, context: Context
    ) -> pb.ListAttemptsResponse:
        """Show a job's attempts."""
        page = await self.list_attempts(
            principal().tenant,
            JobId(name_from_pb(request.job_id, kind="job")),
            page_from_pb(request.page),
        )
        response = pb.ListAttemptsResponse(attempts=[attempt_to_pb(each) for each in page.items])
        response.page.next_page_token = page.next_token
        return response

    @override
    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """Show how the tenant's jobs have fared."""
        window = WINDOW_DEFAULT
        if request.HasField("window"):
            window = duration_from_pb(request.window, field="window")
        stats = await self.get_stats(principal().tenant, window=window)
        return pb.GetStatsResponse(stats=stats_to_pb(stats))

    @override
    async def CancelJob(
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        """Ask for a job's end."""
        job = await self.cancel_job(
            principal().tenant,
            JobId(name_from_pb(request.job_id, kind="job")),
            reason=request.reason,
        )
        return pb.CancelJobResponse(job=job_to_pb(job))


def spec_from_pb(spec: job_pb2.JobSpec) -> JobSpec:
    """Return what is asked for; absent resources, time-outs and queue are the defaults."""
    return JobSpec(
        name=spec.name,
        image=spec.image,
        command=tuple(spec.command),
        env=dict(spec.env),
        source_digest=spec.source_digest,
        inputs=tuple(JobInput(given.name, given.digest) for given in spec.inputs),
        outputs=tuple(JobOutput(left.name, left.path, left.register_as) for left in spec.outputs),
        resources=resources_from_pb(spec.resources if spec.HasField("resources") else None),
        timeouts=timeouts_from_pb(spec.timeouts),
        retries=retries_from_pb(spec.retries),
        priority=spec.priority,
        labels=dict(spec.labels),
        queue=spec.queue or DEFAULT_QUEUE,
        after=tuple(
            dependency_from_pb(needed, field=f"spec.after[{place}]")
            for place, needed in enumerate(spec.after)
        ),
        task_count=spec.task_count or 1,
        array_size=spec.array_size,
    )


def dependency_from_pb(needed: job_pb2.JobDependency, *, field: str) -> JobDependency:
    """Return what is to be waited for; raises InvalidArgument for no condition of ours."""
    known = {condition_to_pb(condition): condition for condition in DependencyCondition}
    if needed.condition not in known:
        raise InvalidArgument(f"{field}.condition", "must be SUCCESS or END")
    return JobDependency(JobId(needed.job_id), known[needed.condition])


def timeouts_from_pb(timeouts: job_pb2.JobTimeouts) -> JobTimeouts:
    """Return the time-outs that are given, and the service's for those that are absent."""
    given = {
        name: duration_from_pb(getattr(timeouts, name), field=f"spec.timeouts.{name}")
        for name in ("queue", "start", "run", "stop_grace")
        if timeouts.HasField(name)
    }
    return JobTimeouts(**given)


def retries_from_pb(retries: job_pb2.JobRetries) -> JobRetries:
    """Return when to try again; an absent count is the service's."""
    return JobRetries(
        retries.count_max if retries.HasField("count_max") else JobRetries().count_max,
        reasons=retry_reasons(retries.reasons, field="spec.retries.reasons"),
        exit_codes=tuple(retries.exit_codes),
    )


def explanation_to_pb(explanation: Explanation) -> job_explanation_pb2.JobExplanation:
    """Return why a job is where it is, as of the job's transaction."""
    job, reason = explanation.job, explanation.reason
    return job_explanation_pb2.JobExplanation(
        job_id=job.id,
        state=job_pb2.JobState.Value(f"JOB_STATE_{job.state}"),
        hold=job_explanation_pb2.JobHold.Value(f"JOB_HOLD_{reason.hold}"),
        because=reason.because,
        helped_by=reason.helped_by,
        jobs_before=explanation.jobs_before,
        estimated_start_at=timestamp_to_pb(explanation.estimated_start_at),
        estimate_basis=basis_to_pb(reason.basis),
    )


def states_from_pb(states: Iterable[int]) -> list[JobState]:
    """Return the states that are asked for; raises InvalidArgument for none of ours."""
    known = {int(job_pb2.JobState.Value(f"JOB_STATE_{state}")): state for state in JobState}
    asked = []
    for place, state in enumerate(states):
        if state not in known:
            raise InvalidArgument(f"states[{place}]", "is no job state")
        asked.append(known[state])
    return asked


def job_to_pb(job: Job) -> job_pb2.Job:
    """Return a job as callers see it."""
    return job_pb2.Job(
        id=job.id,
        spec=spec_to_pb(job.spec),
        state=job_pb2.JobState.Value(f"JOB_STATE_{job.state}"),
        reason=job.reason,
        version=job.version,
        attempt_number=job.attempt_number,
        attempt_id=job.attempt_id or "",
        node_id=job.node_id or "",
        progress=progress_to_pb(job.progress) if job.progress else None,
        failure=failure_to_pb(job.failure) if job.failure else None,
        created_at=timestamp_to_pb(job.created_at),
        started_at=timestamp_to_pb(job.started_at),
        ended_at=timestamp_to_pb(job.ended_at),
        trace_id=trace_id_of(job.traceparent),
        retry_count=job.retry_count,
        retry_at=timestamp_to_pb(job.retry_at),
        needs=[dependency_to_pb(needed) for needed in job.needs],
        array=array_to_pb(job) if job.is_array else None,
        element=element_to_pb(job.element),
        aged_by=job.aged_by,
    )


def array_to_pb(array: Job) -> job_pb2.JobArray:
    """Return how an array's elements stand."""
    counts = all_counts(array, array.element_counts)
    return job_pb2.JobArray(
        element_counts=[
            job_pb2.ElementCount(
                state=job_pb2.JobState.Value(f"JOB_STATE_{state}"), element_count=counts[state]
            )
            for state in JobState
            if state in counts
        ]
    )


def attempt_to_pb(attempt: Attempt) -> pb.JobAttempt:
    """Return one try to run a job."""
    return pb.JobAttempt(
        id=attempt.id,
        number=attempt.number,
        state=job_events_pb2.AttemptState.Value(f"ATTEMPT_STATE_{attempt.state}"),
        node_id=attempt.node_id,
        created_at=timestamp_to_pb(attempt.created_at),
        started_at=timestamp_to_pb(attempt.started_at),
        ended_at=timestamp_to_pb(attempt.ended_at),
        exit_code=attempt.exit_code,
        ending=ending_to_pb(attempt.ending) if attempt.ending else None,
        task=attempt.task,
    )


def ending_to_pb(ending: AttemptEnding) -> pb.AttemptEnding:
    """Return why an attempt ended."""
    return pb.AttemptEnding(reason=ending.reason, message=ending.message)


def stats_to_pb(stats: JobStats) -> job_stats_pb2.JobStats:
    """Return how a tenant's jobs have fared."""
    return job_stats_pb2.JobStats(
        since=timestamp_to_pb(stats.since),
        until=timestamp_to_pb(stats.until),
        waits=[
            job_stats_pb2.JobWaits(
                queue=group.queue, priority=group.priority, waited=times_to_pb(group.waited)
            )
            for group in stats.waits
        ],
        ends=[
            job_stats_pb2.JobEnds(
                state=job_pb2.JobState.Value(f"JOB_STATE_{group.state}"),
                job_count=group.job_count,
                ran=times_to_pb(group.ran),
            )
            for group in stats.ends
        ],
        is_whole=stats.is_whole,
    )


def times_to_pb(times: JobTimes) -> job_stats_pb2.JobTimes:
    """Return how long something took jobs."""
    return job_stats_pb2.JobTimes(
        job_count=times.job_count, p50=duration_to_pb(times.p50), p99=duration_to_pb(times.p99)
    )


def spec_to_pb(spec: JobSpec) -> job_pb2.JobSpec:
    """Return a spec as it was asked for, with the defaults that were filled in."""
    return job_pb2.JobSpec(
        name=spec.name,
        image=spec.image,
        command=spec.command,
        env=spec.env,
        source_digest=spec.source_digest,
        inputs=[job_pb2.JobInput(name=each.name, digest=each.digest) for each in spec.inputs],
        outputs=[
            job_pb2.JobOutput(name=each.name, path=each.path, register_as=each.register_as)
            for each in spec.outputs
        ],
        resources=resources_to_pb(spec.resources),
        timeouts=job_pb2.JobTimeouts(
            queue=duration_to_pb(spec.timeouts.queue),
            start=duration_to_pb(spec.timeouts.start),
            run=duration_to_pb(spec.timeouts.run),
            stop_grace=duration_to_pb(spec.timeouts.stop_grace),
        ),
        retries=job_pb2.JobRetries(
            count_max=spec.retries.count_max,
            reasons=spec.retries.reasons,
            exit_codes=spec.retries.exit_codes,
        ),
        priority=spec.priority,
        labels=spec.labels,
        queue=spec.queue,
        after=[dependency_to_pb(needed) for needed in spec.after],
        task_count=spec.task_count,
        array_size=spec.array_size,
    )


def dependency_to_pb(needed: JobDependency) -> job_pb2.JobDependency:
    """Return what is waited for."""
    return job_pb2.JobDependency(job_id=needed.job_id, condition=condition_to_pb(needed.condition))


def condition_to_pb(
    condition: DependencyCondition,
) -> job_pb2.JobDependencyCondition.ValueType:
    """Return how a job has to end for who waits for it."""
    return job_pb2.JobDependencyCondition.Value(f"JOB_DEPENDENCY_CONDITION_{condition}")


def progress_to_pb(progress: JobProgress) -> job_pb2.JobProgress:
    """Return the job's last word about itself."""
    return job_pb2.JobProgress(
        fraction=progress.fraction,
        message=progress.message,
        metrics=progress.metrics,
        reported_at=timestamp_to_pb(progress.reported_at),
    )
