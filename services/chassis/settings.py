"""Groups of settings that every service has.

Owns: their names, units, defaults and what each one costs. A service's `settings.py` puts them
together with its own and reads the environment once, in `__main__`, by `load`. Durations
carry their unit (`PT2.5S`); secrets never print.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsError
from typing_extensions import TypeIs

Loaded = TypeVar("Loaded", bound=BaseSettings)


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


class TlsSettings(BaseModel):
    """Certificates for connections between services (ADR-0010); files may be renewed."""

    certificate_file: Path
    """PEM, its chain below it. Names the service: as it is, or as the first label of a DNS name."""
    private_key_file: Path
    """PEM, readable by this service alone."""
    authorities_file: Path
    """PEM of whoever signs the services' certificates; nobody else's are accepted."""
    read_interval: timedelta = timedelta(seconds=10)
    """New connections use renewed files so much later at most."""


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
    tls: TlsSettings | None = None
    """With it only callers with a certificate get through; without it whoever reaches the port."""


class GrpcClientSettings(BaseModel):
    """A service that this one calls."""

    address: str
    """`host:port`, or `dns:///name:port` to balance over all addresses."""
    deadline: timedelta = timedelta(seconds=5)
    """Longest call, retries included, unless the caller's own deadline is nearer."""
    message_bytes_max: int = Field(default=4 << 20, gt=0)
    """Largest message either way."""
    tls: TlsSettings | None = None
    """Set it where the callee's server has it."""


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
    """`<service>.<any name>.pub.pem` of every service whose calls are accepted."""
    keys_read_interval: timedelta = timedelta(seconds=10)
    """A changed private key signs, and a removed public key is refused, so much later at most."""


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


def load(kind: type[Loaded]) -> Loaded:
    """Read settings; ends the process with one sentence that names what is missing or wrong."""
    prefix = kind.model_config.get("env_prefix", "")
    try:
        return kind()
    except ValidationError as error:
        # Not the error's own text: it shows the values, which may be secrets.
        problems = [
            problem
            for found in error.errors(include_input=False)
            for problem in _problems(kind, prefix, found["type"], found["loc"], found["msg"])
        ]
        raise SystemExit(f"settings: {'; '.join(problems)}") from None
    except SettingsError as error:
        raise SystemExit(f"settings: {error}") from None


def _problems(
    kind: type[BaseModel], prefix: str, type_: str, location: tuple[int | str, ...], message: str
) -> Iterator[str]:
    if type_ != "missing":
        yield f"{_variable(prefix, location)}: {message}"
        return
    group: object = kind
    for name in location:
        fields = group.model_fields if _is_group(group) else {}
        group = fields[str(name)].annotation if str(name) in fields else None
    for path in _required(group, location):
        yield f"{_variable(prefix, path)} is missing"


def _required(annotation: object, path: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """Yield the fields that have to be given: those of a group that is missing as a whole."""
    if not _is_group(annotation):
        yield path
        return
    for name, field in annotation.model_fields.items():
        if field.is_required():
            yield from _required(field.annotation, (*path, name))


def _is_group(annotation: object) -> TypeIs[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _variable(prefix: str, path: tuple[int | str, ...]) -> str:
    return f"{prefix}{'__'.join(str(part) for part in path)}".upper()
