"""A stream moves by its table, whatever comes late or twice."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.errors import InvalidArgument
from services.log_collector.domain.log_stream import (
    TRANSITIONS,
    LogLocation,
    LogStream,
    OwnerKind,
    StreamState,
    up_to_a_gap,
)
from tests.unit.log_collector.builders import NOW, a_stream

LOCATION = LogLocation("json-file", "att_1/container.log")
MOVES = {
    "opened": lambda stream: stream.opened(LOCATION, at=NOW),
    "ended": lambda stream: stream.ended(at=NOW, location=LOCATION),
    "ended without a location": lambda stream: stream.ended(at=NOW, location=None),
}


def in_state(state: StreamState) -> LogStream:
    location = None if state is StreamState.EXPECTED else LOCATION
    return replace(a_stream(state=state), location=location)


@pytest.mark.parametrize(("state", "move"), list(itertools.product(StreamState, MOVES)))
def test_an_event_moves_a_stream_on_by_the_table_or_not_at_all(
    state: StreamState, move: str
) -> None:
    stream = in_state(state)

    moved, fact = MOVES[move](stream)

    assert moved == stream or moved.state in TRANSITIONS[state]
    is_published = moved.state in {StreamState.OPENED, StreamState.COMPLETED}
    assert (fact is not None) == (moved != stream and is_published)
    again, second_fact = MOVES[move](moved)
    assert again == moved
    assert second_fact is None


def test_every_order_of_start_and_end_comes_to_the_same_state() -> None:
    for order in itertools.permutations(["opened", "ended"]):
        stream = in_state(StreamState.EXPECTED)
        for move in order:
            stream, _ = MOVES[move](stream)
        assert stream.state is StreamState.ENDING
        assert stream.location == LOCATION


def test_a_stream_remembers_that_its_end_was_not_seen_whatever_is_told_again() -> None:
    ending, _ = in_state(StreamState.OPENED).ended(at=NOW, location=None, is_end_seen=False)
    again, _ = ending.ended(at=NOW, location=None)
    completed, _ = again.completed(record_count=1, at=NOW)

    assert [stream.is_end_seen for stream in (ending, again, completed)] == [False] * 3


def test_a_stream_is_completed_once_with_its_count() -> None:
    stream, fact = in_state(StreamState.ENDING).completed(record_count=7, at=NOW)
    assert fact is not None
    assert (stream.state, stream.record_count) == (StreamState.COMPLETED, 7)

    again, second_fact = stream.completed(record_count=8, at=NOW)
    assert again == stream
    assert second_fact is None


def test_an_attempt_that_wrote_nothing_is_complete_at_its_end() -> None:
    stream, fact = in_state(StreamState.EXPECTED).ended(at=NOW, location=None)
    assert stream.state is StreamState.COMPLETED
    assert fact is not None


def test_a_stream_whose_attempt_still_runs_is_never_completed() -> None:
    with pytest.raises(AssertionError):
        in_state(StreamState.OPENED).completed(record_count=0, at=NOW)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "container.log",
        "/etc/passwd",
        "../c/container.log",
        "c/../../x",
        "c/\0",
        "c/" + "x" * 1024,
    ],
)
def test_a_location_that_could_leave_the_containers_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        LogLocation("json-file", path)


def test_a_format_that_is_not_read_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        LogLocation("journald", "c/container.log")


@pytest.mark.parametrize("identity", ["", "../x", "a/b", ".", "x" * 101])
def test_an_id_that_could_not_name_a_folder_is_refused(identity: str) -> None:
    with pytest.raises(InvalidArgument):
        a_stream(attempt_id=identity)


@pytest.mark.parametrize(
    ("known", "after_number", "told"),
    [
        ([1, 2, 3], 0, [1, 2, 3]),
        ([1, 2, 4, 5], 0, [1, 2]),
        ([2, 3], 0, []),
        ([1, 2, 4, 5], 2, [1, 2]),
        ([1, 2, 4, 5], 3, [1, 2]),
        ([1, 2, 4, 5], 4, [1, 2, 4, 5]),
        ([1, 2], 3, [1, 2]),
    ],
)
def test_what_comes_after_a_missing_attempt_is_told_once_that_one_is_known(
    known: list[int], after_number: int, told: list[int]
) -> None:
    streams = [a_stream(attempt_id=f"att_{number}", attempt_number=number) for number in known]
    found = up_to_a_gap(streams, after_number=after_number, at=NOW)
    assert [stream.attempt_number for stream in found] == told


def test_what_is_missing_for_long_holds_up_nobody() -> None:
    streams = [a_stream(attempt_number=2)]
    for waited, told in ((timedelta(minutes=9), []), (timedelta(minutes=10), streams)):
        assert up_to_a_gap(streams, after_number=0, at=NOW + waited) == told


def test_replicas_are_numbered_as_they_become_known() -> None:
    replicas = [a_stream(attempt_number=2, owner_kind=OwnerKind.REPLICA)]
    assert up_to_a_gap(replicas, after_number=0, at=NOW) == replicas
