"""Two schedulers on one database and one node: one acts, the other takes over, whatever happens."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from modelyard.client import Client

from deploy.local import kafka
from services.chassis.db.tables import OUTBOX_LEASE_PREFIX, SHARD_COUNT
from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.e2e.test_outages import assert_told_in_order
from tests.support.eventually import until
from tests.support.schedulers import FIRST, SCHEDULING, SECOND, holder_of, leases, log_of

WAITS = "wait()"
NODE = "node/local"
ALL_LEASES = {SCHEDULING, NODE, *(f"{OUTBOX_LEASE_PREFIX}{shard}" for shard in range(SHARD_COUNT))}
JOBS_EACH = 3
MARK_REFUSED = "sent events go again"


@dataclass(frozen=True, slots=True)
class Replicas:
    """The stack's scheduler, which leads at first, and a second one with its own gateway."""

    first: Mapping[str, str]
    second: Mapping[str, str]
    client: Client
    """Reaches the second one."""

    def are_led_by(self, environment: Mapping[str, str]) -> bool:
        """Return whether this one of them holds all there is to hold."""
        held, holder = leases(environment), holder_of(environment)
        return held.keys() >= ALL_LEASES and {held[name].holder for name in ALL_LEASES} == {holder}


@pytest.fixture
def replicas(platform: Platform) -> Iterator[Replicas]:
    first = platform.environment_of(FIRST)
    with platform.second_scheduler() as second:
        address = f"127.0.0.1:{second['MODELYARD_GRPC__PORT']}"
        with (
            platform.another_gateway(SCHEDULER__ADDRESS=address) as url,
            Client(url, platform.running.api_key, tries_max=30) as client,
        ):
            replicas = Replicas(first, second, client)
            until(lambda: replicas.are_led_by(first), what="the first leads")
            yield replicas
    platform.start_again()


@pytest.fixture
def other_bench(replicas: Replicas, bench: Bench) -> Bench:
    """Submit to the second scheduler, with the same gate."""
    return bench.beside(replicas.client)


def test_one_of_two_admits_and_the_other_goes_on_when_it_is_killed(
    platform: Platform, bench: Bench, replicas: Replicas, other_bench: Bench
) -> None:
    told = {part: len(log_of(platform.state, part)) for part in (FIRST, SECOND)}
    before = leases(replicas.first)
    jobs = [each.submit(each.spec(WAITS)) for each in (bench, other_bench) * JOBS_EACH]
    for job in jobs:
        bench.process_of(job)
    assert leases(replicas.first) == before
    admitted_by = {
        part: log_of(platform.state, part)[begin:].count("placement applied")
        for part, begin in told.items()
    }
    assert admitted_by == {FIRST: len(jobs), SECOND: 0}

    platform.end(FIRST)
    last = other_bench.submit(other_bench.spec(WAITS))
    other_bench.process_of(last)

    until(lambda: replicas.are_led_by(replicas.second), what="the second has taken over")
    assert {name: leases(replicas.second)[name].epoch for name in ALL_LEASES} == {
        name: before[name].epoch + 1 for name in ALL_LEASES
    }
    bench.open_gate()
    ended = [other_bench.ended(job) for job in (*jobs, last)]
    assert {(each.state, each.attempt_number) for each in ended} == {("SUCCEEDED", 1)}
    assert [len(bench.starts_of(each)) for each in ended] == [1] * len(ended)


async def test_what_a_frozen_leader_writes_late_is_refused(
    platform: Platform, bench: Bench, replicas: Replicas, other_bench: Bench
) -> None:
    before = leases(replicas.first)
    begin = len(log_of(platform.state, FIRST))
    with frozen_parts(platform) as freeze:
        # 1. Its relay waits for a broker that says nothing, with the job's events in its hands.
        thaw_broker = freeze(kafka.PART)
        job = bench.submit(bench.spec(WAITS))
        await asyncio.to_thread(bench.process_of, job)
        thaw_leader = freeze(FIRST)
        thaw_broker()
        # 2. All that it held is another's by now, who sends these events, and works.
        await asyncio.to_thread(
            until, lambda: replicas.are_led_by(replicas.second), what="the second has taken over"
        )
        after = leases(replicas.second)
        assert all(after[name].epoch > before[name].epoch for name in ALL_LEASES)
        later = other_bench.submit(other_bench.spec(WAITS))
        await asyncio.to_thread(other_bench.process_of, later)
        thaw_leader()
        # 3. It hears of the broker's answer, and marks what it sent: refused by the epoch.
        await asyncio.to_thread(
            until,
            lambda: MARK_REFUSED in log_of(platform.state, FIRST)[begin:],
            what="its mark is refused",
        )
    assert leases(replicas.second) == after
    bench.open_gate()
    ended = [await asyncio.to_thread(other_bench.ended, each) for each in (job, later)]
    assert {(each.state, each.attempt_number) for each in ended} == {("SUCCEEDED", 1)}
    assert [len(bench.starts_of(each)) for each in ended] == [1, 1]
    await assert_told_in_order(platform, ended)


@contextmanager
def frozen_parts(platform: Platform) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Give what freezes a part and returns what thaws it; whatever is frozen at the end thaws."""
    with ExitStack() as stack:

        def freeze(part: str) -> Callable[[], None]:
            pid = platform.pid_of(part)
            os.kill(pid, signal.SIGSTOP)

            def thaw() -> None:
                os.kill(pid, signal.SIGCONT)

            stack.callback(thaw)
            return thaw

        yield freeze
