"""A node is in the fleet for as long as its lease is held."""

import pytest

from services.chassis.errors import Conflict
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.attempts.keep_node import KeepNode
from tests.unit.scheduler_runner.bench import Bench
from tests.unit.scheduler_runner.fakes import HeldLease

CAPACITY = Resources(4_000, 8 << 30)


@pytest.fixture
def node(bench: Bench) -> KeepNode:
    return KeepNode(
        bench.store.as_unit_of_work(),
        NodeId("node-1"),
        CAPACITY,
        "process",
        allows_mixed_tenants=False,
    )


async def test_node_is_registered_with_what_it_has_and_tells_of_its_runtime(
    bench: Bench, node: KeepNode
) -> None:
    await node.register(HeldLease(), is_runtime_up=False)
    await node.heartbeat(HeldLease(), is_runtime_up=True)

    assert bench.store.nodes == {"node-1": (CAPACITY, "process", False)}
    assert bench.store.is_runtime_up == [False, True]


async def test_node_of_another_runner_is_left_alone(bench: Bench, node: KeepNode) -> None:
    for act in (node.register, node.heartbeat):
        with pytest.raises(Conflict):
            await act(HeldLease(epoch=0), is_runtime_up=True)
    assert bench.store.nodes == {}
    assert bench.store.is_runtime_up == []
