"""The one mapping from `ModelyardError` to RFC 9457 (ADR-0004)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.chassis.errors import ErrorCode, ModelyardError

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.INVALID_ARGUMENT: 422,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.TENANT_SUSPENDED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.ALREADY_EXISTS: 409,
    ErrorCode.CONFLICT: 409,
    ErrorCode.VERSION_MISMATCH: 412,
    ErrorCode.KEY_REUSED: 409,
    ErrorCode.IN_PROGRESS: 409,
    ErrorCode.FAILED_PRECONDITION: 409,
    ErrorCode.QUOTA_EXCEEDED: 403,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.UNIMPLEMENTED: 501,
    ErrorCode.UPSTREAM_FAILED: 502,
    ErrorCode.INTERNAL: 500,
}

_ALWAYS_RETRY_AFTER: Final = frozenset({429, 503})
_RETRY_AFTER_DEFAULT: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document with its status and headers."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str]


def problem_of(error: ModelyardError) -> Problem:
    """Return the document that says what went wrong."""
    status = STATUSES[error.code]
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code.value,
        "status": status,
        "detail": error.message,
        "code": error.code.value,
    }
    if "field" in error.detail:
        problem = error.detail.get("problem", error.message)
        body["errors"] = [{"field": error.detail["field"], "problem": problem}]
    if "current_version" in error.detail:
        body["current_version"] = int(error.detail["current_version"])
    headers = {}
    if error.retry_after is not None or status in _ALWAYS_RETRY_AFTER:
        wait = error.retry_after or _RETRY_AFTER_DEFAULT
        headers["Retry-After"] = str(max(1, math.ceil(wait.total_seconds())))
        body["retry_after"] = int(headers["Retry-After"])
    if error.code is ErrorCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return Problem(status=status, body=body, headers=headers)
