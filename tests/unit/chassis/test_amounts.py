"""Amounts in words for people."""

from datetime import timedelta

import pytest

from services.chassis.amounts import duration_in_words, size_in_words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1 << 10, "1 KiB"),
        (6 << 20, "6 MiB"),
        (3 << 29, "1.5 GiB"),
        (100 << 30, "100 GiB"),
        (1 << 50, "1 PiB"),
    ],
)
def test_a_size_is_told_in_its_largest_unit(size_bytes: int, words: str) -> None:
    assert size_in_words(size_bytes) == words


@pytest.mark.parametrize("beside", [-1, 1])
def test_a_size_beside_a_bound_does_not_read_like_it(beside: int) -> None:
    bound = 128 << 20
    assert size_in_words(bound) == "128 MiB"
    assert size_in_words(bound + beside) == f"{bound + beside:,} bytes"


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=5), "5 s"),
        (timedelta(seconds=0.9), "0.9 s"),
        (timedelta(seconds=59, microseconds=999_999), "59.999999 s"),
        (timedelta(minutes=2), "2 min"),
        (timedelta(minutes=90), "1 h 30 min"),
        (timedelta(hours=24), "1 day"),
        (timedelta(days=30), "30 days"),
        (timedelta(seconds=-1), "-1 s"),
    ],
)
def test_a_duration_is_told_whole(length: timedelta, words: str) -> None:
    assert duration_in_words(length) == words
