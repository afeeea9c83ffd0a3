"""The scheduler's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

from datetime import timedelta

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


class Settings(BaseSettings):
    """Everything that the scheduler can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_nested_delimiter="__")

    grpc: GrpcServerSettings
    operations: OperationsSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    identity: IdentitySettings
    registry: GrpcClientSettings
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    deployments: DeploymentSettings = Field(default_factory=DeploymentSettings)
