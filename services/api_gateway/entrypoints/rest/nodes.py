"""`/v1/nodes`: the machines that jobs and replicas run on."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from modelyard.common.v1 import resources_pb2
from modelyard.scheduler.v1 import node_pb2 as pb
from modelyard.scheduler.v1 import node_service_pb2 as service_pb
from pydantic import BaseModel

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import instant, instant_if_set

NodeId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Capacity(BaseModel):
    """What a node has, or has given away: nothing too, where a job must ask for something."""

    cpu_millicores: int
    memory_bytes: int
    gpu_count: int

    @staticmethod
    def from_pb(resources: resources_pb2.Resources) -> "Capacity":
        """Return the JSON form."""
        return Capacity.model_construct(
            cpu_millicores=resources.cpu_millicores,
            memory_bytes=resources.memory_bytes,
            gpu_count=resources.gpu_count,
        )


class Node(BaseModel):
    """A machine, and whether anything new can run on it."""

    id: str
    alive: bool
    heartbeat_at: datetime
    runtime: str
    runtime_down_since: datetime | None
    cordoned_at: datetime | None
    draining_since: datetime | None
    lost_at: datetime | None
    capacity: Capacity
    used: Capacity

    @staticmethod
    def from_pb(node: pb.Node) -> "Node":
        """Return the JSON form."""
        return Node.model_construct(
            id=node.id,
            alive=node.alive,
            heartbeat_at=instant(node.heartbeat_at),
            runtime=node.runtime,
            runtime_down_since=instant_if_set(node.runtime_down_since),
            cordoned_at=instant_if_set(node.cordoned_at),
            draining_since=instant_if_set(node.draining_since),
            lost_at=instant_if_set(node.lost_at),
            capacity=Capacity.from_pb(node.capacity),
            used=Capacity.from_pb(node.used),
        )


class NodeList(BaseModel):
    """The first thousand nodes by id, and how many there are."""

    nodes: list[Node]
    node_count: int


def nodes_router(edge: Gateway) -> APIRouter:
    """Return the routes on nodes."""
    router = noun_router("/v1/nodes", tag="nodes")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("", response_model=NodeList, dependencies=[needs("nodes:read")])
    @burst
    async def list_nodes(request: Request) -> NodeList:
        """Show the nodes, which are no tenant's."""
        answer = await gateway(request).nodes.list()
        return NodeList(
            nodes=[Node.from_pb(node) for node in answer.nodes], node_count=answer.node_count
        )

    @router.post("/{node_id}/cordon", response_model=Node, dependencies=[needs("nodes:write")])
    @burst
    async def cordon_node(request: Request, node_id: NodeId) -> Node:
        """Place nothing new on a node; what runs there goes on."""
        wanted = service_pb.CordonNodeRequest(node_id=node_id)
        return Node.from_pb((await gateway(request).nodes.cordon(wanted)).node)

    @router.post("/{node_id}/drain", response_model=Node, dependencies=[needs("nodes:write")])
    @burst
    async def drain_node(request: Request, node_id: NodeId) -> Node:
        """Cordon a node and move off what runs there; it is empty once nothing of it is used.

        Jobs stop with their grace and go back in line. Replicas leave the routing table first, one
        of a deployment at a time.
        """
        wanted = service_pb.DrainNodeRequest(node_id=node_id)
        return Node.from_pb((await gateway(request).nodes.drain(wanted)).node)

    @router.post("/{node_id}/uncordon", response_model=Node, dependencies=[needs("nodes:write")])
    @burst
    async def uncordon_node(request: Request, node_id: NodeId) -> Node:
        """Open a node again and end its drain; what was asked to leave it goes on leaving."""
        wanted = service_pb.UncordonNodeRequest(node_id=node_id)
        return Node.from_pb((await gateway(request).nodes.uncordon(wanted)).node)

    return router
