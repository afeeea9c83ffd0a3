"""The scheduler's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, Field
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
    queue_retry_after: timedelta = timedelta(seconds=5)
    """What QUEUE_FULL tells the caller to wait."""
    replicas_max: int = Field(default=64, gt=0)
    """Replicas of all of a tenant's deployments together."""


class SchedulingSettings(BaseModel):
    """How often the leader looks at its queues, and how much it does per look."""

    cycle_interval_max: timedelta = timedelta(seconds=1)
    """Fallback only: a commit wakes the cycle at once; after a lost wake-up a job waits so long."""
    cycle_heads_max: int = Field(default=200, gt=0)
    """Queue heads of each kind per cycle; keep the cycle well below the lease's life."""
    cycle_batch_max: int = Field(default=50, gt=0)
    """Admissions in one transaction: more cost less each, and keep rows locked for longer."""
    lease_ttl: timedelta = timedelta(seconds=6)
    """After a leader's crash nothing is admitted for so long."""
    node_silence_max: timedelta = timedelta(seconds=30)
    """A node whose runner was silent for longer gets no new work."""


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


class RuntimeSettings(BaseModel):
    """The container runtime `process`: plain processes on this machine, without isolation."""

    allow_unisolated: bool = False
    """Has to be said: what runs can read whatever this service's account can."""
    allow_mixed_tenants: bool = False
    """Without it a node runs one tenant's attempts only, since they could see each other."""
    containers_root: Path
    """A folder a container: its output, its files, its end. The log collector reads it."""
    images: dict[str, Path]
    """Image name → folder of the virtual environment that stands for it."""


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
    kept_after_end: timedelta = timedelta(hours=1)
    """A container whose log nobody reported complete is deleted after so long."""
    stray_grace: timedelta = timedelta(seconds=10)
    """From SIGTERM to SIGKILL for what runs though its attempt is over."""
    containers_per_pass_max: int = Field(default=1_000, gt=0)
    """Containers that one clean-up looks at."""
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
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    deployments: DeploymentSettings = Field(default_factory=DeploymentSettings)
