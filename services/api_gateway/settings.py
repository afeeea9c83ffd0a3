"""The gateway's settings: environment variables `MODELYARD_…`, read once in `__main__`."""

from datetime import timedelta
from typing import Literal

from limits import parse_many
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.api_gateway.domain.api_key import IN_FORCE_MAX, KEYS_LISTED_MAX
from services.api_gateway.domain.issuer import TOKEN_ALGORITHMS, check_issuer_url
from services.chassis.errors import InvalidArgument
from services.chassis.settings import (
    GrpcClientSettings,
    GrpcServerSettings,
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
    """Refused credentials from one network address (IPv6: a /64 network) in a window."""
    key_requests_max: int = Field(default=60, gt=0)
    """Wrong secrets for one key in a window, from wherever; its holder passes all the same."""
    window: timedelta = timedelta(seconds=60)
    burst: str = "500/second"
    """Requests of one tenant to one `/v1` route in one process, in slowapi's notation."""
    body_bytes_max: int = Field(default=1 << 20, gt=0)
    """Largest JSON body; refused before it is read whole."""
    artifact_bytes_max: int = Field(default=4 << 30, gt=0)
    """Largest upload; streamed, so it costs no memory."""
    inference_bytes_max: int = Field(default=64 << 20, gt=0)
    """Largest inference request and answer; held in memory, so it bounds what a request costs."""

    @field_validator("burst")
    @classmethod
    def _in_notation(cls, burst: str) -> str:
        try:
            parse_many(burst)
        except ValueError as error:
            raise ValueError("must be a number per time, such as 500/second") from error
        return burst


class TenantSettings(BaseModel):
    """How other services are kept knowing the tenants."""

    republish_interval: timedelta = timedelta(minutes=10)
    """A service that lost a tenant's entry goes without it for at most so long."""
    republish_batch_max: int = Field(default=200, gt=0)
    """Tenants per transaction of a republication."""
    purge_batch_max: int = Field(default=200, gt=0)
    """Tenants, keys or members that one transaction of a purge takes; the rest follow."""


class KeySettings(BaseModel):
    """How many API keys a tenant may have, and how long it sees those that have ended."""

    in_force_max: int = Field(default=IN_FORCE_MAX, gt=0, le=KEYS_LISTED_MAX)
    """Of one tenant; a further one is refused. A smaller bound ends none that is there."""
    ended_kept: timedelta = Field(default=timedelta(days=30), ge=timedelta(0))
    """Expired and revoked keys are listed so long, then they are deleted."""
    uses_interval: timedelta = Field(default=timedelta(minutes=1), gt=timedelta(0))
    """When keys were used is written so often; a gateway that is killed forgets as much of it."""


class OidcSettings(BaseModel):
    """An OpenID Connect issuer whose tokens let people in, beside API keys (ADR-0018)."""

    issuer: str
    """Its `iss`, to the letter; https, or http on this machine."""
    audience: str
    """What a token must be meant for: the name that the issuer knows this platform by."""
    keys_url: str | None = None
    """Where its keys are; without it where its discovery document says."""
    roles_from: Literal["claims", "members"] = "claims"
    """What gives people tenant and roles: the two claims below, or the tenants' lists of members.
    With `members` whatever the claims say of either counts for nothing."""
    tenant_claim: str = "tenant"
    """Names the tenant; a name, or a path such as `realm.tenant`."""
    roles_claim: str = "roles"
    """Lists roles of this platform (a path such as `realm_access.roles`); others are ignored."""
    algorithms: frozenset[str] = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
    """Accepted signatures; asymmetric ones only, whatever is set here."""
    leeway: timedelta = timedelta(seconds=30)
    """How far the issuer's clock may be off."""
    token_lifetime_max: timedelta = timedelta(hours=1)
    """Tokens of a longer life are refused: nobody tells of a lost right before a token ends."""
    keys_read_interval: timedelta = timedelta(minutes=5)
    """A key that the issuer has withdrawn is refused so much later at most."""
    keys_kept_max: timedelta = timedelta(hours=1)
    """So long known keys go on while the issuer is away."""
    unknown_key_interval: timedelta = timedelta(seconds=10)
    """Keys that nobody knows make us ask the issuer at most so often."""
    fetch_timeout: timedelta = timedelta(seconds=3)
    """Longest wait for the issuer; the request that found the keys too old waits so long."""
    require_second_factor_for_admins: bool = True
    """Whether a token with an administrative role needs one of the two below."""
    second_factor_methods: frozenset[str] = frozenset({"mfa"})
    """Values of `amr` that mean a second factor (RFC 8176)."""
    second_factor_levels: frozenset[str] = frozenset()
    """Values of `acr` that do; they are each issuer's own."""

    @field_validator("issuer", "keys_url")
    @classmethod
    def _protected(cls, url: str | None) -> str | None:
        try:
            return url if url is None else check_issuer_url(url)
        except InvalidArgument as error:
            raise ValueError(error.message) from error

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, algorithms: frozenset[str]) -> frozenset[str]:
        if not algorithms or algorithms - TOKEN_ALGORITHMS:
            raise ValueError(f"must be some of {', '.join(sorted(TOKEN_ALGORITHMS))}")
        return algorithms


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
    grpc: GrpcServerSettings | None = None
    """Where services read the list of tenants; without it they know what Kafka tells them."""
    redis: RedisSettings = Field(default_factory=RedisSettings)
    oidc: OidcSettings | None = None
    """Without it keys alone let anybody in."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    tenants: TenantSettings = Field(default_factory=TenantSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    inference_timeout: timedelta = timedelta(seconds=60)
    """Longest answer of a model that is waited for."""
    stream_timeout: timedelta = timedelta(minutes=15)
    """Longest upload or download."""
    follow_timeout: timedelta = timedelta(hours=1)
    """After it a follower of logs has to come again; it does so from where it was."""
