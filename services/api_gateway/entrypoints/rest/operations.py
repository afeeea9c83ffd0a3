"""Whether the gateway lives and is ready, and its metrics."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from services.api_gateway.entrypoints.rest.access import tolerant_router
from services.api_gateway.entrypoints.rest.dependencies import gateway
from services.chassis.telemetry.metrics import render_metrics


def operations_router() -> APIRouter:
    """Return the routes for operators; they need no key."""
    router = tolerant_router("", tag="operations")

    @router.get("/livez", response_class=PlainTextResponse)
    @router.get("/healthz", response_class=PlainTextResponse, operation_id="healthz")
    async def live() -> str:
        """Tell that the process answers."""
        return "ok"

    @router.get("/readyz", responses={503: {"content": {"application/json": {}}}})
    async def ready(
        request: Request, verbose: Annotated[str | None, Query(max_length=10)] = None
    ) -> JSONResponse:
        """Tell whether requests should come here; with `?verbose`, check by check."""
        report = await gateway(request).readiness.report()
        body = report.told(is_verbose=verbose is not None)
        return JSONResponse(body, status_code=200 if report.is_ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return Prometheus metrics."""
        text, media_type = render_metrics()
        return Response(text, headers={"content-type": media_type})

    return router
