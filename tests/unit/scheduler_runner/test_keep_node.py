"""A node is in the fleet for as long as its lease is held."""

import pytest

from services.chassis.errors import Conflict
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.fakes import HeldLease

CAPACITY = Resources(4_000, 8 << 30)


async def test_node_is_registered_with_its_capacity_and_stays_alive(bench: Bench) -> None:
    node = KeepNode(bench.store.as_unit_of_work(), NodeId("node-1"), CAPACITY)

    await node.register(HeldLease())
    await node.heartbeat(HeldLease())

    assert bench.store.capacity == {"node-1": CAPACITY}
    assert bench.store.heartbeats == ["node-1"]


async def test_node_of_another_runner_is_left_alone(bench: Bench) -> None:
    node = KeepNode(bench.store.as_unit_of_work(), NodeId("node-1"), CAPACITY)
    late = HeldLease(epoch=0)

    for act in (node.register, node.heartbeat):
        with pytest.raises(Conflict):
            await act(late)
    assert bench.store.capacity == {}
    assert bench.store.heartbeats == []
