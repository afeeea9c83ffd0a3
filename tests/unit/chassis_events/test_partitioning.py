"""Partitioning agrees with Kafka's own clients; the contract suite compares with librdkafka's."""

import pytest

from services.chassis.events.partitioning import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # from Kafka's own UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed % 2**32


def test_every_key_has_a_partition() -> None:
    assert {partition_of(str(number).encode(), 3) for number in range(100)} == {0, 1, 2}
    assert partition_of(b"", 3) in range(3)
