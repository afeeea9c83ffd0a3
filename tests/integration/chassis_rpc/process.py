"""A service as a process: `python -m tests.integration.chassis_rpc.process PUBLIC_KEY_FILE`.

Prints its port, then, when it has left in order, how many calls it finished.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.chassis.clock import SystemClock
from services.chassis.lifecycle import (
    Readiness,
    Stage,
    Supervisor,
    run_main,
    run_until_stopped,
)
from services.chassis.rpc.context import Context
from services.chassis.rpc.identity import TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcServerSettings, ShutdownSettings
from services.chassis.telemetry.logging import set_up_logging
from tests.integration.chassis_rpc.yard import A_JOB, ARTIFACTS, JOBS, LOGS, SCOPES, Handlers

# Long enough that calls are at work whenever the signal comes.
WORK_S = 0.02
GRACE = timedelta(seconds=5)


async def main(public_key: bytes) -> int:
    set_up_logging("a-service", level="INFO", stream=sys.stderr)
    finished = 0

    async def work(request: Any, context: Context) -> Any:
        nonlocal finished
        await asyncio.sleep(WORK_S)
        finished += 1
        return A_JOB

    supervisor = Supervisor()
    async with serve(
        GrpcServerSettings(port=0),
        register=Handlers(get_job=work).register,
        services=(JOBS, LOGS, ARTIFACTS),
        verifier=TokenVerifier({"api-gateway": public_key}, SystemClock()),
        required_scopes=SCOPES,
    ) as server:

        async def answer(stopping: asyncio.Event) -> None:
            sys.stdout.write(f"{server.port}\n")
            sys.stdout.flush()
            await stopping.wait()
            await server.drain(GRACE)

        supervisor.add("grpc", answer, Stage.INTAKE)
        code = await run_until_stopped(supervisor, Readiness(), ShutdownSettings())
    sys.stdout.write(f"{finished}\n")
    return code


if __name__ == "__main__":
    sys.exit(run_main(main(Path(sys.argv[1]).read_bytes())))
