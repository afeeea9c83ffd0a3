"""Kafka away, and services leaving in order under load: no accepted work is lost."""

import hashlib
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from modelyard.client import Job
from modelyard.scheduler.v1.job_events_pb2 import JobTransitioned

from deploy.local import kafka
from services.chassis.events.envelope import Event, from_record
from services.chassis.events.kafka_consumer import open_reader
from services.chassis.settings import KafkaSettings
from tests.e2e.bench import Bench
from tests.e2e.platform import SERVICES, Platform
from tests.support.eventually import eventually, until

JOB_LIFECYCLE = "modelyard.job.lifecycle.v1"
_PAUSE_S = 0.25
"""From a caller's job to its next: neither the line nor the tenant's rate are to fill up."""
BASE = ("--image", "modelyard/base")
PART_BYTES = 256 << 10
"""Times the length of a service's name: more than the registry keeps in memory."""


async def test_events_of_an_outage_arrive_in_order_and_once(
    platform: Platform, bench: Bench
) -> None:
    platform.end(kafka.PART)
    jobs = [bench.submit(bench.spec("pass", name="in the dark")) for _ in range(6)]
    ended = [bench.ended(job) for job in jobs]  # work goes on without Kafka
    platform.start_again()

    await assert_told_in_order(platform, ended)
    assert {job.state for job in ended} == {"SUCCEEDED"}
    # What was collected meanwhile is complete, too.
    assert [bench.output_of(job) for job in jobs] == [[]] * len(jobs)


async def assert_told_in_order(platform: Platform, ended: Sequence[Job]) -> None:
    """Check that the events of jobs are on Kafka: each version once, in order."""
    versions = {job.id: job.version for job in ended}
    events = await events_of(platform, versions)
    for job_id, version in versions.items():
        facts = [JobTransitioned.FromString(event.data) for event in events[job_id].values()]
        assert [fact.version for fact in facts] == list(range(1, version + 1))
        assert all(fact.job_id == job_id for fact in facts)


def test_kafka_that_is_away_is_told_and_a_command_that_follows_ends_with_the_jobs_code(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("import sys\nprint('unseen')\nsys.exit(7)\n")
    platform.end(kafka.PART)
    try:
        status = platform.cli("status")
        done = platform.cli("run", str(tmp_path), *BASE, "--", "python", "main.py")
    finally:
        platform.start_again()

    assert status.returncode == 0  # requests are answered
    assert "kafka is not available" in status.stdout
    assert done.returncode == 7
    assert "its output is not complete, and no more comes" in done.stderr
    assert "kafka is not available" in done.stderr
    assert done.stdout == ""


async def events_of(platform: Platform, versions: dict[str, int]) -> dict[str, dict[str, Event]]:
    """Read the topic until all events are there; by job, in their order, each id as it came first.

    A relay that is told nothing sends again, with the same id: that is what readers go by.
    """
    found: dict[str, dict[str, Event]] = {job_id: {} for job_id in versions}
    settings = KafkaSettings(bootstrap_servers=platform.address_of(kafka.PART))
    async with open_reader(settings, JOB_LIFECYCLE, client_id="e2e") as reader:

        async def all_there() -> bool:
            for record in await reader.poll(records_max=500, wait_s=0.2):
                event = from_record(record)
                if event.key in found:
                    found[event.key].setdefault(event.id, event)
            return all(len(found[job_id]) >= count for job_id, count in versions.items())

        await eventually(all_there, what="all events are on Kafka", within_s=90)
    return found


@contextmanager
def load(platform: Platform, bench: Bench) -> Iterator[list[Job]]:
    """Submit, show and list jobs from two threads by the SDK; a call that fails fails the test."""
    jobs: list[Job] = []
    over = threading.Event()

    def work(_: int) -> None:
        with platform.client(tries_max=30) as client:
            while not over.wait(_PAUSE_S):
                job = client.submit_job(bench.spec("pass", name="under load"))
                jobs.append(job)
                assert client.job(job.id).id == job.id
                assert client.jobs(limit=1)
                list(client.logs(job.id))
                assert client.models() is not None

    with ThreadPoolExecutor(max_workers=2) as pool:
        workers = [pool.submit(work, number) for number in range(2)]
        try:
            until(lambda: len(jobs) >= 4, what="the load begins", within_s=60)
            yield jobs
            count = len(jobs)
            until(lambda: len(jobs) >= count + 4, what="the load goes on", within_s=90)
        finally:
            over.set()
    for worker in workers:
        worker.result()


@pytest.mark.parametrize("service", SERVICES)
def test_service_leaves_under_load_without_an_error_that_a_retry_does_not_cure(
    platform: Platform, bench: Bench, service: str
) -> None:
    with load(platform, bench) as jobs:
        platform.end(service, signal.SIGTERM)
        platform.start_again()

    assert {bench.ended(job).state for job in jobs} == {"SUCCEEDED"}
    assert all(len(bench.starts_of(job)) == 1 for job in jobs)


@pytest.mark.parametrize("service", ["api_gateway", "model_registry"])
def test_upload_in_flight_is_finished_when_a_service_leaves(
    platform: Platform, service: str
) -> None:
    leaving = threading.Event()
    parts = [service.encode() * PART_BYTES] * 2
    incoming = platform.state.root / "model_registry" / "artifacts" / "incoming"

    def body() -> Iterator[bytes]:
        yield parts[0]
        assert leaving.wait(timeout=30)
        yield parts[1]

    # A tenant of its own: what the load of other tests has used up is not its.
    api_key = platform.create_tenant(f"leaving-{service}".replace("_", "-"))

    def upload() -> httpx.Response:
        with platform.http(api_key) as http:
            return http.post("/v1/artifacts", content=body())

    with ThreadPoolExecutor(max_workers=1) as pool:
        uploading = pool.submit(upload)
        until(
            lambda: any(incoming.glob("*/*")) or uploading.done(),
            what="the first part is on its way to the store",
        )
        assert not uploading.done(), uploading.result().text
        with platform.ending(service):
            until(lambda: not platform.is_ready(service), what=f"{service} is leaving")
            leaving.set()
            stored = uploading.result(timeout=30)

    platform.start_again()
    assert stored.status_code == 201, stored.text
    assert stored.json()["digest"] == f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()}"
