"""`/v1/queues`: what jobs stand in line as, and whether it is paused."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from modelyard.scheduler.v1 import queue_pb2 as pb
from modelyard.scheduler.v1 import queue_service_pb2 as service_pb
from pydantic import BaseModel, Field

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import QUEUE, Body, instant_if_set
from services.api_gateway.entrypoints.rest.paging import PageSize, PageToken, page_request

QueueName = Annotated[str, Path(pattern=QUEUE)]


class Queue(BaseModel):
    """A name that jobs give."""

    name: str
    paused_at: datetime | None = Field(description="Since when nothing of it is admitted.")
    paused_reason: str = Field(description="Empty while it is not paused.")
    queued_count: int = Field(description="Its jobs in line.")
    running_count: int = Field(description="Its jobs that are admitted and have not ended.")

    @staticmethod
    def from_pb(queue: pb.Queue) -> "Queue":
        """Return the JSON form."""
        return Queue.model_construct(
            name=queue.name,
            paused_at=instant_if_set(queue.paused_at),
            paused_reason=queue.paused_reason,
            queued_count=queue.queued_count,
            running_count=queue.running_count,
        )


class QueuePage(BaseModel):
    """One page of queues, by name."""

    queues: list[Queue]
    next_page_token: str


class Pause(Body):
    """Why a queue is paused."""

    reason: str = Field(min_length=1, max_length=256, description="What its jobs' owners are told.")


def queues_router(edge: Gateway) -> APIRouter:
    """Return the routes on queues."""
    router = noun_router("/v1/queues", tag="queues")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("", response_model=QueuePage, dependencies=[needs("jobs:read")])
    @burst
    async def list_queues(
        request: Request, page_size: PageSize = 50, page_token: PageToken = ""
    ) -> QueuePage:
        """Show by name the queues that are paused, or of which a job has not ended."""
        answer = await gateway(request).queues.list(
            service_pb.ListQueuesRequest(page=page_request(page_size, page_token))
        )
        return QueuePage(
            queues=[Queue.from_pb(queue) for queue in answer.queues],
            next_page_token=answer.page.next_page_token,
        )

    @router.post("/{queue}/pause", response_model=Queue, dependencies=[needs("queues:write")])
    @burst
    async def pause_queue(request: Request, queue: QueueName, body: Pause) -> Queue:
        """Admit nothing of a queue any more; what runs goes on, what waits keeps its place.

        No job needs to have named it yet. Of one that is paused the first reason stands.
        """
        wanted = service_pb.PauseQueueRequest(queue=queue, reason=body.reason)
        return Queue.from_pb((await gateway(request).queues.pause(wanted)).queue)

    @router.post("/{queue}/resume", response_model=Queue, dependencies=[needs("queues:write")])
    @burst
    async def resume_queue(request: Request, queue: QueueName) -> Queue:
        """End a queue's pause."""
        wanted = service_pb.ResumeQueueRequest(queue=queue)
        return Queue.from_pb((await gateway(request).queues.resume(wanted)).queue)

    return router
