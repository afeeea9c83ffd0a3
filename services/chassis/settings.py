"""Groups of settings that every service has.

Owns: their names, units, defaults and what each one costs. A service's `settings.py` puts them
together with its own and reads the environment once, in `__main__`. Durations carry their unit
(`PT2.5S`); secrets never print.
"""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr


class PostgresSettings(BaseModel):
    """The service's own database."""

    url: SecretStr
    """`postgresql+asyncpg://user:password@host:port/database`."""
    pool_size: int = Field(default=10, gt=0)
    """Connections that are kept; each costs the server 6 to 9 MB."""
    pool_overflow_max: int = Field(default=10, ge=0)
    """Connections beyond that under load, closed afterwards."""
    pool_wait_max: timedelta = timedelta(seconds=2)
    """Longest wait for a connection; then the request is shed as UNAVAILABLE."""
    connect_timeout: timedelta = timedelta(seconds=3)
    """Longest wait for the server to answer a new connection."""
    statement_timeout: timedelta = timedelta(seconds=10)
    """A statement that takes longer is ended by the server."""
    lock_timeout: timedelta = timedelta(seconds=4)
    """Longest wait for another transaction's lock."""
    idle_in_transaction_timeout: timedelta = timedelta(seconds=30)
    """A transaction that does nothing for so long is rolled back: its locks hold others up."""


class KafkaSettings(BaseModel):
    """The brokers."""

    bootstrap_servers: str
    """`host:port`, comma-separated."""


class GrpcServerSettings(BaseModel):
    """Where a service's RPCs are answered, and their bounds."""

    host: str = "127.0.0.1"
    """Loopback by default: opening a service to a network is a decision."""
    port: int = Field(ge=0, le=65535)
    """0 picks a free port (tests)."""
    message_bytes_max: int = Field(default=4 << 20, gt=0)
    """Largest message either way; larger things are streamed."""
    concurrent_calls_max: int = Field(default=512, gt=0)
    """Calls at work at once; more are refused with UNAVAILABLE, so that those in work finish."""
    default_deadline: timedelta = timedelta(seconds=10)
    """For callers that set none: no unary call lasts for ever."""
    connection_age_max: timedelta = timedelta(minutes=30)
    """Clients reconnect after it, and so find new replicas."""


class GrpcClientSettings(BaseModel):
    """A service that this one calls."""

    address: str
    """`host:port`, or `dns:///name:port` to balance over all addresses."""
    deadline: timedelta = timedelta(seconds=5)
    """Longest call, retries included, unless the caller's own deadline is nearer."""
    message_bytes_max: int = Field(default=4 << 20, gt=0)
    """Largest message either way."""


class OperationsSettings(BaseModel):
    """Where `/livez`, `/readyz` and `/metrics` are answered."""

    host: str = "127.0.0.1"
    """Loopback by default; on Kubernetes the pod's address."""
    port: int = Field(ge=0, le=65535)
    """0 picks a free port (tests)."""


class IdentitySettings(BaseModel):
    """The service's signing key, and whom it trusts."""

    private_key_file: Path
    """Ed25519, PEM, readable by this service alone."""
    trusted_keys_folder: Path
    """`<service>.pub.pem` of every service whose calls are accepted."""


class TelemetrySettings(BaseModel):
    """Where spans go, and how much is said."""

    otlp_endpoint: str | None = None
    """`http://host:port` of an OTLP gRPC receiver; without it no span leaves the process."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of new traces that is kept; a caller's decision is followed."""
    log_level: str = "INFO"
    """Least important lines that are written."""


class ShutdownSettings(BaseModel):
    """How a process leaves."""

    drain_wait: timedelta = timedelta(seconds=0)
    """From "not ready" to the end of intake: at least what a load balancer needs to notice."""
    stage_timeout: timedelta = timedelta(seconds=10)
    """Longest wait for each stage of the shutdown; then it is cancelled."""
