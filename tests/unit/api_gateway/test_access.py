"""Each route says which scope it needs, or stands in the list of public paths."""

import re

import pytest
from fastapi import APIRouter, Depends, FastAPI

from services.api_gateway.entrypoints.rest import app as application
from services.api_gateway.entrypoints.rest.access import PUBLIC, check_declared, needs
from services.chassis.clock import SystemClock
from services.chassis.ids import TimeOrderedIds
from tests.unit.api_gateway.edge import Edge

IDS = TimeOrderedIds(SystemClock())


async def answer() -> str:
    return "ok"


def an_app(router: APIRouter) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    return app


def test_the_application_is_not_built_with_a_route_that_declares_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgotten = APIRouter()
    forgotten.add_api_route("/v1/forgotten", answer, dependencies=[Depends(answer)])
    monkeypatch.setattr(application, "operations_router", lambda: forgotten)
    with pytest.raises(ValueError, match=r"/v1/forgotten is not public and declares no scope"):
        application.build_app(Edge().gateway(), ids=IDS)


def test_a_public_path_can_not_need_a_scope() -> None:
    router = APIRouter()
    router.add_api_route("/livez", answer, dependencies=[needs("jobs:read")])
    with pytest.raises(ValueError, match=r"/livez is public and declares a scope"):
        check_declared(an_app(router).routes)


def test_what_is_no_ordinary_route_needs_a_declaration_too() -> None:
    router = APIRouter()
    router.add_api_websocket_route("/v1/live", answer)
    with pytest.raises(ValueError, match=r"/v1/live"):
        check_declared(an_app(router).routes)
    app = FastAPI(openapi_url=None)
    app.mount("/files", an_app(APIRouter()))
    with pytest.raises(ValueError, match=r"/files"):
        check_declared(app.routes)


def test_a_scope_that_does_not_exist_can_not_be_declared() -> None:
    with pytest.raises(AssertionError, match="jobs:fly"):
        needs("jobs:fly")


async def test_the_description_tells_each_routes_scope() -> None:
    async with Edge().client() as client:
        described = (await client.get("/openapi.json")).json()
    [(name, scheme)] = described["components"]["securitySchemes"].items()
    assert (name, scheme["type"], scheme["scheme"]) == ("ApiKey", "http", "bearer")
    told = {
        f"{method} {path}": operation.get("security")
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert told["post /v1/jobs"] == [{"ApiKey": ["jobs:write"]}]
    assert told["get /v1/jobs/{owner_id}/logs"] == [{"ApiKey": ["logs:read", "jobs:read"]}]
    assert told["post /v2/models/{model}/infer"] == [{"ApiKey": ["inference"]}]
    assert told["get /v1/whoami"] == [{"ApiKey": []}]
    assert {line.split()[1] for line, security in told.items() if security is None} <= PUBLIC


async def test_who_may_not_is_refused_before_path_query_or_body_is_looked_at() -> None:
    edge = Edge()
    answers = {}
    async with edge.client(key=await edge.key("trace")) as client:  # which opens no route
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path, operations in paths.items():
            for verb, operation in operations.items():
                if operation.get("security", [{"ApiKey": []}])[0]["ApiKey"]:
                    answers[f"{verb} {path}"] = await client.request(
                        verb,
                        re.sub("{[^}]+}", "NO,NAME", path),
                        content=b"{no json" if verb in {"post", "put"} else b"",
                        headers={"content-type": "application/json"},
                    )
    assert len(answers) > 40
    refused = {name for name, answer in answers.items() if answer.status_code == 403}
    assert answers.keys() - refused == set()
