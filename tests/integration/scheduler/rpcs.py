"""The scheduler's RPCs on a yard, served on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
from modelyard.scheduler.v1 import (
    deployment_service_pb2_grpc,
    job_service_pb2_grpc,
    node_service_pb2_grpc,
    queue_service_pb2_grpc,
)

from services.chassis.rpc.client import open_channel
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcClientSettings, GrpcServerSettings
from services.scheduler.bootstrap import (
    CALLERS,
    DEPLOYMENT_SERVICE,
    JOB_SERVICE,
    NODE_SERVICE,
    QUEUE_SERVICE,
    REQUIRED_SCOPES,
    SERVICE,
)
from services.scheduler.entrypoints.grpc.deployments import DeploymentRpcs
from services.scheduler.entrypoints.grpc.jobs import JobRpcs
from services.scheduler.entrypoints.grpc.nodes import NodeRpcs
from services.scheduler.entrypoints.grpc.queues import QueueRpcs
from services.scheduler.use_cases.deployments.list_routes import ListRoutes
from services.scheduler.use_cases.fleet.change_node import ChangeNode
from services.scheduler.use_cases.fleet.list_nodes import ListNodes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.get_stats import GetStats
from services.scheduler.use_cases.jobs.list_attempts import ListAttempts
from tests.integration.scheduler.yard import NODE_SILENCE_MAX, Yard


@asynccontextmanager
async def serving(
    yard: Yard, *, signer: TokenSigner, verifier: TokenVerifier
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the yard's use cases until the block ends; give a channel as the gateway has it."""

    def register(server: grpc.aio.Server) -> None:
        job_service_pb2_grpc.add_JobServiceServicer_to_server(
            JobRpcs(
                yard.submit_job,
                yard.check_job,
                yard.get_job,
                yard.explain_job,
                yard.list_jobs,
                ListAttempts(yard.store),
                GetStats(yard.store),
                CancelJob(yard.store),
            ),
            server,
        )
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(
            DeploymentRpcs(
                yard.create_deployment,
                yard.get_deployment,
                yard.explain_deployment,
                yard.list_deployments,
                yard.delete_deployment,
                ListRoutes(yard.store),
            ),
            server,
        )
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeRpcs(
                ListNodes(yard.store, NODE_SILENCE_MAX),
                ChangeNode(yard.store, NODE_SILENCE_MAX, lambda: None),
            ),
            server,
        )
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(
            QueueRpcs(yard.list_queues, yard.pause_queue, yard.resume_queue), server
        )

    async with (
        serve(
            GrpcServerSettings(port=0),
            register=register,
            services=(JOB_SERVICE, DEPLOYMENT_SERVICE, NODE_SERVICE, QUEUE_SERVICE),
            verifier=verifier,
            required_scopes=REQUIRED_SCOPES,
            callers=CALLERS,
        ) as server,
        open_channel(
            GrpcClientSettings(address=f"127.0.0.1:{server.port}"), callee=SERVICE, signer=signer
        ) as channel,
    ):
        yield channel
