"""`/v1/jobs`: submit, check, show, list, cancel."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, cast

from fastapi import APIRouter, Query, Request, Response
from modelyard.scheduler.v1 import job_events_pb2 as events_pb
from modelyard.scheduler.v1 import job_explanation_pb2 as explanation_pb
from modelyard.scheduler.v1 import job_pb2 as pb
from modelyard.scheduler.v1 import job_service_pb2 as service_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import (
    QUEUE,
    Body,
    Digest,
    Id,
    IdempotencyKey,
    ImageName,
    Length,
    Resources,
    duration_pb,
    instant,
    instant_if_set,
    keys_as,
)
from services.api_gateway.entrypoints.rest.holds import EstimateBasis, Hold, basis_of, hold_of
from services.api_gateway.entrypoints.rest.paging import PageSize, PageToken, page_request
from services.chassis.errors import InvalidArgument

JobState = Literal[
    "QUEUED",
    "ADMITTED",
    "STARTING",
    "RUNNING",
    "STOPPING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
]
AttemptState = Literal["CREATED", "STARTED", "EXITED", "LOST", "CLOSED"]
Name = Annotated[str, Field(min_length=1, max_length=128)]
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Of an input or output: it becomes a folder's name."""
LABEL: Final = r"^[a-z0-9][a-z0-9._/-]{0,62}$"
Labels = Annotated[
    dict[Annotated[str, Field(pattern=LABEL)], Annotated[str, Field(max_length=256)]],
    Field(max_length=32, json_schema_extra=keys_as(LABEL, length_max=63)),
]
LabelSought = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,62}=.{0,256}$")]
VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
Variables = Annotated[
    dict[
        Annotated[str, Field(pattern=VARIABLE, max_length=128)],
        Annotated[str, Field(max_length=32_768)],
    ],
    Field(
        max_length=128,
        description="32 KiB together at most.",
        json_schema_extra=keys_as(VARIABLE, length_max=128),
    ),
]
RetryReason = Literal["killed", "out_of_memory", "outputs", "run_timeout"]
JOB_ID: Final = r"^[a-z0-9_-]{1,64}$"
ARRAY_SIZE_MAX: Final = 10_000
Condition = Literal["SUCCESS", "END"]
_STATE_PREFIX = "JOB_STATE_"
_CONDITION_PREFIX: Final = "JOB_DEPENDENCY_CONDITION_"
_TIMEOUTS: Final = ("queue", "start", "run", "stop_grace")


class JobInput(Body):
    """Bytes that the job reads at `$MODELYARD_INPUTS/<name>`."""

    name: PartName
    digest: Digest


class JobOutput(Body):
    """A file or folder under `$MODELYARD_OUTPUTS`, collected after exit code 0."""

    name: PartName
    path: str = Field(min_length=1, max_length=512)
    register_as: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9._-]{1,128})?$",
        description="Model that it becomes a version of.",
    )


class JobTimeouts(Body):
    """Bounds on a job's phases, as ISO 8601 durations."""

    queue: Length | None = Field(
        default=None,
        ge=timedelta(seconds=1),
        le=timedelta(days=30),
        description="In line, the pause before a retry and the wait for other jobs not counted: "
        "1 second to 30 days; absent: however long.",
    )
    start: Length | None = Field(
        default=None,
        ge=timedelta(seconds=1),
        le=timedelta(days=1),
        description="From its admission to its first instruction: 1 second to 1 day; absent: as "
        "long as its node tries.",
    )
    run: Length | None = Field(
        default=None,
        ge=timedelta(seconds=1),
        le=timedelta(days=7),
        description="From its start to its end: 1 second to 7 days; absent: 24 hours.",
    )
    stop_grace: Length | None = Field(
        default=None,
        ge=timedelta(0),
        le=timedelta(minutes=10),
        description="From the request to stop until it is killed: 10 minutes at most; absent: "
        "10 seconds.",
    )

    def to_pb(self) -> pb.JobTimeouts:
        """Return the protobuf form; what is absent stays absent."""
        given = {name: length for name in _TIMEOUTS if (length := getattr(self, name)) is not None}
        return pb.JobTimeouts(**{name: duration_pb(length) for name, length in given.items()})

    @staticmethod
    def from_pb(timeouts: pb.JobTimeouts) -> "JobTimeouts":
        """Return the JSON form."""
        return JobTimeouts.model_construct(
            **{
                name: getattr(timeouts, name).ToTimedelta() if timeouts.HasField(name) else None
                for name in _TIMEOUTS
            }
        )


class JobRetries(Body):
    """When a job is tried again: after the platform's own failures always, else as said here."""

    count_max: int = Field(default=3, ge=0, le=10, description="After its first attempt; 0: never.")
    reasons: list[RetryReason] = Field(
        default_factory=list, max_length=4, description="Further failures worth another try."
    )
    exit_codes: list[Annotated[int, Field(ge=1, le=255)]] = Field(
        default_factory=list,
        max_length=32,
        description="The program's own that mean that another try may succeed.",
    )

    def to_pb(self) -> pb.JobRetries:
        """Return the protobuf form."""
        return pb.JobRetries(
            count_max=self.count_max, reasons=self.reasons, exit_codes=self.exit_codes
        )

    @staticmethod
    def from_pb(retries: pb.JobRetries) -> "JobRetries":
        """Return the JSON form."""
        return JobRetries.model_construct(
            count_max=retries.count_max,
            reasons=cast("list[RetryReason]", list(retries.reasons)),
            exit_codes=list(retries.exit_codes),
        )


class JobDependency(Body):
    """Another job, which has to end before this one may start."""

    job_id: str = Field(pattern=JOB_ID)
    condition: Condition = Field(
        default="SUCCESS",
        description="How it has to end: if it ends without SUCCESS, the job that waits is "
        "CANCELLED; END: in whatever way.",
    )

    def to_pb(self) -> pb.JobDependency:
        """Return the protobuf form."""
        return pb.JobDependency(
            job_id=self.job_id,
            condition=pb.JobDependencyCondition.Value(_CONDITION_PREFIX + self.condition),
        )

    @staticmethod
    def from_pb(needed: pb.JobDependency) -> "JobDependency":
        """Return the JSON form."""
        condition = pb.JobDependencyCondition.Name(needed.condition)
        return JobDependency.model_construct(
            job_id=needed.job_id,
            condition=cast("Condition", condition.removeprefix(_CONDITION_PREFIX)),
        )


class JobSpec(Body):
    """What to run."""

    name: Name
    image: ImageName
    command: list[Annotated[str, Field(max_length=32_768)]] = Field(
        min_length=1, max_length=256, description="32 KiB together at most."
    )
    env: Variables = Field(default_factory=dict)
    source_digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    inputs: list[JobInput] = Field(default_factory=list, max_length=32)
    outputs: list[JobOutput] = Field(default_factory=list, max_length=32)
    resources: Resources = Field(default_factory=Resources)
    timeouts: JobTimeouts = Field(default_factory=JobTimeouts)
    retries: JobRetries = Field(default_factory=JobRetries)
    priority: int = Field(default=50, ge=0, le=100)
    labels: Labels = Field(default_factory=dict)
    queue: str = Field(
        default="default", pattern=QUEUE, description="What can be paused; it needs no creation."
    )
    after: list[JobDependency] = Field(
        default_factory=list,
        max_length=32,
        description="Jobs that have to end before this one may start; they have to exist.",
    )
    tasks: int = Field(
        default=1,
        ge=1,
        le=512,
        description="How many times it runs at once, each time with `resources`: all of them are "
        "admitted together, or none.",
    )
    array_size: int | None = Field(
        default=None,
        ge=1,
        le=ARRAY_SIZE_MAX,
        description="How often it is to run, each time as a job of its own with another index; "
        "absent: it is no array.",
    )

    def to_pb(self) -> pb.JobSpec:
        """Return the protobuf form."""
        return pb.JobSpec(
            name=self.name,
            image=self.image,
            command=self.command,
            env=self.env,
            source_digest=self.source_digest,
            inputs=[pb.JobInput(name=i.name, digest=i.digest) for i in self.inputs],
            outputs=[
                pb.JobOutput(name=o.name, path=o.path, register_as=o.register_as)
                for o in self.outputs
            ],
            resources=self.resources.to_pb(),
            timeouts=self.timeouts.to_pb(),
            retries=self.retries.to_pb(),
            priority=self.priority,
            labels=self.labels,
            queue=self.queue,
            after=[needed.to_pb() for needed in self.after],
            task_count=self.tasks,
            array_size=self.array_size or 0,
        )

    @staticmethod
    def from_pb(spec: pb.JobSpec) -> "JobSpec":
        """Return the JSON form."""
        return JobSpec.model_construct(
            name=spec.name,
            image=spec.image,
            command=list(spec.command),
            env=dict(spec.env),
            source_digest=spec.source_digest,
            inputs=[JobInput.model_construct(name=i.name, digest=i.digest) for i in spec.inputs],
            outputs=[
                JobOutput.model_construct(name=o.name, path=o.path, register_as=o.register_as)
                for o in spec.outputs
            ],
            resources=Resources.from_pb(spec.resources),
            timeouts=JobTimeouts.from_pb(spec.timeouts),
            retries=JobRetries.from_pb(spec.retries),
            priority=spec.priority,
            labels=dict(spec.labels),
            queue=spec.queue,
            after=[JobDependency.from_pb(needed) for needed in spec.after],
            tasks=spec.task_count or 1,
            array_size=spec.array_size or None,
        )


class JobProgress(BaseModel):
    """What the job last said about itself."""

    fraction: float
    message: str
    metrics: dict[str, float]
    reported_at: datetime | None


class JobFailure(BaseModel):
    """Why a job failed."""

    reason: str
    message: str
    exit_code: int | None
    last_lines: str
    """Of its standard error, of its output where it wrote nothing there; 4 KiB at most."""


class JobArray(BaseModel):
    """How an array's elements stand."""

    elements: dict[JobState, int] = Field(
        description="How many are in which state; those that were not admitted yet are QUEUED."
    )

    @staticmethod
    def from_pb(array: pb.JobArray) -> "JobArray":
        """Return the JSON form."""
        return JobArray.model_construct(
            elements={job_state(each.state): each.element_count for each in array.element_counts}
        )


class ArrayElement(BaseModel):
    """Which element of which array a job is."""

    array_id: str
    index: int = Field(description="From 0 on.")

    @staticmethod
    def from_pb(element: pb.ArrayElement) -> "ArrayElement":
        """Return the JSON form."""
        return ArrayElement.model_construct(array_id=element.array_id, index=element.index)


class Job(BaseModel):
    """A job."""

    id: str
    spec: JobSpec
    state: JobState
    reason: str
    version: int
    attempt_number: int
    attempt_id: str
    node_id: str
    progress: JobProgress | None
    failure: JobFailure | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    trace_id: str
    retry_count: int = Field(description="How many of its attempts were retries.")
    retry_at: datetime | None = Field(
        description="When its last retry could begin; while QUEUED before that it waits for that."
    )
    needs: list[JobDependency] = Field(description="What of `after` it waits for still.")
    array: JobArray | None = Field(
        description="Of an array, which runs nothing itself: what has become of its elements."
    )
    element: ArrayElement | None = Field(
        description="Of one of an array's elements: which one it is."
    )
    aged_by: int = Field(description="What waiting has added to its priority.")

    @staticmethod
    def from_pb(job: pb.Job) -> "Job":
        """Return the JSON form."""
        return Job.model_construct(
            id=job.id,
            spec=JobSpec.from_pb(job.spec),
            state=job_state(job.state),
            reason=job.reason,
            version=job.version,
            attempt_number=job.attempt_number,
            attempt_id=job.attempt_id,
            node_id=job.node_id,
            progress=_progress(job.progress) if job.HasField("progress") else None,
            failure=_failure(job.failure) if job.HasField("failure") else None,
            created_at=instant(job.created_at),
            started_at=instant_if_set(job.started_at),
            ended_at=instant_if_set(job.ended_at),
            trace_id=job.trace_id,
            retry_count=job.retry_count,
            retry_at=instant_if_set(job.retry_at),
            needs=[JobDependency.from_pb(needed) for needed in job.needs],
            array=JobArray.from_pb(job.array) if job.HasField("array") else None,
            element=ArrayElement.from_pb(job.element) if job.HasField("element") else None,
            aged_by=job.aged_by,
        )


class JobExplanation(BaseModel):
    """Why a job is where it is."""

    job_id: str
    state: JobState
    hold: Hold = Field(
        description="The one thing that holds it: its TENANT, its queue that is PAUSED, a "
        "DEPENDENCY that has not ended yet, the BACK_OFF before a retry, the tenant's PLAN, NODES "
        "that take nothing new, RESOURCES that no node has free, the ORDER of those before it; "
        "NONE where it does not stand in line, or it is its turn."
    )
    because: str
    helped_by: str = Field(description="What would help; empty where nothing holds it.")
    jobs_before: int = Field(
        description="Its tenant's, and about as many of others as have turns before."
    )
    estimated_start_at: datetime | None = Field(
        description="If what runs ends when that is expected, at its run time limit at the "
        "latest, and nobody comes between. Null where nobody can tell."
    )
    estimate_basis: EstimateBasis | None = Field(
        description="What tells when that ends: run time LIMITS alone; or, of some of it, HISTORY: "
        "how long the latest jobs of the same name, image, resources and count of tasks took. Null "
        "where nobody can tell."
    )

    @staticmethod
    def from_pb(told: explanation_pb.JobExplanation) -> "JobExplanation":
        """Return the JSON form."""
        return JobExplanation.model_construct(
            job_id=told.job_id,
            state=job_state(told.state),
            hold=hold_of(told.hold),
            because=told.because,
            helped_by=told.helped_by,
            jobs_before=told.jobs_before,
            estimated_start_at=instant_if_set(told.estimated_start_at),
            estimate_basis=basis_of(told.estimate_basis),
        )


class AttemptEnding(BaseModel):
    """Why an attempt ended."""

    reason: str = Field(
        description="What it was stopped for: cancelled, drained, preempted, run_timeout, "
        "suspended, task_failed. Else what became of it: succeeded, or a reason of a job's failure."
    )
    message: str


class JobAttempt(BaseModel):
    """One try to run a job."""

    id: str
    number: int = Field(
        description="1 for the first; those of a job's tasks that began together have it in common."
    )
    state: AttemptState
    node_id: str
    created_at: datetime = Field(description="When capacity was taken on its node.")
    started_at: datetime | None = Field(description="When its first instruction ran.")
    ended_at: datetime | None
    exit_code: int | None = Field(
        description="When its program ended by itself or by a signal, then 128 + signal."
    )
    ending: AttemptEnding | None = Field(
        description="Null where it has not ended, or did before that was kept."
    )
    task: int = Field(description="Which of the job's tasks it runs, from 0 on.")

    @staticmethod
    def from_pb(attempt: service_pb.JobAttempt) -> "JobAttempt":
        """Return the JSON form."""
        state = events_pb.AttemptState.Name(attempt.state)
        return JobAttempt.model_construct(
            id=attempt.id,
            number=attempt.number,
            state=cast("AttemptState", state.removeprefix("ATTEMPT_STATE_")),
            node_id=attempt.node_id,
            created_at=instant(attempt.created_at),
            started_at=instant_if_set(attempt.started_at),
            ended_at=instant_if_set(attempt.ended_at),
            exit_code=attempt.exit_code if attempt.HasField("exit_code") else None,
            ending=_ending(attempt.ending) if attempt.HasField("ending") else None,
            task=attempt.task,
        )


class AttemptPage(BaseModel):
    """One page of a job's attempts, the first one first."""

    attempts: list[JobAttempt]
    next_page_token: str


class JobPage(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[Job]
    next_page_token: str


class Cancellation(Body):
    """Why a job should end."""

    reason: str = Field(default="cancelled by its user", min_length=1, max_length=256)


def jobs_router(edge: Gateway) -> APIRouter:
    """Return the routes on jobs."""
    router = noun_router("/v1/jobs", tag="jobs")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post("", status_code=202, response_model=Job, dependencies=[needs("jobs:write")])
    @burst
    async def submit_job(
        request: Request, response: Response, body: JobSpec, idempotency_key: IdempotencyKey = None
    ) -> Job:
        """Queue a job. The answer's Location is where it can be watched."""
        answer = await gateway(request).jobs.submit(
            service_pb.SubmitJobRequest(spec=body.to_pb()), key=idempotency_key
        )
        response.headers["Location"] = f"/v1/jobs/{answer.job.id}"
        return Job.from_pb(answer.job)

    @router.post("/check", status_code=204, dependencies=[needs("jobs:write")])
    @burst
    async def check_job(request: Request, body: JobSpec) -> None:
        """Answer as a submission would now, but queue nothing: 204, or its very refusal.

        Source and inputs need not be stored yet. No place in line is kept.
        """
        await gateway(request).jobs.check(service_pb.CheckJobRequest(spec=body.to_pb()))

    @router.get("", response_model=JobPage, dependencies=[needs("jobs:read")])
    @burst
    async def list_jobs(  # noqa: PLR0917 the parameters of a query
        request: Request,
        state: Annotated[list[JobState], Query(max_length=8)] = [],  # noqa: B006 FastAPI copies it
        label: Annotated[
            list[LabelSought],
            Query(max_length=32, description="A label as name=value; jobs have all of them."),
        ] = [],  # noqa: B006
        queue: Annotated[str | None, Query(pattern=QUEUE, description="Jobs are of it.")] = None,
        array: Annotated[
            str | None, Query(pattern=JOB_ID, description="Jobs are elements of this array.")
        ] = None,
        index: Annotated[
            int | None,
            Query(ge=0, lt=ARRAY_SIZE_MAX, description="With `array`: which element, from 0 on."),
        ] = None,
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> JobPage:
        """Show the tenant's jobs, newest first; elements of arrays only with `array`."""
        if index is not None and array is None:
            raise InvalidArgument("index", "needs the array whose element it is")
        answer = await gateway(request).jobs.list(
            service_pb.ListJobsRequest(
                page=page_request(page_size, page_token),
                states=[pb.JobState.Value(_STATE_PREFIX + name) for name in state],
                labels=_labels_sought(label),
                queue=queue or "",
                array_id=array or "",
                array_index=index,
            )
        )
        return JobPage(
            jobs=[Job.from_pb(job) for job in answer.jobs],
            next_page_token=answer.page.next_page_token,
        )

    @router.get("/{job_id}", response_model=Job, dependencies=[needs("jobs:read")])
    @burst
    async def get_job(request: Request, job_id: Id) -> Job:
        """Show one job."""
        answer = await gateway(request).jobs.get(service_pb.GetJobRequest(job_id=job_id))
        return Job.from_pb(answer.job)

    @router.get(
        "/{job_id}/explain", response_model=JobExplanation, dependencies=[needs("jobs:read")]
    )
    @burst
    async def explain_job(request: Request, job_id: Id) -> JobExplanation:
        """Say the one thing that holds a job now, what would help, and about when it starts."""
        answer = await gateway(request).jobs.explain(service_pb.ExplainJobRequest(job_id=job_id))
        return JobExplanation.from_pb(answer.explanation)

    @router.get("/{job_id}/attempts", response_model=AttemptPage, dependencies=[needs("jobs:read")])
    @burst
    async def list_attempts(
        request: Request, job_id: Id, page_size: PageSize = 50, page_token: PageToken = ""
    ) -> AttemptPage:
        """Show what became of each try to run a job, the first one first."""
        answer = await gateway(request).jobs.list_attempts(
            service_pb.ListAttemptsRequest(job_id=job_id, page=page_request(page_size, page_token))
        )
        return AttemptPage(
            attempts=[JobAttempt.from_pb(attempt) for attempt in answer.attempts],
            next_page_token=answer.page.next_page_token,
        )

    @router.post(
        "/{job_id}/cancel", status_code=202, response_model=Job, dependencies=[needs("jobs:write")]
    )
    @burst
    async def cancel_job(request: Request, job_id: Id, body: Cancellation) -> Job:
        """Ask for a job's end; it is STOPPING until its runtime confirms."""
        answer = await gateway(request).jobs.cancel(
            service_pb.CancelJobRequest(job_id=job_id, reason=body.reason)
        )
        return Job.from_pb(answer.job)

    return router


def job_state(state: pb.JobState.ValueType) -> JobState:
    """Return a job's state as the API names it."""
    return cast("JobState", pb.JobState.Name(state).removeprefix(_STATE_PREFIX))


def _labels_sought(label: list[str]) -> dict[str, str]:
    """Return the labels of a query; raises InvalidArgument for what no job's labels can be."""
    sought: dict[str, str] = {}
    for place, text in enumerate(label):
        name, _, value = text.partition("=")
        if name in sought:
            raise InvalidArgument(f"label[{place}]", f"{name} is given twice; a job has it once")
        if not value.isprintable():
            raise InvalidArgument(f"label[{place}]", "must have printable characters only")
        sought[name] = value
    return sought


def _progress(progress: pb.JobProgress) -> JobProgress:
    return JobProgress(
        fraction=progress.fraction,
        message=progress.message,
        metrics=dict(progress.metrics),
        reported_at=instant_if_set(progress.reported_at),
    )


def _ending(ending: service_pb.AttemptEnding) -> AttemptEnding:
    return AttemptEnding(reason=ending.reason, message=ending.message)


def _failure(failure: pb.JobFailure) -> JobFailure:
    return JobFailure(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code if failure.HasField("exit_code") else None,
        last_lines=failure.last_lines,
    )
