"""What a call is part of: by whom, until when, under which key.

Owns: the context variables that the server's interceptors set and the client's read. Work without a
call, such as a consumer or a loop, says for whom it acts by `acting_as`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import grpc.aio

from services.chassis.errors import InvalidArgument, Unauthenticated
from services.chassis.rpc.deadline import Deadline
from services.chassis.tenancy import Principal

Context = grpc.aio.ServicerContext[Any, Any]

IDEMPOTENCY_KEY: Final = "idempotency-key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")

_principal: ContextVar[Principal | None] = ContextVar("principal", default=None)
_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def principal() -> Principal:
    """Return whom this work is for; raises Unauthenticated outside of any."""
    found = _principal.get()
    if found is None:
        raise Unauthenticated
    return found


def deadline() -> Deadline | None:
    """Return the end of this call's time, None where nothing bounds it."""
    return _deadline.get()


@contextmanager
def acting_as(who: Principal) -> Iterator[None]:
    """Run the block for a principal: calls inside carry its token."""
    token = _principal.set(who)
    try:
        yield
    finally:
        _principal.reset(token)


@contextmanager
def bounded_by(until: Deadline) -> Iterator[None]:
    """Run the block under a deadline: calls inside end before it."""
    token = _deadline.set(until)
    try:
        yield
    finally:
        _deadline.reset(token)


def idempotency_key(context: Context) -> str | None:
    """Return the caller's idempotency key; raises InvalidArgument for one that is none."""
    for name, value in context.invocation_metadata() or ():
        if name == IDEMPOTENCY_KEY:
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            if not _KEY.fullmatch(text):
                raise InvalidArgument("Idempotency-Key", "must be 1 to 200 printable characters")
            return text
    return None
