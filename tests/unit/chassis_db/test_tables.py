"""Where a key's events go must never change between releases."""

from services.chassis.db.tables import SHARD_COUNT, shard_of


def test_shard_of_a_key_is_the_same_in_every_process_and_release() -> None:
    assert SHARD_COUNT == 4
    assert [shard_of(key) for key in ("job_1", "job_2", "alpha", "")] == [3, 1, 2, 0]


def test_shards_share_the_keys() -> None:
    shards = [shard_of(f"job_{number}") for number in range(1_000)]
    assert all(200 < shards.count(shard) < 300 for shard in range(SHARD_COUNT))
