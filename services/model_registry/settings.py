"""The model registry's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

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


class ArtifactsSettings(BaseModel):
    """Where artifacts' bytes are kept."""

    root: Path
    """Made if it is absent; replicas share it. Losing it loses every model's bytes."""
    blob_bytes_max: int = Field(default=4 * 1024**3, gt=0)
    """Largest artifact; what is larger is refused as soon as that is certain."""
    io_threads: int = Field(default=4, gt=0)
    """Files read, written and hashed at once; more transfers take turns."""


class PurgeSettings(BaseModel):
    """How what purged tenants have stored is deleted."""

    interval: timedelta = timedelta(seconds=60)
    """What came late is deleted so much later at most."""
    rows_per_pass_max: int = Field(default=200, gt=0)
    """Rows of each kind that one pass deletes; the next one follows at once."""


class Settings(BaseSettings):
    """Everything that the model registry can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_nested_delimiter="__")

    artifacts: ArtifactsSettings
    grpc: GrpcServerSettings
    operations: OperationsSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    identity: IdentitySettings
    purge: PurgeSettings = Field(default_factory=PurgeSettings)
    gateway: GrpcClientSettings | None = None
    """The tenants' owner, whose list is read beside Kafka's events. Without it what is left of a
    tenant stays if Kafka has lost the event of its purge."""
    tenants_read_interval: timedelta = timedelta(hours=1)
    """What was missed of the tenants' events is known so much later at most."""
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
