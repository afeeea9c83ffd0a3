"""A runner that nobody can hear stops what runs on its node."""

import asyncio
import errno
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import pytest
from pydantic import ValidationError

from services.chassis.db.lease import LeaseKeeper
from services.chassis.errors import Unavailable
from services.scheduler.domain.attempts.runtime import ContainerPhase as P
from services.scheduler.entrypoints.loops import isolation
from services.scheduler.entrypoints.loops.isolation import IsolationLoop
from services.scheduler.settings import Settings
from services.scheduler.use_cases.attempts.stop_containers import StopContainers
from tests.support.eventually import seen
from tests.unit.scheduler_runner.bench import Bench

STOP_AFTER = timedelta(minutes=4)
GRACE = timedelta(seconds=10)


def stopping(bench: Bench) -> StopContainers:
    return StopContainers(bench.runtime, GRACE, together_max=2)


async def test_all_that_runs_is_stopped_within_one_grace(bench: Bench) -> None:
    for number in range(5):
        bench.runtime.is_(P.RUNNING, f"modelyard-att_{number}")
    for phase in (P.CREATED, P.TOMBSTONE, P.EXITED):
        bench.runtime.is_(phase, f"modelyard-att_{phase}")

    assert await stopping(bench)() == 5

    assert bench.runtime.calls == [f"stop {GRACE.total_seconds() / 3:g}"] * 5
    assert await stopping(bench)() == 0


async def test_what_can_not_be_stopped_holds_up_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, stopped = bench.runtime.stop, list[str]()

    async def some(name: str, *, grace: timedelta) -> Any:
        if not name.endswith("2"):
            raise Unavailable("container-engine")
        stopped.append(name)
        return await stop(name, grace=grace)

    monkeypatch.setattr(bench.runtime, "stop", some)
    for number in (1, 2, 3):
        bench.runtime.is_(P.RUNNING, f"modelyard-att_{number}")
    with pytest.RaisesGroup(Unavailable, Unavailable):
        await stopping(bench)()
    assert stopped == ["modelyard-att_2"]


class Lease:
    """A lease table that last answered so long ago."""

    def __init__(self) -> None:
        self.silence = STOP_AFTER - timedelta(seconds=1)
        self.looks = 0

    @property
    def unanswered_for(self) -> timedelta:
        self.looks += 1
        return self.silence


async def test_node_is_cut_off_when_its_lease_was_not_answered_for_too_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_INTERVAL_S", 0.001)
    lease = Lease()
    loop = IsolationLoop(stopping(bench), cast("LeaseKeeper", lease), STOP_AFTER)
    bench.runtime.is_(P.RUNNING)
    end = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run(end))
        await seen(lambda: lease.looks > 3, what="it looks")
        assert bench.runtime.calls == []

        bench.runtime.failing = Unavailable("container-engine")
        lease.silence = STOP_AFTER
        await seen(lambda: len(bench.runtime.calls) > 1, what="it is tried again")

        bench.runtime.failing = None
        container = "modelyard-att_1"
        await seen(
            lambda: bench.runtime.containers[container].phase is P.EXITED, what="it is stopped"
        )
        end.set()


async def test_node_that_is_cut_off_goes_on_stopping_whatever_goes_wrong(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the loop would be the end of the process, and nobody would stop anything."""
    monkeypatch.setattr(isolation, "_INTERVAL_S", 0.001)
    lease, listed = Lease(), bench.runtime.list
    lease.silence = STOP_AFTER
    failures = [OSError(errno.EMFILE, "Too many open files"), KeyError("State")]

    async def at_first_not(labels: Mapping[str, str]) -> Any:
        if failures:
            raise failures.pop()
        return await listed(labels)

    monkeypatch.setattr(bench.runtime, "list", at_first_not)
    loop = IsolationLoop(stopping(bench), cast("LeaseKeeper", lease), STOP_AFTER)
    bench.runtime.is_(P.RUNNING)
    end = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run(end))
        container = "modelyard-att_1"
        await seen(
            lambda: bench.runtime.containers[container].phase is P.EXITED, what="it is stopped"
        )
        end.set()


def settings(**runner: timedelta) -> Settings:
    """Read settings of a service that need say nothing else."""
    given: dict[str, Any] = {
        "grpc": {"port": 1},
        "operations": {"port": 2},
        "postgres": {"url": "postgresql://nowhere"},
        "kafka": {"bootstrap_servers": "nowhere"},
        "identity": {"private_key_file": "key", "trusted_keys_folder": "keys"},
        "registry": {"address": "nowhere:1"},
        "runtime": {"containers_root": "containers", "images": {}},
        "runner": {
            "node_id": "node-1",
            "cpu_millicores": 1,
            "memory_bytes": 1,
            "node_cache_root": "cache",
            **runner,
        },
        "scheduling": {"node_lost_after": timedelta(minutes=6)},
    }
    return Settings(**given)


def test_settings_in_which_two_could_run_at_once_are_refused() -> None:
    grace = timedelta(seconds=59)
    stopped_after = timedelta(minutes=5)
    settings(isolation_stop_after=stopped_after, isolation_stop_grace=grace)
    with pytest.raises(ValidationError, match="could run twice"):
        settings(isolation_stop_after=stopped_after, isolation_stop_grace=timedelta(minutes=1))
    with pytest.raises(ValidationError, match="between two renewals"):
        settings(isolation_stop_after=timedelta(seconds=9))
