"""`/v2`: the Open Inference Protocol over REST; the deployment's name is the model's name.

Bodies pass through as bytes, binary tensors too; those of failures are read (`replica_answers`).
Source: https://github.com/kserve/open-inference-protocol (inference_rest.md).
"""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from modelyard.scheduler.v1 import deployment_service_pb2 as pb
from modelyard.scheduler.v1.deployment_pb2 import REPLICA_STATE_READY, ReplicaState

from services.api_gateway.domain.routing import NoReplica
from services.api_gateway.entrypoints.rest.access import needs, tolerant_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.replica_answers import response_of
from services.api_gateway.use_cases.infer import InferenceRequest
from services.chassis.errors import ModelyardError
from services.chassis.tenancy import Principal

_PASSED_ON: Final = frozenset(
    {
        "content-type",
        "content-encoding",
        "accept",
        "accept-encoding",
        "inference-header-content-length",
    }
)
_WHY_WAIT_MAX_S: Final = 1.0
"""The refusal is not held up for longer by the question for its reason."""
_REASONS_MAX: Final = 3
Caller = Annotated[Principal, needs("inference")]
ModelName = Annotated[str, Path(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Version = Annotated[str, Path(pattern=r"^[0-9]{1,18}$")]


def inference_router(edge: Gateway) -> APIRouter:
    """Return the protocol's routes."""
    router = tolerant_router("/v2", tag="inference")

    @router.get("/health/live")
    async def server_live() -> dict[str, bool]:
        """Tell that the gateway runs."""
        return {"live": True}

    @router.get("/health/ready", responses={503: {"content": {"application/json": {}}}})
    async def server_ready(request: Request) -> JSONResponse:
        """Tell whether the gateway takes requests."""
        is_ready = await gateway(request).readiness.is_ready()
        return JSONResponse({"live": True, "ready": is_ready}, status_code=200 if is_ready else 503)

    @router.get("")
    async def server_metadata() -> dict[str, object]:
        """Name the server and the extensions that pass through it."""
        return {"name": "modelyard", "version": "2", "extensions": ["binary_tensor_data"]}

    def add(method: str, verb: str, name: str) -> None:
        """Add a call on a model, with and without a version in its path."""

        async def on_model(request: Request, caller: Caller, model: ModelName) -> Response:
            return await _pass(request, caller, f"/v2/models/{model}{verb}", model)

        async def on_version(
            request: Request, caller: Caller, model: ModelName, version: Version
        ) -> Response:
            return await _pass(
                request, caller, f"/v2/models/{model}/versions/{version}{verb}", model
            )

        for path, route, operation in (
            ("/models/{model}", on_model, name),
            ("/models/{model}/versions/{version}", on_version, f"{name}_of_version"),
        ):
            router.add_api_route(
                path + verb,
                route,
                methods=[method],
                name=operation,
                operation_id=operation,
                responses={200: {"content": {"application/octet-stream": {}}}},
            )

    add("GET", "/ready", "model_ready")
    add("GET", "", "model_metadata")
    add("POST", "/infer", "model_infer")
    return router


async def _pass(request: Request, principal: Principal, path: str, model: str) -> Response:
    edge = gateway(request)
    try:
        answer = await edge.infer(
            principal.tenant,
            model,
            InferenceRequest(
                method=request.method,
                path=path,
                headers={k: v for k, v in request.headers.items() if k in _PASSED_ON},
                body=await request.body(),
            ),
        )
    except NoReplica as error:
        raise NoReplica(model, because=await _why_none(edge, model)) from error
    return response_of(answer, deployment=model, path=path)


async def _why_none(edge: Gateway, model: str) -> str:
    """Return what a deployment's replicas wait for, where its owner soon tells this caller."""
    try:
        async with asyncio.timeout(_WHY_WAIT_MAX_S):
            found = await edge.deployments.get(pb.GetDeploymentRequest(deployment=model))
    except (ModelyardError, TimeoutError):
        return ""
    waiting = {
        f"{ReplicaState.Name(each.state).removeprefix('REPLICA_STATE_')}: {each.reason}"
        for each in found.deployment.replicas
        if each.state != REPLICA_STATE_READY
    }
    return "; ".join(sorted(waiting)[:_REASONS_MAX])
