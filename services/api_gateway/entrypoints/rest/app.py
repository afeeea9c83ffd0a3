"""The REST application: routers, failures, admission, in one place."""

from fastapi import FastAPI

from services.api_gateway.entrypoints.rest.access import check_declared
from services.api_gateway.entrypoints.rest.admission import Admission
from services.api_gateway.entrypoints.rest.api_keys import api_keys_router
from services.api_gateway.entrypoints.rest.artifacts import artifacts_router
from services.api_gateway.entrypoints.rest.body_limit import BodyLimit
from services.api_gateway.entrypoints.rest.dependencies import Gateway
from services.api_gateway.entrypoints.rest.deployments import deployments_router
from services.api_gateway.entrypoints.rest.description import complete_description
from services.api_gateway.entrypoints.rest.inference import inference_router
from services.api_gateway.entrypoints.rest.jobs import jobs_router
from services.api_gateway.entrypoints.rest.logs import logs_router
from services.api_gateway.entrypoints.rest.members import members_router
from services.api_gateway.entrypoints.rest.models import models_router
from services.api_gateway.entrypoints.rest.nodes import nodes_router
from services.api_gateway.entrypoints.rest.operations import operations_router
from services.api_gateway.entrypoints.rest.problems import add_problem_handlers
from services.api_gateway.entrypoints.rest.queues import queues_router
from services.api_gateway.entrypoints.rest.refusals import Refusals
from services.api_gateway.entrypoints.rest.stats import stats_router
from services.api_gateway.entrypoints.rest.tenants import tenants_router
from services.api_gateway.entrypoints.rest.whoami import whoami_router
from services.chassis.ids import Ids


def build_app(edge: Gateway, *, ids: Ids) -> FastAPI:
    """Return the application; raises ValueError for a route without a declared scope."""
    app = FastAPI(
        title="Modelyard",
        version="1",
        description="Runs, registers, serves and meters machine-learning work. What a route under "
        "/v1 does not know is refused: fields, query parameters, keys that come twice, a body "
        "where none is taken.",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        # A redirect to add or drop a slash would go to whatever host the caller named.
        redirect_slashes=False,
        # Spans are `tracing`'s, and the rest is not looked for either.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = edge
    for router in (
        jobs_router(edge),
        stats_router(edge),
        logs_router(edge),
        models_router(edge),
        artifacts_router(edge),
        deployments_router(edge),
        inference_router(edge),
        nodes_router(edge),
        queues_router(edge),
        api_keys_router(edge),
        tenants_router(edge),
        members_router(edge),
        whoami_router(edge),
        operations_router(),
    ):
        # As they are: `include_router` would look for the route of each request twice.
        app.router.routes.extend(router.routes)
    check_declared(app.routes)
    complete_description(app)
    add_problem_handlers(app, ids=ids)
    # The last one added is the outermost: who may enter is decided before a body is looked at.
    app.add_middleware(BodyLimit, policies=edge.policies)
    refusals = Refusals(edge.limiter, edge.policies, edge.clock)
    app.add_middleware(Admission, gateway=edge, refusals=refusals)
    return app
