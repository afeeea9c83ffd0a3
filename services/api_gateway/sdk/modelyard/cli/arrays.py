"""Arrays of jobs: finding one of their elements, and following them to their end.

Always holds: that an array has no output of its own is told once. One that was seen is followed as
any job is, through two minutes in which nobody can tell what it is at.
"""

from itertools import chain, repeat
from typing import Final

import click
from modelyard.cli.following import QUIET_POLL_S, QUIET_POLLS, WAIT_POLL_S, seen
from modelyard.cli.reasons import standing_of
from modelyard.client import ApiError, Client, Job

_NOT_FOUND: Final = 404


def element_of(client: Client, array_id: str, index: int) -> Job:
    """Return an array's element; raises ApiError NOT_FOUND, which says why there is none."""
    array = client.job(array_id)
    found = client.jobs(array=array_id, index=index, limit=1) if array.is_array else []
    if found:
        return found[0]
    said = f"element {index} of {array_id} was not found: {_why_there_is_none(array, index)}"
    raise ApiError(_NOT_FOUND, {"code": "NOT_FOUND", "detail": said})


def check_is_array(client: Client, array_id: str) -> None:
    """Raise ApiError NOT_FOUND unless there is such an array."""
    if not client.job(array_id).is_array:
        raise ApiError(_NOT_FOUND, {"code": "NOT_FOUND", "detail": f"{array_id} is no array"})


def tell_where_the_output_is(array_id: str) -> None:
    """Tell that an array has none of its own."""
    said = "an array has no output of its own; that of an element"
    click.echo(f"{said}: modelyard job logs {array_id} --element N", err=True)


def array_ended(client: Client, array: Job) -> Job:
    """Return an array once it has ended; tell meanwhile how its elements stand, at each change.

    Nothing of what passes within the first moments: many an array is over by then.
    """
    pauses = chain(repeat(QUIET_POLL_S, QUIET_POLLS), repeat(WAIT_POLL_S))
    told = ""
    while not array.is_terminal:
        pause_s, standing = next(pauses), f"job {array.id} {array.state}: {standing_of(array)}"
        if pause_s == WAIT_POLL_S and standing != told:
            click.echo(standing, err=True)
            told = standing
        client.sleep(pause_s)
        array = seen(client, array.id)
    return array


def _why_there_is_none(array: Job, index: int) -> str:
    if not array.is_array or array.spec.array_size is None:
        return "it is no array"
    if index >= array.spec.array_size:
        return f"its last one is {array.spec.array_size - 1}"
    if array.state == "QUEUED":
        return "it has not been admitted yet"
    return "it has never been admitted, or is deleted"
