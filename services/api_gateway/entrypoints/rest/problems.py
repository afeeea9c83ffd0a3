"""Every failure as an RFC 9457 problem document.

On the inference endpoint the document also has the key `error`, the only one that Open Inference
Protocol clients read. Two answers never reach the application and are uvicorn's, in plain text: 400
to what is no HTTP, 503 beyond `connections_max`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from loguru import logger
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from services.api_gateway.entrypoints.rest.strictness import UnreadableBody
from services.api_gateway.entrypoints.rest.words import (
    field_in_words,
    in_request_words,
    problem_in_words,
)
from services.chassis.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ModelyardError,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Unimplemented,
)
from services.chassis.ids import Ids
from services.chassis.web.problem import MEDIA_TYPE, problem_of

# A body may hold a wrong field every few bytes.
ERRORS_SHOWN_MAX: Final = 20


def problem_response(
    error: ModelyardError,
    *,
    path: str,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Response:
    """Return the answer that says what went wrong, with the error's own status by default."""
    problem = problem_of(error)
    body = dict(problem.body)
    if status is not None:
        body["status"] = status
    if errors:
        body["errors"] = errors
    if path.startswith("/v2"):
        body["error"] = error.message
    return JSONResponse(
        body,
        status_code=status or problem.status,
        headers={**problem.headers, **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def add_problem_handlers(app: FastAPI, *, ids: Ids) -> None:
    """Answer every exception that leaves a route with a problem document."""

    async def on_expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, ModelyardError)
        return problem_response(in_request_words(error), path=request.url.path)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            {
                "field": field_in_words(found["type"], found["loc"]),
                "problem": problem_in_words(found),
            }
            for found in error.errors()[:ERRORS_SHOWN_MAX]
        ]
        first = InvalidArgument(errors[0]["field"], errors[0]["problem"])
        return problem_response(first, path=request.url.path, errors=errors)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, UnreadableBody):
            return problem_response(error.refusal, path=request.url.path)
        return problem_response(
            _expected(error, request),
            path=request.url.path,
            status=error.status_code,
            headers=_allowed(request) if error.status_code == 405 else error.headers,
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
        case 400 | 422:
            return InvalidArgument("body", str(error.detail))
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


def _allowed(request: Request) -> dict[str, str]:
    """Return `Allow` for all routes of the path: Starlette names the first one's methods only."""
    offered = [
        method
        for method in ("DELETE", "GET", "POST", "PUT")
        for route in request.app.router.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    ]
    return {"Allow": ", ".join(offered)}
