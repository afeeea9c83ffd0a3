"""Where the platform is and who calls: from the environment, else from the local stack's file."""

from pathlib import Path
from typing import Self

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class _StateSettings(BaseSettings):
    """Where the local stack keeps its files: what `make up` reads, too."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", env_ignore_empty=True)

    state: Path = Path(".modelyard")


class CliSettings(BaseSettings):
    """Environment variables `MODELYARD_…`; those that are missing come from the local stack."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="ignore")

    url: str = "http://127.0.0.1:8080"
    """Address of the gateway."""
    api_key: SecretStr = SecretStr("")
    """`myk_…`, as it was shown once; or a token of the issuer that the platform believes."""
    tenant: str = ""
    """Which tenant is meant, for a token of somebody who is a member of several."""
    otlp_endpoint: str = ""
    """Where the command's own spans go (OTLP over gRPC); empty: nowhere."""
    jaeger_url: str = ""
    """Jaeger's query address, for `trace show`."""
    operations: str = ""
    """Operations ports of the services behind the gateway, `name=http://host:port,…`, for `status`;
    empty: it tells of the gateway alone."""

    @classmethod
    def of_environment(cls) -> Self:
        """Return what the environment says, and for the rest the file that `make up` wrote."""
        return cls(_env_file=local_file())


def local_file() -> Path:
    """Return the file of the local stack: in `MODELYARD_STATE`, else in this folder's state."""
    return _StateSettings().state / "cli.env"
