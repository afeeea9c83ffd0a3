"""The one mapping between `ModelyardError` and gRPC status (ADR-0004).

The code and details travel as google.rpc.ErrorInfo (domain "modelyard"), waiting times as
RetryInfo, so that an error arrives as the class that it left as. An answer without them comes from
gRPC itself or from a stranger and is read by its status code.
"""

import re
from collections.abc import Mapping
from typing import Final

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from services.chassis.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    InProgress,
    Internal,
    InvalidArgument,
    KeyReused,
    ModelyardError,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    TenantSuspended,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    UpstreamFailed,
    VersionMismatch,
)

DOMAIN: Final = "modelyard"

# A status travels in trailing metadata, twice; beyond 8 KiB of it gRPC fails the call instead.
_MESSAGE_CHARACTERS_MAX: Final = 500
_DETAIL_CHARACTERS_MAX: Final = 200
_DETAIL_COUNT_MAX: Final = 8
# gRPC's own words: "Received message larger than max (5242892 vs. 4194304)".
_TOO_LARGE: Final = re.compile(r"message larger than max \(\d+ vs\. (\d+)\)")

CODES: Final[Mapping[ErrorCode, grpc.StatusCode]] = {
    ErrorCode.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.PAYLOAD_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.TENANT_SUSPENDED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorCode.CONFLICT: grpc.StatusCode.ABORTED,
    ErrorCode.VERSION_MISMATCH: grpc.StatusCode.ABORTED,
    ErrorCode.KEY_REUSED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.IN_PROGRESS: grpc.StatusCode.ABORTED,
    ErrorCode.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorCode.UPSTREAM_FAILED: grpc.StatusCode.UNKNOWN,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}

_CLASSES: Final[Mapping[str, type[ModelyardError]]] = {
    kind.code: kind
    for kind in (
        AlreadyExists,
        Conflict,
        DeadlineExceeded,
        FailedPrecondition,
        InProgress,
        Internal,
        InvalidArgument,
        KeyReused,
        NotFound,
        PayloadTooLarge,
        PermissionDenied,
        QueueFull,
        QuotaExceeded,
        RateLimited,
        TenantSuspended,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        UpstreamFailed,
        VersionMismatch,
    )
}


def to_status(error: ModelyardError) -> Status:
    """Return the status that carries the error."""
    details = [
        _packed(
            error_details_pb2.ErrorInfo(
                reason=error.code, domain=DOMAIN, metadata=_bounded(error.detail)
            )
        )
    ]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    number: int = CODES[error.code].value[0]
    return Status(code=number, message=error.message[:_MESSAGE_CHARACTERS_MAX], details=details)


def from_call_error(call_error: grpc.aio.AioRpcError, *, callee: str) -> ModelyardError:
    """Return the error that a call ended with."""
    status = rpc_status.from_call(call_error)  # type: ignore[arg-type]
    if status is not None:
        found = _from_status(status)
        if found is not None:
            return found
    match call_error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(callee)
        # Cancelled by the callee: our own cancelling is a CancelledError.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(callee)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            # A bound on size, or on calls at work.
            too_large = _TOO_LARGE.search(call_error.details() or "")
            if too_large is None:
                return Unavailable(callee)
            return PayloadTooLarge("message", bytes_max=int(too_large[1]))
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(f"{callee} does not offer this")
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated()
        case _:
            return Internal(f"from {callee}")


def is_callees_fault(error: BaseException) -> bool:
    """Tell whether an error speaks against the callee's health: what its breaker counts."""
    return isinstance(error, Unavailable | DeadlineExceeded | Internal)


def _from_status(status: Status) -> ModelyardError | None:
    info, retry_after = error_details_pb2.ErrorInfo(), None
    has_info = False
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            has_info = detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
    kind = _CLASSES.get(info.reason) if has_info and info.domain == DOMAIN else None
    if kind is None:
        return None
    return kind.worded(status.message, detail=info.metadata, retry_after=retry_after)


def _bounded(detail: Mapping[str, str]) -> dict[str, str]:
    kept = list(detail.items())[:_DETAIL_COUNT_MAX]
    return {name: value[:_DETAIL_CHARACTERS_MAX] for name, value in kept}


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
