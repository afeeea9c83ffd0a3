"""`/v2`: the Open Inference Protocol over REST; the deployment's name is the model's name.

Bodies pass through as bytes, binary tensors too. Source:
https://github.com/kserve/open-inference-protocol (inference_rest.md).
"""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from services.api_gateway.entrypoints.rest.dependencies import Gateway, caller, gateway
from services.api_gateway.use_cases.infer import InferenceRequest

_PASSED_ON: Final = frozenset(
    {
        "content-type",
        "content-encoding",
        "accept",
        "accept-encoding",
        "inference-header-content-length",
    }
)
ModelName = Annotated[str, Path(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Version = Annotated[str, Path(pattern=r"^[0-9]{1,18}$")]


def inference_router(edge: Gateway) -> APIRouter:
    """Return the protocol's routes."""
    router = APIRouter(prefix="/v2", tags=["inference"])

    @router.get("/health/live")
    async def server_live() -> dict[str, bool]:
        """Tell that the gateway runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def server_ready(request: Request) -> JSONResponse:
        """Tell whether the gateway takes requests."""
        is_ready = await gateway(request).readiness.is_ready()
        return JSONResponse({"live": True, "ready": is_ready}, status_code=200 if is_ready else 503)

    @router.get("")
    async def server_metadata() -> dict[str, object]:
        """Name the server and the extensions that pass through it."""
        return {"name": "modelyard", "version": "2", "extensions": ["binary_tensor_data"]}

    @router.get("/models/{model}/ready")
    @router.get("/models/{model}/versions/{version}/ready", operation_id="model_version_ready")
    async def model_ready(request: Request, model: ModelName, version: Version = "") -> Response:
        """Tell whether a replica of the model answers."""
        return await _pass(request, model, version, "/ready")

    @router.get("/models/{model}")
    @router.get("/models/{model}/versions/{version}", operation_id="model_version_metadata")
    async def model_metadata(request: Request, model: ModelName, version: Version = "") -> Response:
        """Describe the model's inputs and outputs."""
        return await _pass(request, model, version, "")

    @router.post("/models/{model}/infer", max_body_size=edge.policies.inference_bytes_max)
    @router.post(
        "/models/{model}/versions/{version}/infer",
        max_body_size=edge.policies.inference_bytes_max,
        operation_id="model_version_infer",
    )
    async def infer(request: Request, model: ModelName, version: Version = "") -> Response:
        """Ask the model."""
        return await _pass(request, model, version, "/infer")

    return router


async def _pass(request: Request, model: str, version: str, verb: str) -> Response:
    principal = caller(request, "inference")
    versioned = f"/versions/{version}" if version else ""
    answer = await gateway(request).infer(
        principal.tenant,
        model,
        InferenceRequest(
            method=request.method,
            path=f"/v2/models/{model}{versioned}{verb}",
            headers={k: v for k, v in request.headers.items() if k in _PASSED_ON},
            body=await request.body(),
        ),
    )
    return Response(answer.body, status_code=answer.status, headers=dict(answer.headers))
