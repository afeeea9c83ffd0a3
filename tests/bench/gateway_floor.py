"""What `gateway` is measured against: the least that a read through FastAPI and gRPC can be.

    python -m tests.bench.gateway_floor echo PORT FILE    answers GetJob with the message in FILE
    python -m tests.bench.gateway_floor app PORT ECHO     the same JSON for GET /v1/jobs/{id}

The app has one route, on the gateway's HTTP server and event loop, with the gateway's description
of a job, since the answers are to be equal; nothing surrounds its call. Both are processes of their
own, as the gateway and the scheduler are.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import uvloop
from fastapi import FastAPI
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub

from deploy.local.ports import LOOPBACK
from services.api_gateway.entrypoints.rest.jobs import Job
from services.api_gateway.entrypoints.rest.server import HttpServer


async def echo(port: int, answer: pb.GetJobResponse) -> None:
    """Answer every GetJob alike."""

    async def get_job(_request: pb.GetJobRequest, _context: object) -> pb.GetJobResponse:
        return answer

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        get_job, pb.GetJobRequest.FromString, pb.GetJobResponse.SerializeToString
    )
    service = "modelyard.scheduler.v1.JobService"
    server.add_registered_method_handlers(service, {"GetJob": method})
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    await server.wait_for_termination()


async def app(port: int, echo_port: int) -> None:
    """Serve the bare application."""
    bare = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{echo_port}") as channel:
        stub = JobServiceStub(channel)

        @bare.get("/v1/jobs/{job_id}", response_model=Job)
        async def get_job(job_id: str) -> Job:
            answer = await stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=5)
            return Job.from_pb(answer.job)

        server = HttpServer(
            app=bare,
            host=LOOPBACK,
            port=port,
            connections_max=2000,
            keep_alive=timedelta(seconds=15),
            grace=timedelta(seconds=1),
        )
        await server.run(asyncio.Event())


if __name__ == "__main__":
    what, own_port, given = sys.argv[1:]
    if what == "echo":
        uvloop.run(echo(int(own_port), pb.GetJobResponse.FromString(Path(given).read_bytes())))
    else:
        uvloop.run(app(int(own_port), int(given)))
