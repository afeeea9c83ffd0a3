"""The way to a service's database.

Owns: the pool's bounds, the time-outs of every session, recognising connections that died in the
pool, and a span for each statement inside a recorded trace. Leaves transactions to
`unit_of_work`.

Always holds: no session waits without a bound, for a connection, a lock, a statement or a client
that forgot it; errors show a statement without its values.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.db.errors import connecting
from services.chassis.settings import PostgresSettings
from services.chassis.telemetry.tracing import tracer

_STARTED_AT: Final = "modelyard_started_at_ns"
_QUERY_TEXT_MAX: Final = 512


@asynccontextmanager
async def open_engine(
    settings: PostgresSettings, *, application_name: str
) -> AsyncIterator[AsyncEngine]:
    """Open a bounded pool; connections are made when first needed, so a dead database is no error.

    `application_name` is what `pg_stat_activity` shows.
    """
    engine = create_async_engine(
        settings.url.get_secret_value(),
        pool_size=settings.pool_size,
        max_overflow=settings.pool_overflow_max,
        pool_timeout=settings.pool_wait_max.total_seconds(),
        hide_parameters=True,  # of errors, which are logged: values may be a tenant's secrets
        pool_use_lifo=True,  # idle connections age out of use instead of all being kept warm
        connect_args={
            "timeout": settings.connect_timeout.total_seconds(),
            # Behind the server's own limit: only a silent network or a frozen server gets here.
            "command_timeout": 2 * settings.statement_timeout.total_seconds(),
            "server_settings": {
                "application_name": application_name,
                "timezone": "UTC",
                "jit": "off",
                "statement_timeout": _milliseconds(settings.statement_timeout.total_seconds()),
                "lock_timeout": _milliseconds(settings.lock_timeout.total_seconds()),
                "idle_in_transaction_session_timeout": _milliseconds(
                    settings.idle_in_transaction_timeout.total_seconds()
                ),
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    event.listen(engine.sync_engine, "before_cursor_execute", _statement_begins)
    event.listen(engine.sync_engine, "after_cursor_execute", _statement_ended)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that commits on a clean exit; callers map its errors (`database_errors`).

    For the chassis' own short transactions; services use a unit of work.
    """
    async with AsyncExitStack() as stack:
        with connecting():
            connection = await stack.enter_async_context(engine.begin())
        yield connection


def autocommitting(engine: AsyncEngine) -> AsyncEngine:
    """Return the same pool, each statement being its own transaction: one round trip, not three."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _refuse_dead(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Let the pool replace a connection that the server has closed, without asking the server.

    asyncpg has seen the end of the stream by then, so this costs no round trip, unlike a ping.
    """
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


def _statement_begins(
    _connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context is not None and trace.get_current_span().is_recording():
        setattr(context, _STARTED_AT, time.time_ns())


def _statement_ended(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    """Write the statement's span afterwards: nothing is open while it runs, so nothing can leak.

    A failed statement has no span of its own; its transaction's span carries the error.
    """
    started_at = getattr(context, _STARTED_AT, None)
    if started_at is None:
        return
    operation = statement.split(maxsplit=1)[0].upper()
    span = tracer(__name__).start_span(
        operation,
        kind=SpanKind.CLIENT,
        start_time=started_at,
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": operation,
            "db.query.text": statement[:_QUERY_TEXT_MAX],  # placeholders only, never values
        },
    )
    span.end()
