"""The scheduler's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import (
    GrpcClientSettings,
    GrpcServerSettings,
    IdentitySettings,
    KafkaSettings,
    OperationsSettings,
    PostgresSettings,
    ShutdownSettings,
    TelemetrySettings,
)


class AdmissionSettings(BaseModel):
    """How much callers may ask for."""

    queued_jobs_max: int = Field(default=100, gt=0)
    """Jobs of one tenant that may stand in line; the next one gets QUEUE_FULL."""
    submissions_together_max: int = Field(default=64, gt=0)
    """Submissions that share a commit at most; 1: each has its own."""
    submissions_waiting_max: int = Field(default=1000, gt=0)
    """Submissions that wait for a commit; the next one gets QUEUE_FULL."""
    queue_retry_after: timedelta = timedelta(seconds=5)
    """What QUEUE_FULL tells the caller to wait."""
    retried_jobs_max: int = Field(default=100, ge=0)
    """Jobs of one tenant that are tried again within an hour; what fails beyond that has failed."""
    replicas_max: int = Field(default=64, gt=0)
    """Replicas of all of a tenant's deployments together."""


class SchedulingSettings(BaseModel):
    """How often the leader looks at its queues, and how much it does per look."""

    cycle_interval_max: timedelta = timedelta(seconds=1)
    """Fallback only: a commit wakes the cycle at once; after a lost wake-up a job waits so long."""
    cycle_heads_max: int = Field(default=200, gt=0)
    """After so many a cycle, which is one transaction, places nobody else: more cost less each, and
    stay locked for longer. A job counts as many times as it has tasks, and is placed whole."""
    cycle_soonest_max: int = Field(default=500, gt=0)
    """Where it matters when what runs ends, a cycle looks at so many attempts that end first, and
    then, if those do not tell when there is room, at all. Each costs two microseconds."""
    usage_half_life: timedelta = Field(default=timedelta(hours=24), gt=timedelta(0))
    """Of equal priorities those tenants go first that hold and held less: what somebody held so
    long ago counts half. Shorter forgets sooner; all replicas should have the same."""
    preemption_enabled: bool = False
    """Whether a job that finds no room has jobs of smaller priorities stopped, which go back in
    line. Not before all schedulers are of this release: an older one can't read such a job."""
    preemption_interval: timedelta = timedelta(seconds=1)
    """While the first job waits for room, who could make it is looked at so often at most: a look
    reads all that runs."""
    priority_aging: timedelta | None = Field(default=None, gt=timedelta(0))
    """After so long in line a job has the next larger priority, and so on; None: never."""
    aging_interval: timedelta = timedelta(seconds=30)
    """It has it so much later at most; each look is one at all in line."""
    aged_jobs_per_pass_max: int = Field(default=1_000, gt=0)
    """Jobs to whose priority one pass adds; the rest: the next, which follows at once."""
    suspended_jobs_per_pass_max: int = Field(default=100, gt=0)
    """Jobs of suspended tenants that one pass asks to stop; the rest: next pass."""
    drains_interval: timedelta = timedelta(seconds=2)
    """A drain that another replica was asked for begins so much later at most."""
    drained_jobs_per_pass_max: int = Field(default=100, gt=0)
    """Jobs on nodes that are drained that one pass asks to stop; the rest: next pass."""
    queue_timeouts_interval: timedelta = timedelta(seconds=1)
    """A job that has stood in line for too long fails so much later at most."""
    expired_jobs_per_pass_max: int = Field(default=100, gt=0)
    """Jobs whose time in line is over that one pass ends; the rest: the next, which follows at
    once."""
    releases_interval: timedelta = timedelta(seconds=1)
    """A job goes on so much later at most than the end of the last one that it waits for; at once
    where the leader itself has recorded that end."""
    released_jobs_per_pass_max: int = Field(default=100, gt=0)
    """Jobs that one pass tells of the ends of those that they wait for; the rest: the next, which
    follows at once."""
    arrays_interval: timedelta = timedelta(seconds=1)
    """An array ends so much later at most than the last of its elements; and so much later than it
    was cancelled they are asked to stop."""
    arrays_per_pass_max: int = Field(default=100, gt=0)
    """Arrays that one pass ends; the rest: the next, which follows at once."""
    elements_per_pass_max: int = Field(default=100, gt=0)
    """Elements of cancelled arrays that one pass asks to stop; the rest: the next, which follows at
    once."""
    lease_ttl: timedelta = timedelta(seconds=6)
    """After a leader's crash nothing is admitted for so long; after a freeze 5 s more at most."""
    node_silence_max: timedelta = timedelta(seconds=30)
    """A node whose runner was silent for longer gets no new work."""
    node_lost_after: timedelta = timedelta(minutes=6)
    """From when nobody holds a node's lease any more until its jobs run elsewhere. Before that its
    runner has stopped them: see `runner.isolation_stop_after`."""
    lost_nodes_interval: timedelta = timedelta(seconds=3)
    """From one look for lost nodes to the next."""
    lost_looks_min: int = Field(default=10, gt=0)
    """Looks in a row that have to find a node without a runner: so long those are awaited that come
    back with a leader, or with the database."""
    lost_nodes_per_pass_max: int = Field(default=100, gt=0)
    """Nodes without a runner that one look sees, the longest first."""


class PurgeSettings(BaseModel):
    """How what purged tenants have is deleted."""

    interval: timedelta = timedelta(seconds=60)
    """What still ran at the purge, or came late, is deleted so much later at most."""
    owners_per_pass_max: int = Field(default=200, gt=0)
    """Jobs, deployments and answers that one transaction deletes; the next one follows at once."""
    files_per_pass_max: int = Field(default=200, gt=0)
    """Files that one pass deletes from a node's cache; the next one follows at once."""


class RetentionSettings(BaseModel):
    """How long what has ended is kept."""

    ended_jobs_kept: timedelta = Field(default=timedelta(days=30), ge=timedelta(days=1))
    """A job that ended so long ago is deleted, with its attempts. Not shorter than idempotency keys
    are remembered, or a repeated submission would find its key and no job."""
    interval: timedelta = timedelta(minutes=1)
    """From one pass to the next."""
    ended_jobs_per_pass_max: int = Field(default=500, gt=0)
    """Jobs that one pass deletes, in one transaction; the rest: next pass."""


class DeploymentSettings(BaseModel):
    """How deployments are kept."""

    deployments_per_pass_max: int = Field(default=100, gt=0)
    """Deployments that one pass of the reconciler brings a step further; the rest: next pass."""
    routes_settle: timedelta = timedelta(seconds=2)
    """From leaving the routing table to the stop of a replica; gateways finish in it."""
    republish_interval: timedelta = timedelta(minutes=10)
    """A gateway that lost a routing entry goes without it for at most so long."""
    republish_batch_max: int = Field(default=200, gt=0)
    """Routing entries per transaction of a republication."""


class ProcessRuntimeSettings(BaseModel):
    """The container runtime `process`: plain processes on this machine, without isolation."""

    kind: Literal["process"] = "process"
    allow_unisolated: bool = False
    """Has to be said: what runs can read whatever this service's account can."""
    allow_mixed_tenants: bool = False
    """Without it a node holds one tenant's attempts at a time, since they could see each other, and
    others' work waits."""
    containers_root: Path
    """A folder a container: its output, its files, its end. The log collector reads it."""
    images: dict[str, Path]
    """Image name → folder of the virtual environment that stands for it."""


class DockerRuntimeSettings(BaseModel):
    """The container runtime `docker`: one Docker engine on this machine, hardened by default."""

    kind: Literal["docker"]
    url: str = "unix:///var/run/docker.sock"
    """The engine. Whoever may use it is root on this machine: nobody else's process gets it."""
    scope: str = Field(default="modelyard", pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    """Label of all that is made here; a runner that shares an engine sees its own scope only."""
    containers_root: Path
    """A folder a container: its files and our notes on it. Output stays in the engine's folder."""
    images: dict[str, str]
    """Image name → what the engine runs for it; nothing else runs here."""
    uid_first: int = Field(default=200_000, gt=0)
    """Programs are users of this range, each tenant one of them, which nobody else may be."""
    uid_count: int = Field(default=50_000, gt=0)
    """A runner that is not root can't give files away: its programs are its own user."""
    pids_max: int = Field(default=512, gt=0)
    """Processes and threads of one container."""
    open_files_max: int = Field(default=4096, gt=0)
    """Of one process."""
    tmp_bytes: int = Field(default=64 << 20, gt=0)
    """Size of `/tmp`; what lies there counts as the container's memory."""
    shared_memory_bytes: int = Field(default=64 << 20, gt=0)
    """Size of `/dev/shm`; what lies there counts as the container's memory."""
    log_file_bytes: int = Field(default=16 << 20, gt=0)
    """The engine begins a new file of output after so much."""
    log_files_max: int = Field(default=4, gt=1)
    """And keeps so many; what is older and was not collected is lost, with a mark in the log."""
    is_host_fenced: bool = False
    """Somebody saw to it that containers can't open connections to this machine (docs/how-to)."""
    call_timeout: timedelta = timedelta(seconds=5)
    """Of a call that the engine answers from memory."""
    work_timeout: timedelta = timedelta(seconds=30)
    """Of creating, starting and removing; longer than the engine takes when it is busy."""
    pull_timeout: timedelta = timedelta(minutes=10)
    """Of fetching one image from its registry."""


RuntimeSettings = Annotated[
    Annotated[ProcessRuntimeSettings, Tag("process")]
    | Annotated[DockerRuntimeSettings, Tag("docker")],
    Discriminator(lambda given: given.get("kind", "process")),
]


class RunnerSettings(BaseModel):
    """This process's node: what it has, and how its attempts are driven."""

    node_id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Two processes with one id take turns; a node that changes its id leaves its attempts."""
    cpu_millicores: int = Field(gt=0)
    """How much may be booked; nothing measures it."""
    memory_bytes: int = Field(gt=0)
    gpu_count: int = Field(default=0, ge=0)
    lease_ttl: timedelta = timedelta(seconds=10)
    """After a runner's crash its attempts are not driven for so long; they run on."""
    isolation_stop_after: timedelta = timedelta(minutes=4)
    """What runs on this node is stopped when the database has not answered for so long: other nodes
    may run it soon."""
    isolation_stop_grace: timedelta = timedelta(seconds=10)
    """From SIGTERM to SIGKILL then, however patient the job."""
    look_interval_max: timedelta = timedelta(seconds=1)
    """Fallback only: a commit of this process wakes the runner at once."""
    node_cache_root: Path
    """Bundles, inputs and models by digest, fetched once."""
    node_cache_bytes_max: int = Field(default=10 << 30, gt=0)
    """Beyond it the longest unused go; what an attempt holds stays."""
    transfer_timeout: timedelta = timedelta(minutes=10)
    """Longest transfer of one file from or to the registry."""
    output_files_max: int = Field(default=1_000, gt=0, le=1_000)
    """Files that a job's outputs may have together; more fail it. A thousand fit in its event."""
    output_bytes_max: int = Field(default=10 << 30, gt=0)
    """Bytes that one output may have; more fail the job."""
    checkpoint_files_max: int = Field(default=1_000, gt=0, le=1_000)
    """Files that an attempt may leave for the next one; of more none are kept."""
    checkpoint_bytes_max: int = Field(default=10 << 30, gt=0)
    """Their bytes together; of more none are kept."""
    kept_after_end: timedelta = timedelta(hours=1)
    """An exited container whose log nobody reported complete is deleted after so long."""
    unknown_kept: timedelta = timedelta(seconds=30)
    """A container whose attempt the database does not know is not touched while it is younger."""
    stray_grace: timedelta = timedelta(seconds=10)
    """From SIGTERM to SIGKILL, at most, for what runs though its attempt is over; many share it."""
    clean_up_interval: timedelta = timedelta(seconds=20)
    """From one clean-up to the next; with `stray_grace` it says how long a stray may run."""
    clean_up_batch_max: int = Field(default=1_000, gt=0)
    """Containers whose attempts one query of the clean-up asks for."""
    clean_up_together_max: int = Field(default=32, gt=0)
    """Containers that the clean-up stops or deletes at a time."""
    runtime_ping_timeout: timedelta = timedelta(seconds=2)
    """A container runtime that takes longer to answer is down, and the node gets no new work."""
    probe_timeout: timedelta = timedelta(seconds=1)
    """A model server that answers later does not count as ready."""


class Settings(BaseSettings):
    """Everything that the scheduler can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_nested_delimiter="__")

    grpc: GrpcServerSettings
    operations: OperationsSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    identity: IdentitySettings
    registry: GrpcClientSettings
    runtime: RuntimeSettings
    runner: RunnerSettings
    state_root: str | None = None
    """Given to each attempt as MODELYARD_STATE_ROOT: the local stack finds its processes by it."""
    gateway: GrpcClientSettings | None = None
    """The tenants' owner, whose list is read beside Kafka's events. Without it a tenant whose event
    Kafka has lost counts as active."""
    tenants_read_interval: timedelta = timedelta(hours=1)
    """What was missed of the tenants' events is known so much later at most."""
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    deployments: DeploymentSettings = Field(default_factory=DeploymentSettings)
    purge: PurgeSettings = Field(default_factory=PurgeSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    @model_validator(mode="after")
    def _stops_in_time(self) -> Self:
        stopped_after = self.runner.isolation_stop_after + self.runner.isolation_stop_grace
        if stopped_after >= self.scheduling.node_lost_after:
            raise ValueError(
                "runner.isolation_stop_after and isolation_stop_grace together must be shorter "
                "than scheduling.node_lost_after, or a node that is cut off could run twice what "
                "is run elsewhere"
            )
        if self.runner.isolation_stop_after < self.runner.lease_ttl:
            raise ValueError(
                "runner.isolation_stop_after must not be shorter than runner.lease_ttl, or what "
                "runs on a node is stopped between two renewals"
            )
        return self
