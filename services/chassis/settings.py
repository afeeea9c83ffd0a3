"""Groups of settings that every service has.

Owns: their names, units, defaults and what each one costs. A service's `settings.py` puts them
together with its own and reads the environment once, in `__main__`, by `load`. Durations
carry their unit (`PT2.5S`); secrets never print.
"""

import os
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError
from typing_extensions import TypeIs

Loaded = TypeVar("Loaded", bound=BaseSettings)

_DURATION: Final = "must be an ISO 8601 duration, such as PT5M"
_INTEGER: Final = "must be a whole number, such as 3"
_IN_WORDS: Final[Mapping[str, str]] = {
    "int_parsing": _INTEGER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "float_parsing": "must be a number, such as 0.5",
    "bool_parsing": "must be true or false",
    "time_delta_parsing": _DURATION,
    "time_delta_type": _DURATION,
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
"""Pydantic's own words are for those who wrote the model."""
_NO_JSON: Final = 'must be JSON, such as ["a", "b"] for several values'


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
    log_level: Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """Least important lines that are written."""


class ShutdownSettings(BaseModel):
    """How a process leaves."""

    drain_wait: timedelta = timedelta(seconds=0)
    """From "not ready" to the end of intake: at least what a load balancer needs to notice."""
    stage_timeout: timedelta = timedelta(seconds=10)
    """Longest wait for each stage of the shutdown; then it is cancelled."""


def load(kind: type[Loaded]) -> Loaded:
    """Read settings; ends the process with one sentence that names what is missing or wrong."""
    try:
        return _read(kind, os.environ)
    except _WrongSettings as error:
        problems = [f"{variable}{said}" for variable, said in error.problems]
        raise SystemExit(f"settings: {'; '.join(problems)}") from None


def problems_of(
    kind: type[BaseSettings], environment: Mapping[str, str]
) -> Sequence[tuple[str, str]]:
    """Return what a process with this environment would end for: variables, and what is wrong.

    No variable is named where several together are wrong.
    """
    try:
        _read(kind, environment)
    except _WrongSettings as error:
        return error.problems
    return []


class _WrongSettings(Exception):
    """Has no values in it, which may be secrets."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("wrong settings")


def _read(kind: type[Loaded], environment: Mapping[str, str]) -> Loaded:
    prefix = kind.model_config.get("env_prefix", "")
    try:
        source = _of(kind, environment)
        source()
    except SettingsError:
        # It names a group; which of the group's variables it is each one tells alone.
        wrong = [name for name in environment if name.startswith(prefix)]
        wrong = [name for name in wrong if not _is_readable(kind, {name: environment[name]})]
        raise _WrongSettings([(name, f": {_NO_JSON}") for name in wrong]) from None
    try:
        return kind(_build_sources=((source,), {}))
    except ValidationError as error:
        problems = [
            problem for found in error.errors() for problem in _problems(kind, prefix, found)
        ]
        raise _WrongSettings(problems) from None


def _of(kind: type[BaseSettings], environment: Mapping[str, str]) -> EnvSettingsSource:
    source = EnvSettingsSource(kind)
    source.env_vars = {name.lower(): value for name, value in environment.items()}
    return source


def _is_readable(kind: type[BaseSettings], environment: Mapping[str, str]) -> bool:
    try:
        _of(kind, environment)()
    except SettingsError:
        return False
    return True


def _problems(
    kind: type[BaseModel], prefix: str, found: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    location = found["loc"]
    if found["type"] != "missing":
        words = _IN_WORDS.get(found["type"])
        said = words.format(**found.get("ctx", {})) if words else found["msg"]
        yield (_variable(kind, prefix, location), f": {said}") if location else ("", said)
        return
    group: object = kind
    for name in location:
        fields = group.model_fields if _is_group(group) else {}
        group = fields[str(name)].annotation if str(name) in fields else None
    for path in _required(group, location):
        yield _variable(kind, prefix, path), " is missing"


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


def groups_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the groups that a field may hold: none, one, an optional one or one of several."""
    if _is_group(annotation):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, Annotated}:
        for inner in get_args(annotation):
            yield from groups_in(inner)


def _variable(kind: type[BaseModel], prefix: str, path: tuple[int | str, ...]) -> str:
    """Return the variable of a field: neither its kind of group nor an entry is in it."""
    names, groups = [], [kind]
    for part in map(str, path):
        held = [group.model_fields[part] for group in groups if part in group.model_fields]
        if held:
            names.append(part)
            groups = [group for field in held for group in groups_in(field.annotation)]
    return f"{prefix}{'__'.join(names)}".upper()
