"""Lines by column are the same lines as one by one."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.log_collector.domain.records import (
    Batch,
    Lines,
    LogFilter,
    LogPosition,
    Mark,
    Source,
    joined,
)
from tests.unit.log_collector.builders import NOW, some_lines, untimed

LINES = Lines(
    [NOW, NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)],
    [Source.STDOUT, Source.STDERR, Source.STDOUT],
    ["a", "b", "ab"],
    {1: Mark.CUT},
)


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        (LogFilter(), ["a", "b", "ab"]),
        (LogFilter(contains="b"), ["b", "ab"]),
        (LogFilter(source=Source.STDERR), ["b"]),
        (LogFilter(since=NOW + timedelta(seconds=1)), ["b", "ab"]),
        (LogFilter(until=NOW + timedelta(seconds=1)), ["a"]),
        (LogFilter(contains="a", since=NOW + timedelta(seconds=1)), ["ab"]),
    ],
)
def test_a_filter_yields_what_matches_in_order(wanted: LogFilter, texts: list[str]) -> None:
    assert [record.text for record in wanted.records_of([Batch(5, LINES)])] == texts


def test_records_have_their_sequences_and_marks() -> None:
    records = list(LogFilter().records_of([Batch(5, LINES)]))
    assert [record.sequence for record in records] == [5, 6, 7]
    assert [record.mark for record in records] == [None, Mark.CUT, None]


@untimed
@given(st.lists(st.text(max_size=3), max_size=12), st.integers(0, 14))
def test_a_batch_after_a_sequence_is_the_rest_of_it(texts: list[str], sequence: int) -> None:
    whole = list(LogFilter().records_of([Batch(1, some_lines(texts))]))
    rest = list(LogFilter().records_of([Batch(1, some_lines(texts)).after(sequence)]))
    assert rest == whole[sequence:]


@untimed
@given(st.lists(st.lists(st.tuples(st.text(max_size=3), st.sampled_from([None, *Mark])))))
def test_joining_keeps_order_and_marks(parts: list[list[tuple[str, Mark | None]]]) -> None:
    lines = joined(
        [
            Lines(
                [NOW] * len(part),
                [Source.STDOUT] * len(part),
                [text for text, _ in part],
                {index: mark for index, (_, mark) in enumerate(part) if mark is not None},
            )
            for part in parts
        ]
    )
    rows = [(record.text, record.mark) for record in LogFilter().records_of([Batch(1, lines)])]
    assert rows == [row for part in parts for row in part]


def test_a_position_says_where_to_go_on_in_each_attempt() -> None:
    position = LogPosition(attempt_number=2, sequence=7)
    assert [position.sequence_in(number) for number in (1, 2, 3)] == [None, 7, 0]
