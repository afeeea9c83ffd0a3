"""`/v1/nodes`: the machines that jobs and replicas run on."""

from datetime import datetime

from fastapi import APIRouter, Request
from modelyard.common.v1 import resources_pb2
from modelyard.scheduler.v1 import node_pb2 as pb
from pydantic import BaseModel

from services.api_gateway.entrypoints.rest.access import needs
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import instant, instant_if_set


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
            capacity=Capacity.from_pb(node.capacity),
            used=Capacity.from_pb(node.used),
        )


class NodeList(BaseModel):
    """The first thousand nodes by id, and how many there are."""

    nodes: list[Node]
    node_count: int


def nodes_router(edge: Gateway) -> APIRouter:
    """Return the routes on nodes."""
    router = APIRouter(prefix="/v1/nodes", tags=["nodes"])
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("", response_model=NodeList, dependencies=[needs("nodes:read")])
    @burst
    async def list_nodes(request: Request) -> NodeList:
        """Show the nodes, which are no tenant's."""
        answer = await gateway(request).nodes.list()
        return NodeList(
            nodes=[Node.from_pb(node) for node in answer.nodes], node_count=answer.node_count
        )

    return router
