"""A whole process on the chassis: `python -m … <file with the public key of its callers>`.

Prints its port; each call takes a moment; leaves on SIGTERM as every service does, and then prints
how many calls it has finished.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.chassis.clock import SystemClock
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_main, run_until_stopped
from services.chassis.rpc.context import Context
from services.chassis.rpc.identity import TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcServerSettings, ShutdownSettings
from tests.integration.chassis_rpc.yard import (
    A_JOB,
    ARTIFACTS,
    CALLEE,
    CALLERS,
    JOBS,
    LOGS,
    SCOPES,
    Handlers,
)


async def main(public_key: bytes) -> int:
    finished = 0

    async def slow(request: Any, context: Context) -> Any:
        nonlocal finished
        await asyncio.sleep(0.02)  # tidy: allow sleep because calls are to be at work
        finished += 1
        return A_JOB

    async def answer(stopping: asyncio.Event) -> None:
        async with serve(
            GrpcServerSettings(port=0),
            register=Handlers(get_job=slow).register,
            services=(JOBS, LOGS, ARTIFACTS),
            verifier=TokenVerifier(CALLEE, {"api-gateway": public_key}, SystemClock()),
            required_scopes=SCOPES,
            callers=CALLERS,
        ) as server:
            sys.stdout.write(f"{server.port}\n")
            sys.stdout.flush()
            await stopping.wait()
            await server.drain(timedelta(seconds=5))

    supervisor = Supervisor()
    supervisor.add("grpc", answer, Stage.INTAKE)
    code = await run_until_stopped(supervisor, Readiness(), ShutdownSettings())
    sys.stdout.write(f"{finished}\n")
    return code


if __name__ == "__main__":
    sys.exit(run_main(main(Path(sys.argv[1]).read_bytes())))
