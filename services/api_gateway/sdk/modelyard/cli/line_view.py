"""`queue`: who waits in the tenant's line and for what, and what runs, again and again.

Owns: how much a look shows and asks. Always holds: a look is bounded: some pages of those in line,
a page of what runs, a page of elements of each of some arrays, and one explanation after another
of the first in line. An array is one of those in line for its elements that were not admitted yet,
and one of those that run; an element that is back in line, such as one that is tried again, stands
there by itself. On a terminal it is gone on through two minutes in which nobody can tell, as other
followers do.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import click
from modelyard.cli.following import asked_on
from modelyard.cli.output import one_line, show_json, table
from modelyard.cli.reasons import elements_in_words
from modelyard.cli.session import Session, age
from modelyard.client import ApiError, ArrayElement, Client, ConnectionFailed, Job
from pydantic import BaseModel, ConfigDict

_SHOWN_MAX: Final = 20
"""In line, each of which is asked about; and as many of those that run."""
_LISTED_MAX: Final = 1_000
"""Of those in line, which are listed with the newest first: the first in line come last."""
_PAGE_MAX: Final = 200
"""Of those that run, and of an array's elements that are back in line: one request each."""
_PLACED: Final = ("ADMITTED", "STARTING", "RUNNING", "STOPPING")
_LOOK_AGAIN_S: Final = 2.0
_CLEARED: Final = "\x1b[H\x1b[2J"


class WaitingJob(BaseModel):
    """A job in line."""

    model_config = ConfigDict(frozen=True)

    place: int
    """Among the jobs of all tenants, 1 for the first."""
    job_id: str
    name: str
    priority: int
    created_at: datetime
    element_count: int | None = None
    """Of an array: how many of its elements wait that were not admitted yet."""
    element: ArrayElement | None = None
    """Of one of an array's elements, back in line by itself: which one it is."""
    hold: str
    because: str
    estimated_start_at: datetime | None


class PlacedJob(BaseModel):
    """A job that runs, or is about to, or stops; or an array of which some elements do."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    name: str
    priority: int
    state: str
    node_id: str
    created_at: datetime
    elements: dict[str, int] | None = None
    """Of an array: how many of its elements run, or are about to, or stop, by state."""


class Line(BaseModel):
    """A look at a tenant's line."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    waiting: list[WaitingJob]
    """The first in line."""
    waiting_count: int
    is_whole: bool
    """False: there may be more in line than were listed, and those first in line may be missing."""
    placed: list[PlacedJob]
    """The newest of them."""


def show_line(session: Session, *, once: bool) -> None:
    """Show the line once, or on a terminal again and again until Ctrl-C."""
    if session.is_json:
        show_json(look(session.client))
    elif once or not sys.stdout.isatty():
        click.echo("\n".join(lines_of(look(session.client))))
    else:
        _watch(session.client)


def look(client: Client) -> Line:
    """Return the line as it is now; what moves between two answers may be missing, or old."""
    queued = client.jobs(states=("QUEUED",), limit=_LISTED_MAX)
    placed = client.jobs(states=_PLACED, limit=_PAGE_MAX)
    split = _in_order(job for job in [*queued, *placed] if _queued_elements(job))
    back = {array.id: _back_in_line(client, array) for array in split[:_SHOWN_MAX]}
    in_line = _in_order(chain(queued, *back.values()))
    waiting = [
        found
        for job in in_line[:_SHOWN_MAX]
        if (found := _waiting(client, job, back_count=len(back.get(job.id, ()))))
    ]
    started = {job.id: job for job in queued if _placed_elements(job)}
    running = started | {job.id: job for job in placed}
    newest = sorted(running.values(), key=lambda job: job.created_at, reverse=True)
    return Line(
        at=datetime.now(UTC),
        waiting=sorted(waiting, key=lambda found: found.place),
        waiting_count=len(in_line),
        is_whole=len(queued) < _LISTED_MAX
        and len(split) <= _SHOWN_MAX
        and all(len(page) < _PAGE_MAX for page in (placed, *back.values())),
        placed=[_placed(job) for job in newest[:_SHOWN_MAX]],
    )


def lines_of(line: Line) -> list[str]:
    """Return what a look shows."""
    waiting = [
        (
            *(found.place, found.job_id, _name_of(found), found.priority),
            *(age(found.created_at), _about(found.estimated_start_at)),
            *(found.hold, one_line(found.because)),
        )
        for found in line.waiting
    ]
    placed = [
        (
            *(found.job_id, one_line(found.name), found.priority, age(found.created_at)),
            *(elements_in_words(found.elements or {}) or found.state, found.node_id),
        )
        for found in line.placed
    ]
    more = "" if line.is_whole else " or more"
    return [
        f"{line.at:%Y-%m-%dT%H:%M:%SZ}, in line: {line.waiting_count}{more}",
        "",
        *table(
            ("PLACE", "JOB", "NAME", "PRIORITY", "AGE", "STARTS", "HELD BY", "BECAUSE"), waiting
        ),
        "",
        *table(("JOB", "NAME", "PRIORITY", "AGE", "STATE", "NODE"), placed),
    ]


def _watch(client: Client) -> None:
    line = look(client)  # who has never seen it need not wait for it
    while True:
        click.echo(_CLEARED + "\n".join(_fitting(lines_of(line))))
        client.sleep(_LOOK_AGAIN_S)
        line = asked_on(client, lambda: look(client), _tell_that_nobody_can_tell)


def _fitting(lines: Sequence[str]) -> list[str]:
    """Return what the terminal has room for, and a line for its cursor."""
    room = shutil.get_terminal_size()
    return [line[: room.columns] for line in lines[: room.lines - 1]]


def _tell_that_nobody_can_tell(error: ApiError | ConnectionFailed) -> None:
    click.echo(f"what the line is at can't be told: {error}; asking on", err=True)


def _in_order(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs by their places in a tenant's line, as far as they tell: the first one first."""
    return sorted(jobs, key=lambda job: (-job.priority, job.created_at, job.is_array, job.id))


def _back_in_line(client: Client, array: Job) -> list[Job]:
    """Return an array's elements that stand in line by themselves."""
    return client.jobs(states=("QUEUED",), array=array.id, limit=_PAGE_MAX)


def _waiting(client: Client, job: Job, *, back_count: int) -> WaitingJob | None:
    """Return what a job waits for; None where it stands in line no more."""
    told = client.explain_job(job.id)
    if told.state != "QUEUED":
        return None
    return WaitingJob(
        place=told.jobs_before + 1,
        job_id=job.id,
        name=job.spec.name,
        priority=job.priority,
        created_at=job.created_at,
        # Those back in line were looked at later: by then there may be more of them.
        element_count=None if job.array is None else max(0, _queued_elements(job) - back_count),
        element=job.element,
        hold=told.hold,
        because=told.because,
        estimated_start_at=told.estimated_start_at,
    )


def _placed(job: Job) -> PlacedJob:
    return PlacedJob(
        job_id=job.id,
        name=job.spec.name,
        priority=job.priority,
        state=job.state,
        node_id=job.node_id,
        created_at=job.created_at,
        elements=None if job.array is None else _placed_elements(job),
    )


def _queued_elements(job: Job) -> int:
    """Return how many of an array's elements wait, in line with it or by themselves."""
    return 0 if job.array is None else job.array.elements.get("QUEUED", 0)


def _placed_elements(job: Job) -> dict[str, int]:
    """Return how many of an array's elements run, or are about to, or stop, by state.

    Of one that stands in line no more also those that wait to be tried again.
    """
    elements = {} if job.array is None else job.array.elements
    shown = {*_PLACED, *(["QUEUED"] if job.state != "QUEUED" else [])}
    return {state: count for state, count in elements.items() if state in shown and count}


def _name_of(waiting: WaitingJob) -> str:
    """Return its name; of an array how many of its elements wait, of an element which one it is."""
    name, count = one_line(waiting.name), waiting.element_count
    if waiting.element is not None:
        return f"{name} (element {waiting.element.index})"
    if count is None:
        return name
    return f"{name} (1 element)" if count == 1 else f"{name} ({count} elements)"


def _about(starts_at: datetime | None) -> str:
    return "-" if starts_at is None else f"{starts_at:%m-%dT%H:%MZ}"
