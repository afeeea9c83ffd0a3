"""`LogService`: stored and live output of the caller's tenant."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from modelyard.logs.v1 import log_service_pb2 as pb
from modelyard.logs.v1.log_service_pb2_grpc import LogServiceServicer
from typing_extensions import override

from services.chassis.rpc.context import Context, principal
from services.log_collector.domain.log_stream import checked_id
from services.log_collector.entrypoints.protobuf import (
    filter_from_pb,
    position_from_pb,
    position_to_pb,
    record_to_pb,
)
from services.log_collector.use_cases.follow_logs import FollowLogs
from services.log_collector.use_cases.read_logs import ReadLogs

LOG_SERVICE: Final = pb.DESCRIPTOR.services_by_name["LogService"].full_name

SCOPES: Final = {
    f"/{LOG_SERVICE}/ReadLogs": "logs:read",
    f"/{LOG_SERVICE}/FollowLogs": "logs:read",
}


@dataclass(frozen=True)
class LogServicer(LogServiceServicer):
    """Translates, calls one use case, translates. A foreign owner reads like one without output."""

    read_logs: ReadLogs
    follow_logs: FollowLogs

    @override
    async def ReadLogs(self, request: pb.ReadLogsRequest, context: Context) -> pb.ReadLogsResponse:
        """Answer one page."""
        page = await self.read_logs(
            principal().tenant,
            checked_id(request.owner_id, field="owner_id"),
            after=position_from_pb(request.after),
            record_count_max=request.record_count_max,
            wanted=filter_from_pb(request.filter),
        )
        return pb.ReadLogsResponse(
            records=[record_to_pb(stream, record) for stream, record in page.records],
            next=position_to_pb(page.next),
            complete=page.is_complete,
        )

    @override
    async def FollowLogs(
        self, request: pb.FollowLogsRequest, context: Context
    ) -> AsyncIterator[pb.FollowLogsResponse]:
        """Answer pages as they come; ends without `complete` when this process is to stop."""
        pages = self.follow_logs(
            principal().tenant,
            checked_id(request.owner_id, field="owner_id"),
            after=position_from_pb(request.after),
            wanted=filter_from_pb(request.filter),
        )
        async with aclosing(pages):
            async for page in pages:
                yield pb.FollowLogsResponse(
                    records=[record_to_pb(stream, record) for stream, record in page.records],
                    complete=page.is_complete,
                    last_attempt_number=page.last_attempt_number,
                )
