"""What the API takes and gives."""

from datetime import datetime
from typing import Any, Final

from modelyard.client.asked import Asked, Integer, Length, Value
from pydantic import Field

JOB_STATES: Final = (
    *("QUEUED", "ADMITTED", "STARTING", "RUNNING", "STOPPING"),
    *("SUCCEEDED", "FAILED", "CANCELLED"),
)
"""In the order of a job's life."""
TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class Resources(Asked):
    """What one attempt takes from its node."""

    cpu_millicores: Integer = 1000
    memory_bytes: Integer = 1 << 30
    """6 MiB at least: no container starts with less."""
    gpu_count: Integer = 0


class JobInput(Asked):
    """Stored bytes that the job reads at `$MODELYARD_INPUTS/<name>`."""

    name: str
    digest: str


class JobOutput(Asked):
    """A file or folder under `$MODELYARD_OUTPUTS`; `register_as` names a model."""

    name: str
    path: str
    register_as: str = ""


class JobTimeouts(Asked):
    """Bounds on a job's phases; None: the platform's, which for queue and start is none."""

    queue: Length | None = None
    start: Length | None = None
    run: Length | None = None
    stop_grace: Length | None = None


class JobRetries(Asked):
    """When a job is tried again: after the platform's own failures always, else as said here."""

    count_max: Integer = 3
    """After its first attempt; 0: never."""
    reasons: list[str] = Field(default_factory=list)
    """Of killed, out_of_memory, outputs, run_timeout."""
    exit_codes: list[Integer] = Field(default_factory=list)
    """The program's own that mean that another try may succeed."""


class JobDependency(Asked):
    """Another job, which has to end before this one may start."""

    job_id: str
    condition: str = "SUCCESS"
    """Or END: in whatever way."""


class JobSpec(Asked):
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
    priority: Integer = 50
    labels: dict[str, str] = Field(default_factory=dict)
    queue: str = "default"
    """What can be paused; it needs no creation."""
    after: list[JobDependency] = Field(default_factory=list)
    """Jobs that have to end before this one may start; they have to exist."""
    tasks: Integer = 1
    """How many times it runs at once, each time with `resources`: all are admitted, or none."""
    array_size: Integer | None = None
    """How often it is to run, each time as a job of its own with another index; None: no array."""

    def described(self) -> dict[str, Any]:
        """Return what is sent: what older platforms refuse as unknown only where it is used."""
        unused = {
            *(() if self.after else ("after",)),
            *(() if self.tasks != 1 else ("tasks",)),
            *(() if self.array_size is not None else ("array_size",)),
        }
        return self.model_dump(mode="json", exclude=unused)


_CHANGED_PARTS: Final = {
    "resources": {"cpu_millicores", "memory_bytes", "gpu_count"},
    "timeouts": {"run"},
}
"""What of a spec's parts can be changed."""


class JobChanges(Asked):
    """What a job has of its own that is run like an earlier one; None: as that one had it."""

    name: str | None = None
    image: str | None = None
    cpu_millicores: Integer | None = None
    memory_bytes: Integer | None = None
    gpu_count: Integer | None = None
    run: Length | None = None
    """For how long it may run at most."""
    command: list[str] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    """Beside the others that it had."""
    priority: Integer | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    """Beside the others that it had."""
    queue: str | None = None
    tasks: Integer | None = None
    array_size: Integer | None = None
    after: list[JobDependency] = Field(default_factory=list)
    """Instead of those that it waited for, whose ends are past."""

    def made_to(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Return the changed spec; fields that are newer than this client stay as they are."""
        given = self.model_dump(mode="json", exclude={"env", "labels", "after"}, exclude_none=True)
        parts = {
            part: spec.get(part, {}) | {name: given.pop(name) for name in names & given.keys()}
            for part, names in _CHANGED_PARTS.items()
            if names & given.keys()
        }
        pairs = {name: spec[name] | getattr(self, name) for name in ("env", "labels")}
        after = {"after": [needed.model_dump() for needed in self.after]}
        return spec | given | parts | pairs | (after if self.after or "after" in spec else {})


class JobProgress(Value):
    """What the job last said about itself."""

    fraction: float
    message: str
    metrics: dict[str, float]


class JobFailure(Value):
    """Why a job failed."""

    reason: str
    message: str
    exit_code: int | None
    last_lines: str


class JobArray(Value):
    """How an array's elements stand."""

    elements: dict[str, int]
    """How many are in which state; those that were not admitted yet are QUEUED."""


class ArrayElement(Value):
    """Which element of which array a job is."""

    array_id: str
    index: int
    """From 0 on."""


class Job(Value):
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


class JobExplanation(Value):
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
    """If what runs ends when that is expected, at its run time limit at the latest, and nobody
    comes between; None: nobody can tell."""
    estimate_basis: str | None = None
    """What tells when that ends: LIMITS alone, or HISTORY: how long the latest jobs of the same
    name, image, resources and count of tasks took; None: nobody can tell, or the platform does not
    say."""


class DeploymentExplanation(Value):
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
    estimate_basis: str | None = None
    """As a job's."""


class AttemptEnding(Value):
    """Why an attempt ended."""

    reason: str
    """What it was stopped for: cancelled, drained, preempted, run_timeout, suspended, task_failed;
    else what became of it: succeeded, or a reason of a job's failure."""
    message: str


class JobAttempt(Value):
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


class JobTimes(Value):
    """How long something took jobs, in seconds; None where there is no job."""

    job_count: int
    p50_s: float | None
    """The median."""
    p99_s: float | None


class JobWaits(Value):
    """How long the jobs of a group stood in line before they were first admitted."""

    queue: str
    priority: int
    waited: JobTimes


class JobEnds(Value):
    """How many jobs have ended in a state, and how long they ran."""

    state: str
    job_count: int
    """Those that never ran, too."""
    ran: JobTimes
    """From the last start to the end, of those that ran."""


class JobStats(Value):
    """How a tenant's jobs have fared in a window of time."""

    since: datetime
    until: datetime
    waits: list[JobWaits]
    """Of the jobs that were first admitted in it, by queue; larger priorities first."""
    ends: list[JobEnds]
    """Of the jobs that ended in it, by state."""
    is_whole: bool
    """False: there were more jobs than are looked at; the latest are told of."""


class LogRecord(Value):
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


class StoredFile(Value):
    """One file of a model version."""

    path: str
    size_bytes: int
    digest: str


class Model(Value):
    """A named line of versions."""

    id: str
    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    alias_revisions: dict[str, int] = Field(default_factory=dict)
    newest_version: int
    created_at: datetime


class ModelVersion(Value):
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


class DeploymentSpec(Asked):
    """Which model to serve, and how."""

    name: str
    model: str
    image: str = "modelyard/serve-sklearn"
    replica_count: Integer = 1
    resources: Resources = Field(default_factory=Resources)


class Replica(Value):
    """One copy of a model server."""

    id: str
    state: str
    reason: str
    attempt_id: str
    restart_count: int


class Deployment(Value):
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


class Node(Value):
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


class Queue(Value):
    """A name that jobs give."""

    name: str
    paused_at: datetime | None
    """Since when nothing of it is admitted."""
    paused_reason: str
    """Empty while it is not paused."""
    queued_count: int
    running_count: int
    """Admitted, and not ended."""


class Person(Value):
    """Somebody of an OpenID Connect issuer."""

    issuer: str
    subject: str


class ApiKey(Value):
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


class Identity(Value):
    """Who the platform takes a caller for, and all that it may do."""

    tenant: str
    subject: str
    roles: list[str]
    scopes: list[str]


class Plan(Asked):
    """How much a tenant may have; None: the platform's own setting."""

    queued_jobs_max: Integer | None = None
    replicas_max: Integer | None = None
    priority_max: Integer | None = None
    requests_max: Integer | None = None
    running_cpu_millicores_max: Integer | None = None
    running_memory_bytes_max: Integer | None = None
    running_gpu_count_max: Integer | None = None


class Tenant(Value):
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


class Member(Value):
    """Somebody of an OpenID Connect issuer who belongs to a tenant."""

    issuer: str
    subject: str
    roles: list[str]
    version: int
    added_at: datetime
    changed_at: datetime
    changed_by: str


class InferenceAnswer(Value):
    """An Open Inference Protocol v2 answer."""

    model_name: str
    outputs: list[dict[str, Any]]
