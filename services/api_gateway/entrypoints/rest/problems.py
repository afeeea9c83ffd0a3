"""Every failure as an RFC 9457 problem document.

On the inference endpoint the document also has the key `error`, the only one that Open Inference
Protocol clients read.
"""

from collections.abc import Mapping
from datetime import timedelta

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from loguru import logger
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from services.chassis.errors import (
    FailedPrecondition,
    Internal,
    ModelyardError,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Unimplemented,
)
from services.chassis.ids import Ids
from services.chassis.web.problem import problem_of

MEDIA_TYPE = "application/problem+json"


def problem_response(error: ModelyardError, *, path: str, status: int | None = None) -> Response:
    """Return the answer that says what went wrong, with the error's own status by default."""
    problem = problem_of(error)
    headers = dict(problem.headers)
    body = dict(problem.body)
    if status is not None:
        body["status"] = status
    if path.startswith("/v2"):
        body["error"] = error.message
    return JSONResponse(
        body, status_code=status or problem.status, headers=headers, media_type=MEDIA_TYPE
    )


def add_problem_handlers(app: FastAPI, *, ids: Ids) -> None:
    """Answer every exception that leaves a route with a problem document."""

    async def on_expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, ModelyardError)
        return problem_response(error, path=request.url.path)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"field": _field(found["type"], found["loc"]), "problem": str(found["msg"])}
            for found in error.errors()
        ]
        body: Mapping[str, object] = {
            "type": "about:blank",
            "title": "INVALID_ARGUMENT",
            "status": 422,
            "detail": f"{errors[0]['field']}: {errors[0]['problem']}",
            "code": "INVALID_ARGUMENT",
            "errors": errors,
        }
        return JSONResponse(body, status_code=422, media_type=MEDIA_TYPE)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(
            _expected(error, request), path=request.url.path, status=error.status_code
        )

    async def on_burst(request: Request, error: Exception) -> Response:
        assert isinstance(error, RateLimitExceeded)
        return problem_response(
            RateLimited("burst", retry_after=timedelta(seconds=1)), path=request.url.path
        )

    async def on_bug(request: Request, error: Exception) -> Response:
        internal = Internal(ids.new("err"))
        logger.opt(exception=error).error("request failed", error_id=internal.detail["error_id"])
        return problem_response(internal, path=request.url.path)

    app.add_exception_handler(ModelyardError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RateLimitExceeded, on_burst)
    app.add_exception_handler(Exception, on_bug)


def _expected(error: HTTPException, request: Request) -> ModelyardError:
    match error.status_code:
        case 404:
            return NotFound("path", request.url.path)
        case 405:
            return Unimplemented(f"{request.method} is not offered on {request.url.path}")
        case 413:
            return PayloadTooLarge(
                "body", bytes_max=request.app.state.gateway.policies.bytes_max_of(request.url.path)
            )
        case _:
            return FailedPrecondition(str(error.detail))


def _field(kind: str, location: tuple[int | str, ...]) -> str:
    """Return `resources.cpu_millicores` for ("body", "resources", "cpu_millicores").

    Of what is no JSON the location is a position in the text, which is no field: it is `body`.
    """
    if kind == "json_invalid":
        return "body"
    parts = [str(part) for part in location if part not in {"body", "query", "path"}]
    return ".".join(parts) or "body"
