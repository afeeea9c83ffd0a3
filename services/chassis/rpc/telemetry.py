"""Names of the metrics and attributes of calls between services.

Attribute names: OpenTelemetry semantic conventions for RPC, https://opentelemetry.io/docs/specs/semconv/rpc/
"""

from functools import lru_cache
from typing import Final

from prometheus_client import Histogram

from services.chassis.telemetry.metrics import histogram

SERVER_SECONDS = histogram(
    "modelyard_rpc_server_call_duration",
    help="Time to answer a call, streams included.",
    unit="seconds",
    labels=["method", "code"],
)
CLIENT_SECONDS = histogram(
    "modelyard_rpc_client_call_duration",
    help="Time until a call was answered.",
    unit="seconds",
    labels=["method", "code"],
)
SYSTEM: Final = "rpc.system.name"
METHOD: Final = "rpc.method"
STATUS: Final = "rpc.response.status_code"


@lru_cache(maxsize=2048)  # methods by codes
def client_seconds(method: str, code: str) -> Histogram:
    """Return one method's and code's part; looking it up by `labels` costs as much as observing."""
    return CLIENT_SECONDS.labels(method, code)
