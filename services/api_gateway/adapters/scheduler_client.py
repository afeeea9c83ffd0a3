"""The scheduler over gRPC; reads are repeated, writes only with an idempotency key."""

from dataclasses import dataclass
from datetime import timedelta

from modelyard.scheduler.v1 import deployment_service_pb2 as deployments_pb
from modelyard.scheduler.v1 import job_service_pb2 as jobs_pb
from modelyard.scheduler.v1 import node_service_pb2 as nodes_pb
from modelyard.scheduler.v1 import queue_service_pb2 as queues_pb
from modelyard.scheduler.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub
from modelyard.scheduler.v1.node_service_pb2_grpc import NodeServiceStub
from modelyard.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub

from services.chassis.rpc.client import Edge, idempotent


@dataclass(frozen=True, slots=True)
class GrpcJobs:
    """JobService."""

    stub: JobServiceStub
    edge: Edge
    timeout: timedelta

    async def submit(
        self, request: jobs_pb.SubmitJobRequest, *, key: str | None
    ) -> jobs_pb.SubmitJobResponse:
        """Queue a job."""
        return await self.edge.call(
            self.stub.SubmitJob,
            request,
            timeout=self.timeout,
            idempotent=key is not None,
            metadata=idempotent(key),
        )

    async def check(self, request: jobs_pb.CheckJobRequest) -> None:
        """Raise what a submission would be refused for."""
        await self.edge.call(self.stub.CheckJob, request, timeout=self.timeout, idempotent=True)

    async def get(self, request: jobs_pb.GetJobRequest) -> jobs_pb.GetJobResponse:
        """Show a job."""
        return await self.edge.call(
            self.stub.GetJob, request, timeout=self.timeout, idempotent=True
        )

    async def explain(self, request: jobs_pb.ExplainJobRequest) -> jobs_pb.ExplainJobResponse:
        """Say what holds a job."""
        return await self.edge.call(
            self.stub.ExplainJob, request, timeout=self.timeout, idempotent=True
        )

    async def list(self, request: jobs_pb.ListJobsRequest) -> jobs_pb.ListJobsResponse:
        """Show a page of jobs."""
        return await self.edge.call(
            self.stub.ListJobs, request, timeout=self.timeout, idempotent=True
        )

    async def list_attempts(
        self, request: jobs_pb.ListAttemptsRequest
    ) -> jobs_pb.ListAttemptsResponse:
        """Show a page of a job's attempts."""
        return await self.edge.call(
            self.stub.ListAttempts, request, timeout=self.timeout, idempotent=True
        )

    async def get_stats(self, request: jobs_pb.GetStatsRequest) -> jobs_pb.GetStatsResponse:
        """Show how a tenant's jobs have fared."""
        return await self.edge.call(
            self.stub.GetStats, request, timeout=self.timeout, idempotent=True
        )

    async def cancel(self, request: jobs_pb.CancelJobRequest) -> jobs_pb.CancelJobResponse:
        """Ask for a job's end; asking again changes nothing."""
        return await self.edge.call(
            self.stub.CancelJob, request, timeout=self.timeout, idempotent=True
        )


@dataclass(frozen=True, slots=True)
class GrpcDeployments:
    """DeploymentService."""

    stub: DeploymentServiceStub
    edge: Edge
    timeout: timedelta

    async def create(
        self, request: deployments_pb.CreateDeploymentRequest, *, key: str | None
    ) -> deployments_pb.CreateDeploymentResponse:
        """Start serving."""
        return await self.edge.call(
            self.stub.CreateDeployment,
            request,
            timeout=self.timeout,
            idempotent=key is not None,
            metadata=idempotent(key),
        )

    async def get(
        self, request: deployments_pb.GetDeploymentRequest
    ) -> deployments_pb.GetDeploymentResponse:
        """Show a deployment."""
        return await self.edge.call(
            self.stub.GetDeployment,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def explain(
        self, request: deployments_pb.ExplainDeploymentRequest
    ) -> deployments_pb.ExplainDeploymentResponse:
        """Say what holds a deployment's replicas."""
        return await self.edge.call(
            self.stub.ExplainDeployment,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def list(
        self, request: deployments_pb.ListDeploymentsRequest
    ) -> deployments_pb.ListDeploymentsResponse:
        """Show a page of deployments."""
        return await self.edge.call(
            self.stub.ListDeployments,
            request,
            timeout=self.timeout,
            idempotent=True,
        )

    async def delete(
        self, request: deployments_pb.DeleteDeploymentRequest
    ) -> deployments_pb.DeleteDeploymentResponse:
        """Ask for a deployment's end; asking again changes nothing."""
        return await self.edge.call(
            self.stub.DeleteDeployment,
            request,
            timeout=self.timeout,
            idempotent=True,
        )


@dataclass(frozen=True, slots=True)
class GrpcNodes:
    """NodeService."""

    stub: NodeServiceStub
    edge: Edge
    timeout: timedelta

    async def list(self) -> nodes_pb.ListNodesResponse:
        """Show the nodes."""
        return await self.edge.call(
            self.stub.ListNodes, nodes_pb.ListNodesRequest(), timeout=self.timeout, idempotent=True
        )

    async def cordon(self, request: nodes_pb.CordonNodeRequest) -> nodes_pb.CordonNodeResponse:
        """Place nothing new on a node; asking again changes nothing."""
        return await self.edge.call(
            self.stub.CordonNode, request, timeout=self.timeout, idempotent=True
        )

    async def drain(self, request: nodes_pb.DrainNodeRequest) -> nodes_pb.DrainNodeResponse:
        """Move off what runs on a node; asking again changes nothing."""
        return await self.edge.call(
            self.stub.DrainNode, request, timeout=self.timeout, idempotent=True
        )

    async def uncordon(
        self, request: nodes_pb.UncordonNodeRequest
    ) -> nodes_pb.UncordonNodeResponse:
        """Open a node again; asking again changes nothing."""
        return await self.edge.call(
            self.stub.UncordonNode, request, timeout=self.timeout, idempotent=True
        )


@dataclass(frozen=True, slots=True)
class GrpcQueues:
    """QueueService."""

    stub: QueueServiceStub
    edge: Edge
    timeout: timedelta

    async def list(self, request: queues_pb.ListQueuesRequest) -> queues_pb.ListQueuesResponse:
        """Show a page of queues."""
        return await self.edge.call(
            self.stub.ListQueues, request, timeout=self.timeout, idempotent=True
        )

    async def pause(self, request: queues_pb.PauseQueueRequest) -> queues_pb.PauseQueueResponse:
        """Admit nothing of a queue any more; asking again changes nothing."""
        return await self.edge.call(
            self.stub.PauseQueue, request, timeout=self.timeout, idempotent=True
        )

    async def resume(self, request: queues_pb.ResumeQueueRequest) -> queues_pb.ResumeQueueResponse:
        """End a queue's pause; asking again changes nothing."""
        return await self.edge.call(
            self.stub.ResumeQueue, request, timeout=self.timeout, idempotent=True
        )
