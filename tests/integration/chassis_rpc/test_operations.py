"""The port for operators."""

import aiohttp

from services.chassis.errors import Unavailable
from services.chassis.lifecycle import Readiness
from services.chassis.settings import OperationsSettings
from services.chassis.web.operations import serve_operations


async def test_operators_see_life_readiness_and_metrics() -> None:
    async def down() -> None:
        raise Unavailable("kafka")

    readiness = Readiness()
    readiness.advise("runtime", down)
    async with (
        serve_operations(OperationsSettings(port=0), readiness) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True})

        readiness.add("kafka", down)
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"ready": False})
        async with client.get("/readyz?verbose") as answer:
            told = await answer.json()
            assert told["checks"] == {"kafka": "kafka is not available"}
            assert told["advisories"] == {"runtime": "kafka is not available"}
            assert "breakers" in told
        for path in ("/livez", "/healthz"):
            async with client.get(path) as answer:
                assert answer.status == 200
        async with client.get("/metrics") as answer:
            assert answer.content_type == "text/plain"
            assert "modelyard_breaker_state" in await answer.text()
