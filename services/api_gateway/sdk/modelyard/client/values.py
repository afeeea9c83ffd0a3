"""What the API takes and gives. Answers ignore fields that are newer than this client."""

from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

JOB_STATES: Final = (
    *("QUEUED", "ADMITTED", "STARTING", "RUNNING", "STOPPING"),
    *("SUCCEEDED", "FAILED", "CANCELLED"),
)
"""In the order of a job's life."""
TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Resources(_Value):
    """What one attempt takes from its node."""

    cpu_millicores: int = 1000
    memory_bytes: int = 1 << 30
    """6 MiB at least: no container starts with less."""
    gpu_count: int = 0


class JobInput(_Value):
    """Stored bytes that the job reads at `$MODELYARD_INPUTS/<name>`."""

    name: str
    digest: str


class JobOutput(_Value):
    """A file or folder under `$MODELYARD_OUTPUTS`; `register_as` names a model."""

    name: str
    path: str
    register_as: str = ""


class JobTimeouts(_Value):
    """Bounds on a job's phases; None: the platform's, which for queue and start is none."""

    queue: timedelta | None = None
    start: timedelta | None = None
    run: timedelta | None = None
    stop_grace: timedelta | None = None


class JobRetries(_Value):
    """When a job is tried again: after the platform's own failures always, else as said here."""

    count_max: int = 3
    """After its first attempt; 0: never."""
    reasons: list[str] = Field(default_factory=list)
    """Of killed, out_of_memory, outputs, run_timeout."""
    exit_codes: list[int] = Field(default_factory=list)
    """The program's own that mean that another try may succeed."""


class JobDependency(_Value):
    """Another job, which has to end before this one may start."""

    job_id: str
    condition: str = "SUCCESS"
    """Or END: in whatever way."""


class JobSpec(_Value):
    """What to run."""

    name: str
    image: str
    command: list[str]
    env: dict[str, str] = Field(default_factory=dict)
    source_digest: str = ""
    inputs: list[JobInput] = Field(default_factory=list)
    outputs: list[JobOutput] = Field(default_factory=list)
    resources: Resources = Field(default_factory=Resources)
    timeouts: JobTimeouts = Field(default_factory=JobTimeouts)
    retries: JobRetries = Field(default_factory=JobRetries)
    priority: int = 50
    labels: dict[str, str] = Field(default_factory=dict)
    queue: str = "default"
    """What can be paused; it needs no creation."""
    after: list[JobDependency] = Field(default_factory=list)
    """Jobs that have to end before this one may start; they have to exist."""
    tasks: int = 1
    """How many times it runs at once, each time with `resources`: all are admitted, or none."""
    array_size: int | None = None
    """How often it is to run, each time as a job of its own with another index; None: no array."""

    def described(self) -> dict[str, Any]:
        """Return what is sent: what older platforms refuse as unknown only where it is used."""
        unused = {
            *(() if self.after else ("after",)),
            *(() if self.tasks != 1 else ("tasks",)),
            *(() if self.array_size is not None else ("array_size",)),
        }
        return self.model_dump(mode="json", exclude=unused)


class JobChanges(_Value):
    """What a job has of its own that is run like an earlier one; None: as that one had it."""

    name: str | None = None
    command: list[str] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    """Beside the others that it had."""
    priority: int | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    """Beside the others that it had."""
    after: list[JobDependency] = Field(default_factory=list)
    """Instead of those that it waited for, whose ends are past."""

    def made_to(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Return the changed spec; fields that are newer than this client stay as they are."""
        plain = self.model_dump(include={"name", "command", "priority"}, exclude_none=True)
        pairs = {name: spec[name] | getattr(self, name) for name in ("env", "labels")}
        after = {"after": [needed.model_dump() for needed in self.after]}
        return spec | plain | pairs | (after if self.after or "after" in spec else {})


class JobProgress(_Value):
    """What the job last said about itself."""

    fraction: float
    message: str
    metrics: dict[str, float]


class JobFailure(_Value):
    """Why a job failed."""

    reason: str
    message: str
    exit_code: int | None
    last_lines: str


class JobArray(_Value):
    """How an array's elements stand."""

    elements: dict[str, int]
    """How many are in which state; those that were not admitted yet are QUEUED."""


class ArrayElement(_Value):
    """Which element of which array a job is."""

    array_id: str
    index: int
    """From 0 on."""


class Job(_Value):
    """A job."""

    id: str
    spec: JobSpec
    state: str
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
    retry_count: int = 0
    retry_at: datetime | None = None
    needs: list[JobDependency] = Field(default_factory=list)
    """What of `spec.after` it waits for still."""
    array: JobArray | None = None
    """Of an array, which runs nothing itself: what has become of its elements."""
    element: ArrayElement | None = None
    """Of one of an array's elements: which one it is."""
    aged_by: int = 0
    """What waiting has added to its priority."""

    @property
    def priority(self) -> int:
        """With what it stands in line."""
        return self.spec.priority + self.aged_by

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL

    @property
    def is_array(self) -> bool:
        """Whether it runs nothing itself: its elements do."""
        return self.element is None and self.spec.array_size is not None


class JobExplanation(_Value):
    """Why a job is where it is."""

    job_id: str
    state: str
    hold: str
    """What keeps it from its start: TENANT, PAUSED, DEPENDENCY, BACK_OFF, PLAN, NODES, RESOURCES,
    ORDER; or NONE."""
    because: str
    helped_by: str
    """Empty where nothing holds it."""
    jobs_before: int
    estimated_start_at: datetime | None
    """If all that runs does so to its run time limit, and nobody comes between; None: nobody can
    tell."""


class DeploymentExplanation(_Value):
    """Why a deployment's replicas wait, of which the first one is told."""

    deployment_id: str
    state: str
    waiting_count: int
    """Its replicas in line, or that are tried again later."""
    hold: str
    """What keeps the first of them from its start: TENANT, BACK_OFF, PLAN, NODES, RESOURCES, ORDER;
    or NONE."""
    because: str
    helped_by: str
    """Empty where nothing holds it."""
    estimated_start_at: datetime | None
    """Of the first of them, as a job's."""


class AttemptEnding(_Value):
    """Why an attempt ended."""

    reason: str
    """What it was stopped for: cancelled, drained, preempted, run_timeout, suspended, task_failed;
    else what became of it: succeeded, or a reason of a job's failure."""
    message: str


class JobAttempt(_Value):
    """One try to run a job."""

    id: str
    number: int
    """1 for the first; those of a job's tasks that began together have it in common."""
    state: str
    """CREATED, STARTED, EXITED; LOST: nobody knows how it ended; CLOSED: it never ran."""
    node_id: str
    created_at: datetime
    """When capacity was taken on its node."""
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    """When its program ended by itself or by a signal, then 128 + signal."""
    ending: AttemptEnding | None = None
    """None: it has not ended, or did before that was kept."""
    task: int = 0
    """Which of the job's tasks it runs, from 0 on."""


class JobTimes(_Value):
    """How long something took jobs, in seconds; None where there is no job."""

    job_count: int
    p50_s: float | None
    """The median."""
    p99_s: float | None


class JobWaits(_Value):
    """How long the jobs of a group stood in line before they were first admitted."""

    queue: str
    priority: int
    waited: JobTimes


class JobEnds(_Value):
    """How many jobs have ended in a state, and how long they ran."""

    state: str
    job_count: int
    """Those that never ran, too."""
    ran: JobTimes
    """From the last start to the end, of those that ran."""


class JobStats(_Value):
    """How a tenant's jobs have fared in a window of time."""

    since: datetime
    until: datetime
    waits: list[JobWaits]
    """Of the jobs that were first admitted in it, by queue; larger priorities first."""
    ends: list[JobEnds]
    """Of the jobs that ended in it, by state."""
    is_whole: bool
    """False: there were more jobs than are looked at; the latest are told of."""


class LogRecord(_Value):
    """One line of output; `position` is where reading goes on after it."""

    position: str
    attempt_id: str
    attempt_number: int
    sequence: int
    stream: str
    time: datetime
    text: str
    is_gap: bool
    """No output: here some may be missing, and `text` says why."""
    task: int = 0
    """Which of the job's tasks has printed it, from 0 on."""


class StoredFile(_Value):
    """One file of a model version."""

    path: str
    size_bytes: int
    digest: str


class Model(_Value):
    """A named line of versions."""

    id: str
    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    alias_revisions: dict[str, int] = Field(default_factory=dict)
    newest_version: int
    created_at: datetime


class ModelVersion(_Value):
    """An immutable version."""

    model_name: str
    version: int
    state: str
    files: list[StoredFile]
    tags: dict[str, str]
    metrics: dict[str, float]
    job_id: str
    output_name: str
    source_digest: str
    aliases: list[str]
    created_at: datetime


class DeploymentSpec(_Value):
    """Which model to serve, and how."""

    name: str
    model: str
    image: str = "modelyard/serve-sklearn"
    replica_count: int = 1
    resources: Resources = Field(default_factory=Resources)


class Replica(_Value):
    """One copy of a model server."""

    id: str
    state: str
    reason: str
    attempt_id: str
    restart_count: int


class Deployment(_Value):
    """A deployment."""

    id: str
    spec: DeploymentSpec
    state: str
    reason: str
    model_name: str
    model_version: int
    replicas: list[Replica]
    version: int
    created_at: datetime
    trace_id: str


class Node(_Value):
    """A machine that jobs and replicas run on."""

    id: str
    alive: bool
    heartbeat_at: datetime
    runtime: str
    runtime_down_since: datetime | None
    cordoned_at: datetime | None = None
    draining_since: datetime | None = None
    lost_at: datetime | None = None
    capacity: Resources
    used: Resources


class Queue(_Value):
    """A name that jobs give."""

    name: str
    paused_at: datetime | None
    """Since when nothing of it is admitted."""
    paused_reason: str
    """Empty while it is not paused."""
    queued_count: int
    running_count: int
    """Admitted, and not ended."""


class Person(_Value):
    """Somebody of an OpenID Connect issuer."""

    issuer: str
    subject: str


class ApiKey(_Value):
    """A key without its secret; what it may do comes from its role or its scopes."""

    id: str
    name: str
    role: str | None = None
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None
    replaced_by: str | None = None
    created_by: str | None = None
    """The subject of whoever made it, or "platform"; None: that was not recorded yet."""
    person: Person | None = None
    """Who made it, or is behind the key that made it: it ends with their membership."""


class Identity(_Value):
    """Who the platform takes a caller for, and all that it may do."""

    tenant: str
    subject: str
    roles: list[str]
    scopes: list[str]


class Plan(_Value):
    """How much a tenant may have; None: the platform's own setting."""

    queued_jobs_max: int | None = None
    replicas_max: int | None = None
    priority_max: int | None = None
    requests_max: int | None = None
    running_cpu_millicores_max: int | None = None
    running_memory_bytes_max: int | None = None
    running_gpu_count_max: int | None = None


class Tenant(_Value):
    """A tenant, and whether it may change anything."""

    id: str
    state: str
    version: int
    reason: str
    plan: Plan
    created_at: datetime
    changed_at: datetime
    purge_at: datetime | None = None
    """While it is being deleted: from when on nothing brings it back."""


class Member(_Value):
    """Somebody of an OpenID Connect issuer who belongs to a tenant."""

    issuer: str
    subject: str
    roles: list[str]
    version: int
    added_at: datetime
    changed_at: datetime
    changed_by: str


class InferenceAnswer(_Value):
    """An Open Inference Protocol v2 answer."""

    model_name: str
    outputs: list[dict[str, Any]]
