"""The log collector's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

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


class CollectSettings(BaseModel):
    """What is read on this machine, and how eagerly."""

    containers_root: Path
    """The container runtime's folder; only read."""
    node_id: str | None = None
    """Collect only the containers of this node; None: of every node, where there is one machine."""
    streams_max: int = Field(default=1000, gt=0)
    """Containers read at a time, a few files each; the output of more waits on the disk."""
    block_wait_max: timedelta = timedelta(milliseconds=100)
    """Longest time that a record is in memory only; shorter means more and smaller blocks."""
    read_interval_min: timedelta = timedelta(milliseconds=5)
    """Between two looks at a file that is written line by line; it is also a follower's delay."""
    sync_interval: timedelta = timedelta(seconds=1)
    """A loss of power costs what was written since; it is then read again from the containers."""
    settle_after_end: timedelta = timedelta(milliseconds=100)
    """How long an ended container's file has to be quiet before it counts as whole."""
    absent_after_end_max: timedelta = timedelta(seconds=10)
    """How long an ended container's file is waited for before a gap is noted in its place."""


class StoreSettings(BaseModel):
    """Where records are kept."""

    root: Path
    """Made if it is absent. Losing it loses all logs of containers that are gone."""
    segment_bytes_max: int = Field(default=64 * 1024 * 1024, gt=0)
    """Size of a file; what is damaged in one is lost up to its end."""


class PurgeSettings(BaseModel):
    """How the output of purged tenants is deleted."""

    interval: timedelta = timedelta(seconds=60)
    """What was still collected at the purge, or came late, is deleted so much later at most."""
    streams_per_pass_max: int = Field(default=100, gt=0)
    """Streams that one pass deletes; the next one follows at once."""


class ReadSettings(BaseModel):
    """Who may read at a time."""

    followers_max: int = Field(default=256, gt=0)
    """Open follow streams; the next one gets QUEUE_FULL. Below the server's bound on calls."""


class Settings(BaseSettings):
    """Everything that the log collector can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_nested_delimiter="__")

    collect: CollectSettings
    store: StoreSettings
    grpc: GrpcServerSettings
    operations: OperationsSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    identity: IdentitySettings
    read: ReadSettings = Field(default_factory=ReadSettings)
    purge: PurgeSettings = Field(default_factory=PurgeSettings)
    gateway: GrpcClientSettings | None = None
    """The tenants' owner, whose list is read beside Kafka's events. Without it what is left of a
    tenant stays if Kafka has lost the event of its purge."""
    tenants_read_interval: timedelta = timedelta(hours=1)
    """What was missed of the tenants' events is known so much later at most."""
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
