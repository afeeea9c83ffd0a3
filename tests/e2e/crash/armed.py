"""`python -m tests.e2e.crash.armed SERVICE …`: the service as it is, until it reaches a fatal step.

Puts itself around the seams that each service has anyway (the unit of work's end, ports, the relay,
a consumer's position) and then runs the service's own `__main__`. The product knows nothing of it:
there is nothing to switch off (ADR-0031).

`CRASH_AT` is a file that names the fatal steps of the moment, one a line, none while it is to live.
`CRASH_NOTES` is the file that gets each step as it is first passed, with how old the process was
then in seconds, and the fatal one with the instant of the kill.
"""

import functools
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from typing_extensions import override

from services.chassis.db.lease import HeldLease
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Rows
from services.chassis.db.unit_of_work import PostgresUnitOfWork, Transaction
from services.chassis.events.kafka_consumer import KafkaSubscription
from services.chassis.events.ports import TopicPartition
from tests.e2e.crash.steps import PORTS, named

KILLED: Final = "killed"
_AT: Final = "CRASH_AT"
_NOTES: Final = "CRASH_NOTES"
_WRITES: Final = re.compile(r"\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", re.IGNORECASE)
_WROTE: Final = "crash_wrote"
_USE_CASES: Final = re.compile(r"services/\w+/use_cases/")


def settings(folder: Path) -> Mapping[str, str]:
    """Return the environment of a service that is to read and write in a folder."""
    return {_AT: str(at_of(folder)), _NOTES: str(notes_of(folder))}


def at_of(folder: Path) -> Path:
    """Return the file with the fatal steps."""
    return folder / "at"


def notes_of(folder: Path) -> Path:
    """Return the file with what happened."""
    return folder / "notes"


class Death:
    """Waits at some steps, and tells which others were passed."""

    def __init__(self, service: str, at: Path, notes: Path) -> None:
        self._service = service
        self._at = at
        self._notes = notes
        self._seen: set[str] = set()
        self._began_at_s = time.monotonic()

    def reached(self, who: str, when: str) -> None:
        """Go on, unless this is a fatal step."""
        step = f"{self._service}.{who}.{when}"
        if step in self._at.read_text().split():
            self._note(f"{KILLED} {step} {time.time()}")
            os.kill(os.getpid(), signal.SIGKILL)
        if step not in self._seen:
            self._seen.add(step)
            self._note(f"{step} {time.monotonic() - self._began_at_s:.3f}")

    def _note(self, line: str) -> None:
        with self._notes.open("a") as notes:  # the kernel keeps it, whatever follows
            notes.write(f"{line}\n")


def arm(death: Death, service: str) -> None:
    """Put the death at every seam."""
    _arm_commits(death)
    _arm_relay(death)
    _arm_positions(death)
    for port in PORTS:
        if port.service != service:
            continue
        for path in port.adapters:
            module, name = path.split(":")
            for act in port.acts:
                _arm_call(getattr(import_module(module), name), act, death, port.protocol)


def _arm_commits(death: Death) -> None:
    inner = PostgresUnitOfWork._write_outbox

    async def write_outbox(self: PostgresUnitOfWork, tx: Transaction) -> None:
        await inner(self, tx)
        if (connection := tx.connection.sync_connection) is None or not _has_written(connection):
            return
        who = _use_case(sys._getframe())
        if who is None:
            return
        death.reached(who, "before_commit")
        tx.after_commit.insert(0, functools.partial(death.reached, who, "after_commit"))

    setattr(PostgresUnitOfWork, "_write_outbox", write_outbox)  # noqa: B010

    def begun(connection: sa.Connection) -> None:
        connection.info.pop(_WROTE, None)

    def executed(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.rowcount and _WRITES.search(statement):  # -1: it is not told of how many rows
            connection.info[_WROTE] = True

    event.listen(sa.Engine, "begin", begun)
    event.listen(sa.Engine, "after_cursor_execute", executed)


def _has_written(connection: sa.Connection) -> bool:
    return _WROTE in connection.info


def _use_case(frame: FrameType | None) -> str | None:
    """Return whose transaction it is: the outermost function of the innermost use case's file."""
    file, name = "", None
    while frame is not None:
        code = frame.f_code
        if not file and _USE_CASES.search(code.co_filename):
            file = code.co_filename
        if file and code.co_filename == file:
            name = code.co_qualname
        frame = frame.f_back
    return None if name is None else named(name)


def _arm_relay(death: Death) -> None:
    class Outbox(PostgresOutbox):
        """The outbox, with the relay's steps."""

        @override
        async def unpublished(
            self, shards: Collection[int], *, stopped: Collection[str], rows_max: int
        ) -> Rows:
            rows = await super().unpublished(shards, stopped=stopped, rows_max=rows_max)
            if rows:
                death.reached("Relay", "before_send")
            return rows

        @override
        async def mark(self, rows: Rows, leases: Collection[HeldLease]) -> int:
            death.reached("Relay", "before_mark")
            marked_count = await super().mark(rows, leases)
            death.reached("Relay", "after_mark")
            return marked_count

    import_module("services.chassis.db.outbox").PostgresOutbox = Outbox  # type: ignore[attr-defined]


def _arm_positions(death: Death) -> None:
    inner = KafkaSubscription.store

    def store(self: KafkaSubscription, origin: TopicPartition, offset: int) -> None:
        death.reached("EventConsumer", "before_position")
        inner(self, origin, offset)
        death.reached("EventConsumer", "after_position")

    setattr(KafkaSubscription, "store", store)  # noqa: B010


def _arm_call(kind: type, act: str, death: Death, port: str) -> None:
    inner: Callable[..., Awaitable[Any]] = getattr(kind, act)

    @functools.wraps(inner)
    async def armed(*arguments: Any, **named_arguments: Any) -> Any:
        death.reached(f"{port}.{act}", "before")
        result = await inner(*arguments, **named_arguments)
        death.reached(f"{port}.{act}", "after")
        return result

    setattr(kind, act, armed)


def main(arguments: Sequence[str]) -> None:
    """Run a service, or one of its commands, until it dies."""
    service = arguments[0]
    at, notes = Path(os.environ[_AT]), Path(os.environ[_NOTES])
    arm(Death(service, at, notes), service)
    sys.argv = list(arguments)
    runpy.run_module(f"services.{service}", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
