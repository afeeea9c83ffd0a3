"""Nothing of an attempt is left on its node a minute after its end, whatever died meanwhile."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from modelyard.client import Client, Job, JobSpec, Resources

from deploy.local.runtimes import Kind
from tests.e2e.platform import SERVICES, Platform
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import until

AT_MOST_S = 60.0
KINDS_OF_A_JOB = {"folders", "programs", "containers"}
PROGRAM = """
import os, sys, time
os.system("sleep 600 &")
open(os.path.join(os.environ["MODELYARD_OUTPUTS"], "left"), "w").write("x" * 1000)
print("up", flush=True)
time.sleep(float(sys.argv[1]))
"""


def spec(run_s: float) -> JobSpec:
    return JobSpec(
        name="clean-up",
        image="modelyard/base",
        command=["python", "-c", PROGRAM, str(run_s)],
        resources=Resources(cpu_millicores=100, memory_bytes=128 << 20),
    )


def in_state(client: Client, job: Job, *states: str) -> Job:
    def found() -> Job | None:
        return now if (now := client.job(job.id)).state in states else None

    return until(found, what=f"{job.id} is {states}", within_s=AT_MOST_S)


class Node:
    """What there is of containers on this machine."""

    def __init__(self, platform: Platform, engine: DockerEngine | None) -> None:
        self.engine = engine
        settings = platform.environment_of("scheduler")
        self._root = Path(settings["MODELYARD_RUNTIME__CONTAINERS_ROOT"])
        self._scope = settings.get("MODELYARD_RUNTIME__SCOPE", "")

    def things(self) -> dict[str, list[str]]:
        """Return folders and programs, and all of it that an engine holds."""
        there = {
            "folders": [path.name for path in self._root.iterdir()],
            "programs": [str(pid) for pid in self._programs()],
        }
        if self.engine is not None:
            there |= self.engine.things(self._scope)
        return there

    def _programs(self) -> Iterator[int]:
        """Yield the processes of jobs, this test's and all others', children included."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if b"MODELYARD_OUTPUTS=" in environment and self._is_ours(environment):
                yield int(path.name)

    def _is_ours(self, environment: bytes) -> bool:
        inside = b"/modelyard/outputs" if self.engine is not None else str(self._root).encode()
        return b"MODELYARD_OUTPUTS=" + inside in environment

    def may_have_lost(self, job: Job) -> bool:
        """Return whether all that is known of a job is that its engine was away at its end."""
        failure = job.failure
        if self.engine is None or failure is None:
            return False
        return (failure.reason, failure.exit_code) == ("lost", None)

    @contextmanager
    def engine_killed(self) -> Iterator[None]:
        """Run the block without the engine, if there is one."""
        with self.engine.stopped(signal.SIGKILL) if self.engine is not None else nullcontext():
            yield


@pytest.fixture(params=Kind)
def node(request: pytest.FixtureRequest) -> tuple[Platform, Node]:
    """Give the platform on each runtime."""
    if request.param is Kind.PROCESS:
        process_platform: Platform = request.getfixturevalue("platform")
        return process_platform, Node(process_platform, None)
    platform: Platform = request.getfixturevalue("docker_platform")
    return platform, Node(platform, request.getfixturevalue("docker_engine"))


def test_nothing_is_left_when_jobs_have_ended_though_everything_was_killed(
    node: tuple[Platform, Node],
) -> None:
    platform, things = node
    with platform.client(tries_max=30) as client:
        before = things.things()
        short = [client.submit_job(spec(0.1)) for _ in range(3)]
        long, doomed = client.submit_job(spec(600)), client.submit_job(spec(600))
        for job in (long, doomed):
            in_state(client, job, "RUNNING")
        client.cancel_job(doomed.id, reason="is being stopped when everything dies")

        with things.engine_killed():
            for service in SERVICES:
                platform.end(service)
        platform.start_again()

        for job in short:
            ended = in_state(client, job, "SUCCEEDED", "FAILED")
            assert ended.state == "SUCCEEDED" or things.may_have_lost(ended), ended.failure
        assert in_state(client, doomed, "CANCELLED").attempt_number == 1
        assert client.job(long.id).state == "RUNNING"
        now = things.things()
        for kind in KINDS_OF_A_JOB & now.keys():
            assert set(now[kind]) - set(before[kind]), f"no {kind} to be left: they are not seen"
        client.cancel_job(long.id, reason="the test is over")
        in_state(client, long, "CANCELLED")

    def left() -> dict[str, list[str]]:
        now = things.things()
        return {kind: found for kind, found in now.items() if set(found) - set(before[kind])}

    # As much again as a minute: on a busy machine the clean-up takes its time.
    until(lambda: not left(), what="nothing is left", within_s=2 * AT_MOST_S)
