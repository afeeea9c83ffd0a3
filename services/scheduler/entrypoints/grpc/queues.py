"""QueueService: translates, calls one use case, translates back."""

from dataclasses import dataclass

from modelyard.scheduler.v1 import queue_pb2
from modelyard.scheduler.v1 import queue_service_pb2 as pb
from modelyard.scheduler.v1.queue_service_pb2_grpc import QueueServiceServicer
from typing_extensions import override

from services.chassis.rpc.context import Context, principal
from services.scheduler.domain.queues.queue import Queue
from services.scheduler.entrypoints.grpc.messages import page_of_queues_from_pb, timestamp_to_pb
from services.scheduler.use_cases.queues.list_queues import ListQueues
from services.scheduler.use_cases.queues.pause_queue import PauseQueue
from services.scheduler.use_cases.queues.resume_queue import ResumeQueue


@dataclass(frozen=True, slots=True)
class QueueRpcs(QueueServiceServicer):
    """Answers `modelyard.scheduler.v1.QueueService` for the caller's tenant."""

    list_queues: ListQueues
    pause_queue: PauseQueue
    resume_queue: ResumeQueue

    @override
    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: Context
    ) -> pb.ListQueuesResponse:
        """Show the tenant's queues."""
        page = await self.list_queues(principal().tenant, page_of_queues_from_pb(request.page))
        response = pb.ListQueuesResponse(queues=[queue_to_pb(queue) for queue in page.items])
        response.page.next_page_token = page.next_token
        return response

    @override
    async def PauseQueue(
        self, request: pb.PauseQueueRequest, context: Context
    ) -> pb.PauseQueueResponse:
        """Admit nothing of a queue any more."""
        caller = principal()
        queue = await self.pause_queue(
            caller.tenant, request.queue, reason=request.reason, by=caller.subject
        )
        return pb.PauseQueueResponse(queue=queue_to_pb(queue))

    @override
    async def ResumeQueue(
        self, request: pb.ResumeQueueRequest, context: Context
    ) -> pb.ResumeQueueResponse:
        """End a queue's pause."""
        caller = principal()
        queue = await self.resume_queue(caller.tenant, request.queue, by=caller.subject)
        return pb.ResumeQueueResponse(queue=queue_to_pb(queue))


def queue_to_pb(queue: Queue) -> queue_pb2.Queue:
    """Return a queue as callers see it."""
    pause = queue.pause
    return queue_pb2.Queue(
        name=queue.name,
        paused_at=timestamp_to_pb(pause.at) if pause is not None else None,
        paused_reason=pause.reason if pause is not None else "",
        queued_count=queue.queued_count,
        running_count=queue.running_count,
    )
