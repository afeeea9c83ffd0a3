"""The closed list of expected failures.

Owns: every error that crosses a boundary, its code, and whether trying again can help. Mapped to
gRPC in `chassis.rpc.status` and to RFC 9457 in `chassis.web.problem`, nowhere else. What is
no `ModelyardError` is a bug and is shown as INTERNAL with an id, never with its text.

    ModelyardError
    ├── InvalidArgument        the request's field can't be what it is
    ├── PayloadTooLarge        a bound on bytes is exceeded
    ├── Unauthenticated        no valid credential
    ├── PermissionDenied       the credential lacks a scope
    ├── TenantSuspended        the tenant may read, and nothing else
    ├── NotFound               no such thing in this tenant
    ├── AlreadyExists          the name is taken
    ├── Conflict               the thing moved on meanwhile
    ├── VersionMismatch        the change is for another version of the thing
    ├── KeyReused, InProgress  idempotency key: other body; twin not finished
    ├── FailedPrecondition     the thing's state forbids it
    ├── QuotaExceeded          a quota is used up
    ├── QueueFull, RateLimited try again later
    ├── Unavailable            a dependency is down or overloaded
    ├── DeadlineExceeded       the caller's time ran out
    ├── Unimplemented          not offered here
    ├── UpstreamFailed         what a request was passed on to failed with it
    └── Internal               a bug, seen from a caller
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Self

from services.chassis.amounts import size_in_words


class ErrorCode(StrEnum):
    """Stable, machine-readable names; they appear in problem documents and in gRPC ErrorInfo."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CONFLICT = "CONFLICT"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    KEY_REUSED = "KEY_REUSED"
    IN_PROGRESS = "IN_PROGRESS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    QUEUE_FULL = "QUEUE_FULL"
    RATE_LIMITED = "RATE_LIMITED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UPSTREAM_FAILED = "MODEL_SERVER_FAILED"  # so released, of the one kind that there was
    INTERNAL = "INTERNAL"


class ModelyardError(Exception):
    """An expected failure: a sentence for people, a code and details for programs.

    `detail` maps short names to short strings and never holds secrets; `retry_after` says when a
    retry may help.
    """

    code: ClassVar[ErrorCode]
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        detail: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail: Mapping[str, str] = dict(detail or {})
        self.retry_after = retry_after

    @classmethod
    def worded(
        cls, message: str, *, detail: Mapping[str, str], retry_after: timedelta | None
    ) -> Self:
        """Return one whose sentence is made already, past the subclass's own constructor."""
        error = cls.__new__(cls)
        ModelyardError.__init__(error, message, detail=detail, retry_after=retry_after)
        return error


class InvalidArgument(ModelyardError):
    """A field of the request can't be what it is; `detail["field"]` names it: `outputs[0].path`."""

    code = ErrorCode.INVALID_ARGUMENT

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", detail={"field": field, "problem": problem})


class PayloadTooLarge(ModelyardError):
    """A body, message or file is larger than its named bound."""

    code = ErrorCode.PAYLOAD_TOO_LARGE

    def __init__(self, what: str, *, bytes_max: int) -> None:
        super().__init__(
            f"{what}: larger than {size_in_words(bytes_max)}",
            detail={"field": what, "bytes_max": str(bytes_max)},
        )


class Unauthenticated(ModelyardError):
    """No credential, or not a valid one; the text never says which."""

    code = ErrorCode.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("a valid credential is required")


class PermissionDenied(ModelyardError):
    """The credential is valid but lacks a scope."""

    code = ErrorCode.PERMISSION_DENIED

    def __init__(self, scope: str) -> None:
        super().__init__(f"scope {scope} is required", detail={"scope": scope})


class TenantSuspended(ModelyardError):
    """An administrator has suspended the tenant; what it has is kept, and may be read."""

    code = ErrorCode.TENANT_SUSPENDED

    def __init__(self, tenant: str, *, reason: str) -> None:
        super().__init__(
            f"tenant {tenant} is suspended: {reason}", detail={"kind": "tenant", "id": tenant}
        )


class NotFound(ModelyardError):
    """There is no such thing in the caller's tenant; a foreign thing reads the same."""

    code = ErrorCode.NOT_FOUND

    def __init__(self, kind: str, identity: str) -> None:
        super().__init__(f"{kind} {identity} was not found", detail={"kind": kind, "id": identity})


class AlreadyExists(ModelyardError):
    """The name is taken in the caller's tenant."""

    code = ErrorCode.ALREADY_EXISTS

    def __init__(self, kind: str, identity: str) -> None:
        super().__init__(f"{kind} {identity} already exists", detail={"kind": kind, "id": identity})


class Conflict(ModelyardError):
    """The thing has moved on since it was read; reading it again and retrying can help."""

    code = ErrorCode.CONFLICT
    retryable = True

    def __init__(self, kind: str, identity: str) -> None:
        super().__init__(
            f"{kind} {identity} has changed meanwhile", detail={"kind": kind, "id": identity}
        )


class VersionMismatch(ModelyardError):
    """The change was meant for another version than there is; its author has to look again.

    No Conflict: trying the same again can't help. `detail["current_version"]` is left out for what
    is not there.
    """

    code = ErrorCode.VERSION_MISMATCH

    def __init__(
        self,
        kind: str,
        identity: str,
        *,
        current: int | None,
        expected: int,
        counted_as: str = "version",
    ) -> None:
        found = "is not there" if current is None else f"is at {counted_as} {current}"
        detail = {} if current is None else {"current_version": str(current)}
        super().__init__(
            f"{kind} {identity} {found}; the change is for {counted_as} {expected}",
            detail={"kind": kind, "id": identity, **detail},
        )


def check_version(
    kind: str,
    identity: str,
    *,
    current: int | None,
    if_version: int | None,
    counted_as: str = "version",
) -> None:
    """Raise VersionMismatch unless a thing is at the version that a change is for, if for one.

    What is not there is at no version: `current` is None (ADR-0028).
    """
    if if_version is not None and current != if_version:
        raise VersionMismatch(
            kind, identity, current=current, expected=if_version, counted_as=counted_as
        )


class KeyReused(ModelyardError):
    """The idempotency key was used before with another request.

    The field is the header, and in lower case the metadata key.
    """

    code = ErrorCode.KEY_REUSED

    def __init__(self) -> None:
        field, problem = "Idempotency-Key", "was used before with another body; take another key"
        super().__init__(f"{field}: {problem}", detail={"field": field, "problem": problem})


class InProgress(ModelyardError):
    """A request with the same idempotency key is being worked on."""

    code = ErrorCode.IN_PROGRESS
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "a request with this idempotency key is in progress", retry_after=timedelta(seconds=1)
        )


class FailedPrecondition(ModelyardError):
    """The thing exists, but its state forbids what was asked."""

    code = ErrorCode.FAILED_PRECONDITION


class QuotaExceeded(ModelyardError):
    """The tenant has used up a quota; waiting helps only if the quota refills."""

    code = ErrorCode.QUOTA_EXCEEDED

    def __init__(
        self, quota: str, *, limit: int, used: int, asked: int = 1, field: str | None = None
    ) -> None:
        problem = f"{asked} more asked for, {used} of {limit} used"
        named = {} if field is None else {"field": field, "problem": problem}
        super().__init__(f"{quota}: {problem}", detail={"quota": quota, **named})


class QueueFull(ModelyardError):
    """A bounded queue has no place left."""

    code = ErrorCode.QUEUE_FULL
    retryable = True

    def __init__(self, queue: str, *, limit: int, retry_after: timedelta) -> None:
        super().__init__(
            f"{queue}: all {limit} places are taken",
            detail={"queue": queue, "limit": str(limit)},
            retry_after=retry_after,
        )


class RateLimited(ModelyardError):
    """The caller's rate is above its limit."""

    code = ErrorCode.RATE_LIMITED
    retryable = True

    def __init__(self, policy: str, *, retry_after: timedelta) -> None:
        super().__init__(
            f"{policy}: too many requests", detail={"policy": policy}, retry_after=retry_after
        )


class Unavailable(ModelyardError):
    """A dependency is down, overloaded, or its breaker is open."""

    code = ErrorCode.UNAVAILABLE
    retryable = True

    def __init__(
        self, what: str, *, because: str = "", retry_after: timedelta | None = None
    ) -> None:
        super().__init__(
            f"{what} is not available{because and f': {because}'}",
            detail={"dependency": what},
            retry_after=retry_after,
        )


class DeadlineExceeded(ModelyardError):
    """The caller's time ran out before an answer."""

    code = ErrorCode.DEADLINE_EXCEEDED
    retryable = True

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the deadline passed", detail={"dependency": what})


class Unimplemented(ModelyardError):
    """The operation is not offered here."""

    code = ErrorCode.UNIMPLEMENTED


class UpstreamFailed(ModelyardError):
    """What got a request passed on failed with it, by its own account; it may do so again."""

    code = ErrorCode.UPSTREAM_FAILED


class Internal(ModelyardError):
    """A bug in the service that was called; `detail["error_id"]` finds it in the logs."""

    code = ErrorCode.INTERNAL

    def __init__(self, error_id: str) -> None:
        super().__init__(f"internal error {error_id}", detail={"error_id": error_id})
