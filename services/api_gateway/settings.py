"""The gateway's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

from datetime import timedelta

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import (
    GrpcClientSettings,
    IdentitySettings,
    KafkaSettings,
    PostgresSettings,
    ShutdownSettings,
    TelemetrySettings,
)


class HttpSettings(BaseModel):
    """Where the REST API listens, and its bounds on a connection."""

    host: str = "127.0.0.1"
    """Loopback by default: opening the edge to a network is a decision."""
    port: int = Field(ge=0, le=65535)
    connections_max: int = Field(default=2000, gt=0)
    """Beyond it every request gets 503 at once, in plain text, health checks too."""
    keep_alive: timedelta = timedelta(seconds=15)
    """Longer holds sockets of idle clients; shorter costs busy ones a handshake."""


class LimitSettings(BaseModel):
    """How often callers may call, and how much they may send."""

    tenant_requests_max: int = Field(default=6000, gt=0)
    """Requests of one tenant in a window, over all gateways that share a Redis."""
    source_requests_max: int = Field(default=60, gt=0)
    """Refused credentials from one network address in a window."""
    window: timedelta = timedelta(seconds=60)
    burst: str = "500/second"
    """Requests of one tenant to one `/v1` route in one process, in slowapi's notation."""
    body_bytes_max: int = Field(default=1 << 20, gt=0)
    """Largest JSON body; refused before it is read whole."""
    artifact_bytes_max: int = Field(default=4 << 30, gt=0)
    """Largest upload; streamed, so it costs no memory."""
    inference_bytes_max: int = Field(default=64 << 20, gt=0)
    """Largest inference request and answer; held in memory, so it bounds what a request costs."""


class RedisSettings(BaseModel):
    """Where windows are counted."""

    url: SecretStr | None = None
    """Without it each gateway counts for itself."""


class Settings(BaseSettings):
    """Everything that the gateway can be told."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_nested_delimiter="__")

    http: HttpSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    identity: IdentitySettings
    scheduler: GrpcClientSettings
    registry: GrpcClientSettings
    logs: GrpcClientSettings
    redis: RedisSettings = Field(default_factory=RedisSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    inference_timeout: timedelta = timedelta(seconds=60)
    """Longest answer of a model that is waited for."""
    stream_timeout: timedelta = timedelta(minutes=15)
    """Longest upload or download."""
    follow_timeout: timedelta = timedelta(hours=1)
    """After it a follower of logs has to come again; it does so from where it was."""
