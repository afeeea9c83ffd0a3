"""NodeService: translates, calls one use case, translates back."""

from dataclasses import dataclass

from modelyard.scheduler.v1 import node_pb2
from modelyard.scheduler.v1 import node_service_pb2 as pb
from modelyard.scheduler.v1.node_service_pb2_grpc import NodeServiceServicer
from typing_extensions import override

from services.chassis.rpc.context import Context, principal
from services.scheduler.domain.identities import NodeId
from services.scheduler.entrypoints.grpc.messages import resources_to_pb, timestamp_to_pb
from services.scheduler.use_cases.fleet.change_node import ChangeNode
from services.scheduler.use_cases.fleet.list_nodes import ListNodes, ShownNode


@dataclass(frozen=True, slots=True)
class NodeRpcs(NodeServiceServicer):
    """Answers `modelyard.scheduler.v1.NodeService`, the same to every tenant."""

    list_nodes: ListNodes
    change_node: ChangeNode

    @override
    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        """Show the nodes."""
        nodes, count = await self.list_nodes()
        return pb.ListNodesResponse(nodes=[node_to_pb(each) for each in nodes], node_count=count)

    @override
    async def CordonNode(
        self, request: pb.CordonNodeRequest, context: Context
    ) -> pb.CordonNodeResponse:
        """Place nothing new on a node."""
        shown = await self.change_node.cordon(NodeId(request.node_id), by=principal().subject)
        return pb.CordonNodeResponse(node=node_to_pb(shown))

    @override
    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: Context
    ) -> pb.DrainNodeResponse:
        """Move off what runs on a node."""
        shown = await self.change_node.drain(NodeId(request.node_id), by=principal().subject)
        return pb.DrainNodeResponse(node=node_to_pb(shown))

    @override
    async def UncordonNode(
        self, request: pb.UncordonNodeRequest, context: Context
    ) -> pb.UncordonNodeResponse:
        """Open a node again."""
        shown = await self.change_node.uncordon(NodeId(request.node_id), by=principal().subject)
        return pb.UncordonNodeResponse(node=node_to_pb(shown))


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
        cordoned_at=timestamp_to_pb(node.cordoned_at),
        draining_since=timestamp_to_pb(node.draining_since),
        lost_at=timestamp_to_pb(node.lost_at),
    )
