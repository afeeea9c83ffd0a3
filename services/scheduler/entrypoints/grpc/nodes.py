"""NodeService: translates, calls one use case, translates back."""

from dataclasses import dataclass

from modelyard.scheduler.v1 import node_pb2
from modelyard.scheduler.v1 import node_service_pb2 as pb
from modelyard.scheduler.v1.node_service_pb2_grpc import NodeServiceServicer
from typing_extensions import override

from services.chassis.rpc.context import Context
from services.scheduler.entrypoints.grpc.messages import resources_to_pb, timestamp_to_pb
from services.scheduler.use_cases.fleet.list_nodes import ListNodes, ShownNode


@dataclass(frozen=True, slots=True)
class NodeRpcs(NodeServiceServicer):
    """Answers `modelyard.scheduler.v1.NodeService`, the same to every tenant."""

    list_nodes: ListNodes

    @override
    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        """Show the nodes."""
        nodes, count = await self.list_nodes()
        return pb.ListNodesResponse(nodes=[node_to_pb(each) for each in nodes], node_count=count)


def node_to_pb(shown: ShownNode) -> node_pb2.Node:
    """Return a node as callers see it."""
    node = shown.node
    return node_pb2.Node(
        id=node.id,
        alive=shown.is_alive,
        heartbeat_at=timestamp_to_pb(node.heartbeat_at),
        runtime=node.runtime,
        runtime_down_since=timestamp_to_pb(node.runtime_down_since),
        capacity=resources_to_pb(node.capacity),
        used=resources_to_pb(node.used),
    )
