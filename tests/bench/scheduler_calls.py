"""The scheduler, asked by a bench as the gateway asks it: only the gateway speaks for callers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc.aio
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub

from services.api_gateway.adapters.scheduler_client import GrpcJobs
from services.chassis.clock import SystemClock
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner
from services.chassis.settings import GrpcClientSettings, IdentitySettings

_CALL_MAX: Final = timedelta(seconds=30)


@asynccontextmanager
async def open_scheduler(gateway: Mapping[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    """Give a channel that signs as the gateway that runs in this environment."""
    identity = IdentitySettings(
        private_key_file=Path(gateway["MODELYARD_IDENTITY__PRIVATE_KEY_FILE"]),
        trusted_keys_folder=Path(gateway["MODELYARD_IDENTITY__TRUSTED_KEYS_FOLDER"]),
    )
    signer = TokenSigner.load("api-gateway", identity, SystemClock())
    settings = GrpcClientSettings(address=gateway["MODELYARD_SCHEDULER__ADDRESS"])
    async with open_channel(settings, callee="scheduler", signer=signer) as channel:
        yield channel


@asynccontextmanager
async def open_jobs(gateway: Mapping[str, str]) -> AsyncIterator[GrpcJobs]:
    """Give the calls on jobs."""
    async with open_scheduler(gateway) as channel:
        yield GrpcJobs(JobServiceStub(channel), Edge.to("scheduler"), _CALL_MAX)
