"""The log collector over gRPC: pages by unary calls, live output by a stream."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta

from modelyard.logs.v1 import log_service_pb2 as pb
from modelyard.logs.v1.log_service_pb2_grpc import LogServiceStub

from services.chassis.rpc.client import Edge


@dataclass(frozen=True, slots=True)
class GrpcLogs:
    """LogService."""

    stub: LogServiceStub
    edge: Edge
    timeout: timedelta
    follow_timeout: timedelta

    async def read(self, request: pb.ReadLogsRequest) -> pb.ReadLogsResponse:
        """Return one page."""
        return await self.edge.call(
            self.stub.ReadLogs, request, timeout=self.timeout, idempotent=True
        )

    async def follow(
        self, request: pb.FollowLogsRequest
    ) -> AsyncGenerator[pb.FollowLogsResponse, None]:
        """Stream records; at `follow_timeout` the client is to come again from where it is."""
        async with self.edge.guard("modelyard.logs.v1.LogService/FollowLogs"):
            call = self.stub.FollowLogs(request, timeout=self.follow_timeout.total_seconds())
            async for answer in call:
                yield answer
