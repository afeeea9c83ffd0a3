"""From a container's file to readers, followers and the broker."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from loguru import logger

from services.chassis.clock import SystemClock
from services.chassis.errors import InvalidArgument, QueueFull
from services.chassis.events.ports import DuplicateEvent
from services.chassis.tenancy import TenantId
from services.log_collector.domain.log_stream import OwnerKind, StreamState
from services.log_collector.domain.records import LogFilter, LogPosition, Mark, Source
from services.log_collector.use_cases import follow_logs
from services.log_collector.use_cases.collect_stream import Collection, CollectStream
from services.log_collector.use_cases.expect_stream import AttemptEvent
from services.log_collector.use_cases.follow_logs import Followed
from services.log_collector.use_cases.read_logs import LogPage
from tests.integration.log_collector.fakes import until
from tests.integration.log_collector.yard import ACME, ANY, BEGINNING, Yard, a_stream, running_yard
from tests.unit.log_collector.builders import entry

STREAM = a_stream()


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with running_yard(tmp_path) as yard:
        yield yard


async def test_output_is_read_followed_published_and_completed(yard: Yard) -> None:
    async with asyncio.TaskGroup() as group:
        followed = group.create_task(yard.followed())  # before the first attempt exists
        log = yard.container(STREAM)
        log.write("one", "two")
        await yard.open_stream(yard.event(STREAM))
        await until(lambda: yard.publisher.sequences() == [1, 2])
        log.write("three")
        log.write_raw(entry("no newline", end=""))
        await yard.end_stream(yard.event(STREAM))

    expected = ["one", "two", "three", "no newline"]
    assert followed.result() == expected
    assert await yard.texts() == expected
    assert [fact.stream.state for fact in yard.database.facts] == [
        StreamState.OPENED,
        StreamState.COMPLETED,
    ]
    assert yard.database.rows["att_1"].record_count == 4
    await until(lambda: yard.publisher.sequences() == [1, 2, 3, 4])


async def test_a_follower_sees_a_record_before_its_block_is_full(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    pages = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    for number in range(5):
        log.write(str(number))
        page = await anext(pages)
        assert [record.text for _, record in page.records] == [str(number)]
    await pages.aclose()


async def test_a_follower_hears_that_nothing_is_new(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_logs, "_QUIET_INTERVAL", timedelta(milliseconds=20))
    pages = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    assert await anext(pages) == Followed()  # before the first attempt exists

    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    log.write("one")
    page = await anext(pages)
    while not page.records:
        page = await anext(pages)
    assert [record.text for _, record in page.records] == ["one"]
    assert await anext(pages) == Followed()
    await pages.aclose()


async def test_rotations_lose_and_repeat_nothing(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    expected = []
    for generation in range(10):
        texts = [f"{generation}.{number}" for number in range(100)]
        log.write(*texts)
        expected += texts
        if generation % 3 == 0:  # the folder keeps three old generations
            await yard.until_seen(STREAM, len(expected))
        log.rotate()
    await yard.end_stream(yard.event(STREAM))

    assert await yard.followed() == expected
    assert await yard.texts() == expected


async def test_a_bug_that_one_stream_meets_stops_no_other_one(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = a_stream(attempt_id="att_2", owner_id="job_2")
    collect = CollectStream.__call__

    async def meet_a_bug(use_case: CollectStream, collection: Collection) -> int | None:
        if collection.stream.attempt_id == broken.attempt_id:
            raise RuntimeError("a bug")
        return await collect(use_case, collection)

    monkeypatch.setattr(CollectStream, "__call__", meet_a_bug)
    yard.container(broken).write("unread")
    await yard.open_stream(yard.event(broken))
    log = yard.container(STREAM)
    log.write("one")
    await yard.open_stream(yard.event(STREAM))
    await yard.end_stream(yard.event(STREAM))

    assert await yard.followed() == ["one"]
    assert yard.database.rows["att_2"].state is StreamState.OPENED


async def test_a_restart_goes_on_where_the_store_ends(tmp_path: Path) -> None:
    async with running_yard(tmp_path, STREAM) as yard:
        log = yard.container(STREAM)
        log.write(*map(str, range(10)))
        log.write_raw(entry("unfi", end=""))
        await until(lambda: len(yard.publisher.sequences()) == 10)
    async with running_yard(tmp_path, STREAM) as yard:
        log = yard.container(STREAM)
        log.write("nished", "10")
        await yard.end_stream(yard.event(STREAM))

        assert await yard.followed() == [*map(str, range(10)), "unfinished", "10"]
        await until(lambda: yard.publisher.sequences() == [11, 12])


async def test_a_follow_resumed_after_any_record_has_no_gap_and_no_repetition(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    log.write(*map(str, range(1, 21)))
    await until(lambda: len(yard.publisher.sequences()) == 20)
    async with asyncio.TaskGroup() as group:
        follows = [
            group.create_task(yard.followed(after=LogPosition(1, sequence)))
            for sequence in (0, 7, 20)
        ]
        log.write(*map(str, range(21, 31)))
        await yard.end_stream(yard.event(STREAM))

    numbers = list(map(str, range(1, 31)))
    assert [follow.result() for follow in follows] == [numbers, numbers[7:], numbers[20:]]


async def test_attempts_of_a_job_follow_each_other(yard: Yard) -> None:
    retry = a_stream(attempt_id="att_2", attempt_number=2)
    first_log, second_log = yard.container(STREAM), yard.container(retry)
    await yard.expect_stream(yard.event(STREAM))
    await yard.expect_stream(yard.event(retry))
    async with asyncio.TaskGroup() as group:
        followed = group.create_task(yard.followed())
        only_second = group.create_task(yard.followed(wanted=LogFilter(attempt_number=2)))
        await yard.open_stream(yard.event(retry))
        second_log.write("2.1")
        await until(lambda: yard.publisher.sequences() == [1])
        await yard.open_stream(yard.event(STREAM))
        first_log.write("1.1")
        await yard.end_stream(yard.event(STREAM))
        await yard.end_stream(yard.event(retry))

    assert followed.result() == ["1.1", "2.1"]
    assert only_second.result() == ["2.1"]
    assert await yard.texts() == ["1.1", "2.1"]


async def test_who_resumes_misses_nothing_of_a_task_that_became_known_late(yard: Yard) -> None:
    late = a_stream(attempt_id="att_2", attempt_number=2)
    last = a_stream(attempt_id="att_3", attempt_number=3)
    now = SystemClock().now()
    for stream in (STREAM, last):
        yard.container(stream).write(f"{stream.attempt_number}.1")
        await yard.open_stream(replace(yard.event(stream), at=now))
        await yard.end_stream(replace(yard.event(stream), at=now))
    for stream in (STREAM, last):
        await until(lambda: yard.state(stream) is StreamState.COMPLETED)  # noqa: B023

    pages = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    records = (await anext(pages)).records
    page = await yard.read_logs(ACME, "job_1", after=BEGINNING, record_count_max=0, wanted=ANY)
    assert [record.text for _, record in records] == ["1.1"]
    assert records == page.records
    assert not page.is_complete
    assert [each async for each in pages] == [Followed(is_complete=True, last_attempt_number=1)]
    assert await yard.followed(wanted=LogFilter(attempt_number=3)) == ["3.1"]

    async with asyncio.TaskGroup() as group:
        resumed = group.create_task(yard.followed(after=LogPosition(2, 0)))
        yard.container(late).write("2.1")
        await yard.open_stream(replace(yard.event(late), at=now))
        await yard.end_stream(replace(yard.event(late), at=now))
    assert resumed.result() == ["2.1", "3.1"]
    assert await yard.texts(after=page.next) == ["2.1", "3.1"]


async def test_a_page_never_passes_an_attempt_whose_output_is_still_coming(yard: Yard) -> None:
    retry = a_stream(attempt_id="att_2", attempt_number=2)
    first_log, second_log = yard.container(STREAM), yard.container(retry)
    await yard.open_stream(yard.event(STREAM))
    await yard.open_stream(yard.event(retry))
    first_log.write("1.1")
    second_log.write("2.1")
    await yard.until_stored(STREAM, 1)
    await yard.until_stored(retry, 1)

    page = await yard.read_logs(ACME, "job_1", after=BEGINNING, record_count_max=0, wanted=ANY)
    assert [record.text for _, record in page.records] == ["1.1"]
    first_log.write("1.2")
    await yard.end_stream(yard.event(STREAM))
    await until(lambda: yard.state(STREAM) is StreamState.COMPLETED)
    assert await yard.texts(after=page.next) == ["1.2", "2.1"]


async def test_replicas_print_at_the_same_time_under_numbers_of_their_own(yard: Yard) -> None:
    replicas = [
        a_stream(attempt_id=f"att_{name}", owner_id="dep_1", owner_kind=OwnerKind.REPLICA)
        for name in ("a", "b")
    ]
    logs = [yard.container(replica) for replica in replicas]
    for replica in replicas:
        await yard.open_stream(yard.event(replica))
    pages = yard.follow_logs(ACME, "dep_1", after=BEGINNING, wanted=ANY)
    for log, replica, number in zip(logs, replicas, (1, 2), strict=True):
        log.write(replica.attempt_id)
        page = await anext(pages)
        assert [(stream.attempt_number, record.text) for stream, record in page.records] == [
            (number, replica.attempt_id)
        ]
    await pages.aclose()


async def test_an_end_that_arrives_before_the_start_is_the_end(yard: Yard) -> None:
    yard.container(STREAM).write("one")
    await yard.end_stream(yard.event(STREAM))
    await yard.open_stream(yard.event(STREAM))

    assert await yard.followed() == ["one"]
    await until(lambda: yard.state(STREAM) is StreamState.COMPLETED)


async def test_an_attempt_that_never_ran_is_complete_and_empty(yard: Yard) -> None:
    never = replace(STREAM, location=None)
    await yard.expect_stream(yard.event(never))
    await yard.end_stream(yard.event(never))

    assert await yard.followed() == []


async def test_an_event_that_is_delivered_again_changes_nothing(yard: Yard) -> None:
    event = yard.event(STREAM)
    await yard.open_stream(event)

    with pytest.raises(DuplicateEvent):
        await yard.open_stream(event)
    await yard.open_stream(yard.event(STREAM))

    assert len(yard.database.facts) == 1


async def test_a_start_without_a_location_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidArgument):
        await yard.open_stream(replace(yard.event(STREAM), location=None))


def unseen_end(yard: Yard) -> AttemptEvent:
    return replace(yard.event(STREAM), is_end_seen=False)


async def test_output_whose_end_was_not_seen_ends_in_one_gap(yard: Yard) -> None:
    log = yard.container(STREAM)
    log.write("one")
    log.write_raw(entry("cut sho", end=""))
    await yard.open_stream(yard.event(STREAM))
    for _ in range(2):
        await yard.end_stream(unseen_end(yard))

    page = await complete_page(yard)

    texts = [record.text for _, record in page.records]
    assert texts[:2] == ["one", "cut sho"]
    assert "may be missing" in texts[2]
    assert [record.mark for _, record in page.records] == [None, None, Mark.GAP]


async def test_gap_is_stored_once_when_the_collector_restarts_before_the_stream_is_complete(
    tmp_path: Path,
) -> None:
    async with running_yard(tmp_path) as yard:
        yard.container(STREAM).write("one")
        await yard.open_stream(yard.event(STREAM))
        await yard.end_stream(unseen_end(yard))
        await complete_page(yard)
        completed = yard.database.rows[STREAM.attempt_id]
    not_committed = replace(completed, state=StreamState.ENDING, completed_at=None, record_count=0)

    async with running_yard(tmp_path, not_committed) as yard:
        page = await complete_page(yard)

    assert [record.mark for _, record in page.records] == [None, Mark.GAP]


async def complete_page(yard: Yard) -> LogPage:
    await until(lambda: yard.state(STREAM) is StreamState.COMPLETED)
    return await yard.read_logs(ACME, "job_1", after=BEGINNING, record_count_max=9, wanted=ANY)


async def test_a_file_that_stays_absent_leaves_a_gap(yard: Yard) -> None:
    await yard.open_stream(yard.event(STREAM))
    await yard.end_stream(yard.event(STREAM))

    (text,) = await yard.followed()
    assert "absent" in text


async def test_a_file_that_appears_late_is_collected(yard: Yard) -> None:
    await yard.open_stream(yard.event(STREAM))
    await until(lambda: yard.live.tail("att_1") is not None)
    yard.container(STREAM).write("late")
    await yard.end_stream(yard.event(STREAM))

    assert await yard.followed() == ["late"]


async def test_another_tenants_output_reads_like_none_at_all(yard: Yard) -> None:
    yard.container(STREAM).write("secret")
    await yard.open_stream(yard.event(STREAM))
    await until(lambda: yard.publisher.sequences() == [1])

    for owner_id in ("job_1", "job_unknown"):
        page = await yard.read_logs(
            TenantId("other"), owner_id, after=BEGINNING, record_count_max=0, wanted=ANY
        )
        assert not page.records
        assert page.next == BEGINNING
        assert not page.is_complete


async def test_a_search_finds_text_and_source_and_says_where_it_ends(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    log.write("hay", "a needle")
    log.write_raw(entry("another needle", source=Source.STDERR))
    log.write("hay")
    await yard.end_stream(yard.event(STREAM))
    await yard.followed()

    assert await yard.texts(wanted=LogFilter(contains="needle")) == ["a needle", "another needle"]
    assert await yard.texts(wanted=LogFilter(source=Source.STDERR)) == ["another needle"]
    page = await yard.read_logs(
        ACME,
        "job_1",
        after=BEGINNING,
        record_count_max=0,
        wanted=LogFilter(contains="nowhere"),
    )
    assert page.next == LogPosition(1, 4)
    assert page.is_complete


async def test_followers_are_bounded_and_their_places_given_back(yard: Yard) -> None:
    yard.container(STREAM).write("one")
    await yard.open_stream(yard.event(STREAM))
    follows = [yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY) for _ in range(4)]
    for follow in follows[:3]:
        await anext(follow)

    with pytest.raises(QueueFull):
        await anext(follows[3])
    await follows[0].aclose()
    again = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    await anext(again)
    for follow in (*follows, again):
        await follow.aclose()


async def test_a_drain_ends_followers_at_a_point_to_resume_from(yard: Yard) -> None:
    yard.container(STREAM).write("one")
    await yard.open_stream(yard.event(STREAM))
    follow = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    assert not (await anext(follow)).is_complete
    yard.live.drain()

    assert [page async for page in follow] == []


async def test_blocks_are_kept_for_a_broker_that_is_away(yard: Yard) -> None:
    yard.publisher.is_down = True
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    for number in range(5):
        log.write(str(number))
        await yard.until_stored(STREAM, number + 1)
    yard.publisher.is_down = False

    await until(lambda: yard.publisher.sequences() == [1, 2, 3, 4, 5])


async def test_a_block_that_is_too_large_is_all_that_the_broker_lacks(yard: Yard) -> None:
    yard.publisher.is_down = True
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    for number in range(4):
        log.write(str(number))
        await yard.until_stored(STREAM, number + 1)
    yard.publisher.too_large_sequence = 2
    yard.publisher.is_down = False

    await until(lambda: yard.publisher.sequences() == [1, 3, 4])


async def test_blocks_are_published_after_the_cursor_could_not_be_written(
    yard: Yard, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "store" / "att_1" / "published.new"
    in_the_way.mkdir(parents=True)
    yard.container(STREAM).write("one")
    await yard.open_stream(yard.event(STREAM))
    await until(lambda: yard.publisher.sequences()[:2] == [1, 1])  # sent, and sent again
    in_the_way.rmdir()

    await until((tmp_path / "store" / "att_1" / "published.json").exists)


async def test_a_follow_goes_on_while_the_database_is_away(yard: Yard) -> None:
    log = yard.container(STREAM)
    log.write("one")
    await yard.open_stream(yard.event(STREAM))
    pages = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    texts = [record.text for _, record in (await anext(pages)).records]
    yard.database.is_down = True
    yard.live.stream_changed(STREAM)  # makes the follower look
    log.write("two")
    texts += [record.text for _, record in (await anext(pages)).records]
    yard.database.is_down = False
    await yard.end_stream(yard.event(STREAM))

    assert texts == ["one", "two"]
    assert [page.is_complete async for page in pages] == [True]


async def test_a_database_that_is_away_delays_the_end_only(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    await yard.until_seen(STREAM, 0)
    await yard.end_stream(yard.event(STREAM))
    yard.database.is_down = True
    log.write("one")
    await until(lambda: yard.publisher.sequences() == [1])
    yard.database.is_down = False

    assert await yard.followed() == ["one"]
    assert [fact.stream.state for fact in yard.database.facts] == [
        StreamState.OPENED,
        StreamState.COMPLETED,
    ]


async def test_nothing_is_added_to_output_whose_completion_was_committed_without_an_answer(
    yard: Yard,
) -> None:
    log = yard.container(STREAM)
    log.write("one")
    await yard.open_stream(yard.event(STREAM))
    await yard.until_stored(STREAM, 1)
    yard.database.is_commit_unheard = True
    await yard.end_stream(yard.event(STREAM))
    await until(lambda: yard.state(STREAM) is StreamState.COMPLETED)
    shutil.rmtree(log.folder)  # the runner has heard of it
    earlier_count = yard.database.tenant_transaction_count
    await until(lambda: yard.database.tenant_transaction_count > earlier_count)

    assert await yard.texts() == ["one"]


async def test_more_streams_than_the_bound_are_collected_in_turn(tmp_path: Path) -> None:
    streams = [
        a_stream(attempt_id=f"att_{number}", owner_id=f"job_{number}") for number in range(5)
    ]
    async with running_yard(tmp_path, streams_max=2) as yard:
        for stream in streams:
            yard.container(stream).write(stream.attempt_id)
            await yard.open_stream(yard.event(stream))
            await yard.end_stream(yard.event(stream))

        for stream in streams:
            assert await yard.followed(stream.owner_id) == [stream.attempt_id]


async def test_a_slow_follower_misses_nothing_of_a_flood(yard: Yard) -> None:
    log = yard.container(STREAM)
    await yard.open_stream(yard.event(STREAM))
    log.write("0")
    follow = yard.follow_logs(ACME, "job_1", after=BEGINNING, wanted=ANY)
    texts = [record.text for _, record in (await anext(follow)).records]
    expected = [f"{number} {'x' * 1000}" for number in range(2000)]
    log.write(*expected)
    await yard.until_stored(STREAM, 2001)
    tail = yard.live.tail("att_1")
    assert tail is not None
    assert tail.after(1) is None  # only the store has these
    await yard.end_stream(yard.event(STREAM))

    async for page in follow:
        texts += [record.text for _, record in page.records]

    assert texts == ["0", *expected]


async def test_a_store_that_fails_is_tried_again(tmp_path: Path) -> None:
    messages: list[str] = []
    sink = logger.add(messages.append, format="{message}")
    async with running_yard(tmp_path) as yard:
        in_the_way = tmp_path / "store" / "att_1"
        in_the_way.write_text("a file where the folder should be")
        yard.container(STREAM).write("one")
        await yard.open_stream(yard.event(STREAM))
        await until(lambda: any("tried again" in message for message in messages))
        await yard.end_stream(yard.event(STREAM))
        in_the_way.unlink()

        assert await yard.followed() == ["one"]
    logger.remove(sink)
