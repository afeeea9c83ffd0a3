"""Names of the gateway's metrics."""

from services.chassis.telemetry.metrics import gauge

ROUTES = gauge(
    "modelyard_gateway_routes", help="Deployments in the routing table.", unit="{deployment}"
)
