"""Where the platform is and who calls: from the environment, else from the local stack's file."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CliSettings(BaseSettings):
    """Environment variables `MODELYARD_…`; `make up` writes them to `.modelyard/cli.env`."""

    model_config = SettingsConfigDict(
        env_prefix="MODELYARD_", env_file=".modelyard/cli.env", extra="ignore"
    )

    url: str = "http://127.0.0.1:8080"
    """Address of the gateway."""
    api_key: SecretStr = SecretStr("")
    """`myk_…`, as it was shown once."""
    otlp_endpoint: str = ""
    """Where the command's own spans go (OTLP over gRPC); empty: nowhere."""
    jaeger_url: str = ""
    """Jaeger's query address, for `trace show`."""
