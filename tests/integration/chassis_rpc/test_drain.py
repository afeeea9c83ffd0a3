"""How a server leaves."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.errors import DeadlineExceeded, ModelyardError, NotFound, Unavailable
from services.chassis.rpc.context import Context, acting_as
from tests.integration.chassis_rpc.yard import A_JOB, ANNA, GATEWAY, Client, Handlers, Yard

GRACE = timedelta(seconds=10)


class Gate:
    """A handler that waits until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.error = error

    async def get_job(self, request: Any, context: Context) -> Any:
        self.begun.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return A_JOB


async def outcome(call: Awaitable[Any]) -> Any:
    """Return the answer or the error."""
    try:
        return await call
    except ModelyardError as error:
        return error


async def refuses(client: Any) -> None:
    """Wait until the server takes no new calls."""
    while True:
        try:
            await client.get_job(timeout=timedelta(milliseconds=200))
        except Unavailable:
            return
        except DeadlineExceeded:  # it still answers, or would
            await asyncio.sleep(0)


async def test_drain_lets_calls_at_work_finish_and_refuses_new_ones(yard: Yard) -> None:
    gate = Gate()
    server = await yard.serving(Handlers(get_job=gate.get_job))
    client, newcomer = await yard.client(server.port), await yard.client(server.port)

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            at_work = group.create_task(outcome(client.get_job()))
            await gate.begun.wait()
            draining = group.create_task(server.drain(GRACE))
            await refuses(newcomer)
            assert not draining.done()
            gate.go.set()

    assert at_work.result().job.id == "job_1"


async def test_drain_lets_a_call_at_work_end_with_its_own_error(yard: Yard) -> None:
    """Aborted calls were once cut off by a drain: https://github.com/grpc/grpc/issues/37239."""
    gate = Gate(NotFound("job", "job_1"))
    server = await yard.serving(Handlers(get_job=gate.get_job))
    client, newcomer = await yard.client(server.port), await yard.client(server.port)

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            at_work = group.create_task(outcome(client.get_job()))
            await gate.begun.wait()
            group.create_task(server.drain(GRACE))
            await refuses(newcomer)
            gate.go.set()

    assert isinstance(at_work.result(), NotFound)


async def test_drain_cancels_what_outlasts_its_grace(yard: Yard) -> None:
    gate = Gate()
    server = await yard.serving(Handlers(get_job=gate.get_job))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            at_work = group.create_task(outcome(client.get_job()))
            await gate.begun.wait()
            await server.drain(timedelta(milliseconds=50))

    assert isinstance(at_work.result(), Unavailable)


async def test_health_says_not_serving_and_its_watchers_hold_no_drain_up(yard: Yard) -> None:
    gate = Gate()
    server = await yard.serving(Handlers(get_job=gate.get_job))
    client = await yard.client(server.port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        before = await watching.read()
        with acting_as(ANNA):
            async with asyncio.timeout(GRACE.total_seconds() / 2), asyncio.TaskGroup() as group:
                at_work = group.create_task(client.get_job())
                await gate.begun.wait()
                group.create_task(server.drain(GRACE))
                after = await watching.read()
                gate.go.set()

    assert before.status == health_pb2.HealthCheckResponse.SERVING
    assert after.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert at_work.result().job.id == "job_1"


@asynccontextmanager
async def a_process(public_key_file: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run `service.py`; gives the process and its port."""
    module = "tests.integration.chassis_rpc.service"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(public_key_file), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_process_told_to_leave_under_load_fails_no_call_that_is_repeated(
    yard: Yard, tmp_path: Path
) -> None:
    """One of two replicas gets SIGTERM while eight callers keep calling."""
    (tmp_path / "gateway.pub.pem").write_bytes(GATEWAY.public)
    answered, is_over = 0, False

    async def keep_calling(client: Client) -> None:
        nonlocal answered
        while not is_over:
            await client.get_job(idempotent=True)
            answered += 1

    async def until(is_enough: Callable[[], bool]) -> None:
        while not is_enough():  # noqa: ASYNC110 each answer counts, not an event
            await asyncio.sleep(0)

    stays = Handlers()
    staying = await yard.serving(stays)
    async with a_process(tmp_path / "gateway.pub.pem") as (leaving, port):
        client = await yard.client(port, staying.port)
        with acting_as(ANNA):
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(keep_calling(client))
                await until(lambda: answered - len(stays.seen) > 20)
                leaving.send_signal(signal.SIGTERM)
                exit_code = await leaving.wait()
                after = answered + 50
                await until(lambda: answered > after)
                is_over = True

    assert exit_code == 0


async def test_a_process_told_to_leave_under_load_answers_every_call_that_it_worked_on(
    yard: Yard, tmp_path: Path
) -> None:
    (tmp_path / "gateway.pub.pem").write_bytes(GATEWAY.public)
    answered = 0
    is_busy = asyncio.Event()

    async def call_until_refused(client: Client) -> None:
        nonlocal answered
        while not isinstance(await outcome(client.get_job()), Unavailable):
            answered += 1
            if answered > 100:
                is_busy.set()

    async with a_process(tmp_path / "gateway.pub.pem") as (leaving, port):
        client = await yard.client(port)
        with acting_as(ANNA):
            async with asyncio.TaskGroup() as group:
                for _ in range(16):
                    group.create_task(call_until_refused(client))
                await is_busy.wait()
                leaving.send_signal(signal.SIGTERM)
        output, _ = await leaving.communicate()

    assert leaving.returncode == 0
    assert int(output) == answered
