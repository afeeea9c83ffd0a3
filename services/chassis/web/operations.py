"""Health and metrics of services that have no other HTTP.

`/livez`, `/healthz`: the process answers. `/readyz`: requests should come here; `?verbose` names
each check, what is not well though requests are answered, and the breakers' states. `/metrics`:
Prometheus. Open to whoever reaches the port, which is for operators only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from services.chassis.lifecycle import Readiness
from services.chassis.settings import OperationsSettings
from services.chassis.telemetry.metrics import render_metrics


@asynccontextmanager
async def serve_operations(
    settings: OperationsSettings, readiness: Readiness
) -> AsyncIterator[int]:
    """Answer until the context closes; gives the port."""

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        report = await readiness.report()
        body = report.told(is_verbose="verbose" in request.query)
        return web.json_response(body, status=200 if report.is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        text, media_type = render_metrics()
        return web.Response(body=text, headers={"Content-Type": media_type})

    app = web.Application(client_max_size=1024)
    app.add_routes(
        [
            web.get("/livez", live),
            web.get("/healthz", live),
            web.get("/readyz", ready),
            web.get("/metrics", metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
