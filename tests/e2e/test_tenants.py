"""A tenant's life, as its administrator and its callers meet it."""

import asyncio
import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient
from modelyard.client import ApiError, Job, JobInput

from deploy.local import kafka
from tests.e2e.bench import Bench, is_running
from tests.e2e.platform import CPU_MILLICORES, SERVICES, Platform
from tests.support.eventually import eventually, until

WAITS = "wait()"


@pytest.fixture
def tenant() -> str:
    """Return the name of a tenant that nobody has made."""
    return f"e2e-{secrets.token_hex(4)}"


@pytest.fixture
def theirs(platform: Platform, tenant: str, tmp_path: Path) -> Iterator[Bench]:
    """Make the tenant by the command line; give a bench for its jobs."""
    made = platform.cli("tenant", "create", tenant)
    assert made.returncode == 0, made.stderr
    with platform.client(made.stdout.strip(), tries_max=30) as client:
        bench = Bench(client, tmp_path)
        yield bench
        platform.cli("tenant", "resume", tenant)
        bench.clear()


def test_a_suspended_tenants_work_waits_and_goes_on_when_it_is_resumed(
    platform: Platform, tenant: str, theirs: Bench
) -> None:
    done = theirs.submit(theirs.spec("pass"))
    assert theirs.ended(done).state == "SUCCEEDED"
    running = theirs.submit(theirs.spec(WAITS))
    process = theirs.process_of(running)
    queued = theirs.submit(theirs.spec(WAITS, cpu_millicores=CPU_MILLICORES))

    suspended = platform.cli("--json", "tenant", "suspend", tenant, "--reason", "unpaid")
    assert json.loads(suspended.stdout)["state"] == "SUSPENDED"

    with pytest.raises(ApiError) as refused:  # at once
        theirs.submit(theirs.spec("pass"))
    assert (refused.value.status, refused.value.code) == (403, "TENANT_SUSPENDED")
    assert "unpaid" in str(refused.value)
    for job in (running, queued):
        until(
            partial(waits_for_resume, theirs, job), what=f"{job.id} waits and says why", within_s=60
        )
    assert not is_running(process)
    assert theirs.client.job(done.id).state == "SUCCEEDED"  # reads go on

    assert platform.cli("tenant", "resume", tenant).returncode == 0
    theirs.open_gate()
    assert {theirs.ended(job).state for job in (running, queued)} == {"SUCCEEDED"}
    assert [len(theirs.starts_of(job)) for job in (running, queued)] == [2, 1]


def waits_for_resume(theirs: Bench, job: Job) -> bool:
    found = theirs.client.job(job.id)
    return found.state == "QUEUED" and "suspended: unpaid" in found.reason


def test_a_job_waits_for_another_tenants_on_the_node_says_so_and_is_passed_by_none_of_them(
    theirs: Bench, bench: Bench
) -> None:
    """The platform's one node runs plain processes: one tenant's at a time."""
    running = theirs.submit(theirs.spec(WAITS))
    theirs.process_of(running)
    waiting = bench.submit(bench.spec("pass"))
    told = until(lambda: waits_for_a_node(bench, waiting), what="the job says why it waits")
    assert told == "no node that is large enough takes anything new: 1 holds another tenant's work"
    late = theirs.submit(theirs.spec("pass"))

    theirs.open_gate()
    ended = [
        bench.ended(job) for bench, job in ((theirs, running), (bench, waiting), (theirs, late))
    ]
    assert [(job.state, job.attempt_number) for job in ended] == [("SUCCEEDED", 1)] * 3
    starts = [job.started_at for job in ended if job.started_at is not None]
    assert len(starts) == 3
    assert starts == sorted(starts)


def waits_for_a_node(bench: Bench, job: Job) -> str | None:
    """Return what a job waits for, once it does and says so."""
    found = bench.client.job(job.id)
    return found.reason if found.state == "QUEUED" and "node" in found.reason else None


def test_a_suspended_tenant_stays_so_for_a_scheduler_that_starts_after_the_topic_was_made_again(
    platform: Platform, tenant: str, theirs: Bench
) -> None:
    job = theirs.submit(theirs.spec(WAITS))
    theirs.process_of(job)
    platform.cli("tenant", "suspend", tenant, "--reason", "unpaid")
    until(partial(waits_for_resume, theirs, job), what="the job waits and says why", within_s=60)

    platform.end("scheduler")
    make_again(platform, "modelyard.tenant.v1")
    platform.start_again()

    until(partial(waits_for_resume, theirs, job), what="the new scheduler knows, too", within_s=60)
    assert len(theirs.starts_of(job)) == 1
    assert platform.cli("tenant", "resume", tenant).returncode == 0
    theirs.open_gate()
    assert theirs.ended(job).state == "SUCCEEDED"
    assert len(theirs.starts_of(job)) == 2


def make_again(platform: Platform, topic: str) -> None:
    """Delete a topic and make it again, empty; nothing is told again meanwhile."""
    address = platform.address_of(kafka.PART)
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in admin.list_topics(timeout=5).topics, what="the topic is gone")
    declared = [each for each in kafka.declared_topics() if each.name == topic]
    kafka.ensure_topics(address, declared)


def test_tenants_are_the_platforms_administrators_alone(
    platform: Platform, tenant: str, theirs: Bench
) -> None:
    own_key = theirs.client.api_key
    listed = platform.cli("--json", "tenant", "list")
    assert {"default", tenant} <= {found["id"] for found in json.loads(listed.stdout)}
    for arguments in (
        ("tenant", "list"),
        ("tenant", "create", "another"),
        ("tenant", "suspend", "default", "--reason", "x"),
    ):
        refused = platform.cli(*arguments, MODELYARD_API_KEY=own_key)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "PERMISSION_DENIED" in refused.stderr

    assert platform.cli("tenant", "plan", tenant).returncode == 2  # it would take all limits away
    planned = platform.cli("--json", "tenant", "plan", tenant, "--priority-max", "10")
    assert json.loads(planned.stdout)["plan"]["priority_max"] == 10
    until(lambda: is_capped(theirs), what="the plan caps the priority", within_s=60)


def is_capped(theirs: Bench) -> bool:
    """Tell whether a job of the SDK's own priority, 50, is refused."""
    try:
        theirs.submit(theirs.spec("pass"))
    except ApiError as error:
        return error.code == "INVALID_ARGUMENT" and "priority" in str(error)
    return False


async def test_nothing_is_left_of_a_deleted_tenant_and_all_of_another(
    platform: Platform, tenant: str, theirs: Bench, tmp_path: Path
) -> None:
    other = f"{tenant}-other"
    made = await asyncio.to_thread(platform.cli, "tenant", "create", other)
    folder = tmp_path / "other"
    folder.mkdir()
    with platform.client(made.stdout.strip(), tries_max=30) as client:
        others = Bench(client, folder)
        for bench, name in ((theirs, tenant), (others, other)):
            await asyncio.to_thread(furnish, bench, name)
        before = await rows_of(platform, other)
        assert (
            (await rows_of(platform, tenant)).keys()
            == before.keys()
            >= {
                "api_gateway.api_key",
                "api_gateway.member",
                "scheduler.job",
                "scheduler.attempt",
                "log_collector.log_stream",
                "model_registry.model",
                "model_registry.model_version",
                "model_registry.artifact",
            }
        )
        files = files_of(platform, other)
        assert len(files) == len(files_of(platform, tenant)) >= 4

        deleted = await asyncio.to_thread(
            platform.cli, "--json", "tenant", "delete", tenant, "--yes", "--grace", "0s"
        )
        assert json.loads(deleted.stdout)["state"] == "DELETING", deleted.stderr

        async def nothing_is_left() -> bool:
            return not (await rows_of(platform, tenant) or files_of(platform, tenant))

        await eventually(nothing_is_left, what="nothing of the tenant is left", within_s=150)
        # A gateway may still know the key from a moment before.
        await asyncio.to_thread(until, lambda: is_turned_away(theirs), what="the key opens nothing")
        again = await asyncio.to_thread(platform.cli, "tenant", "create", tenant)
        assert "ALREADY_EXISTS" in again.stderr
        assert await rows_of(platform, other) == before
        assert files_of(platform, other) == files
        assert [model.name for model in await asyncio.to_thread(client.models)] == ["leaves"]


def is_turned_away(bench: Bench) -> bool:
    """Tell whether nobody is known by the bench's key."""
    try:
        bench.client.jobs()
    except ApiError as error:
        return error.status == 401
    return False


def furnish(bench: Bench, name: str) -> None:
    """Have a member, and a job that reads, prints, leaves a model, and has complete output."""
    bench.client.put_member(name, "auth0|12", ["viewer"], issuer="https://issuer.test")
    program = f"""
print("of {name}")
pathlib.Path(os.environ["MODELYARD_OUTPUTS"], "m").write_text("weights of {name}")
"""
    spec = bench.spec(program, outputs=[bench.output("m", model="leaves")])
    job = bench.submit(spec.model_copy(update={"inputs": [an_input(bench, f"given to {name}")]}))
    assert bench.ended(job).state == "SUCCEEDED"
    assert [record.text for record in bench.output_of(job)] == [f"of {name}"]
    until(bench.client.models, what="the output is a model", within_s=60)


def an_input(bench: Bench, text: str) -> JobInput:
    """Store a text for a job to read, which its node keeps."""
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text"
        file.write_text(text)
        return JobInput(name="text", digest=bench.client.put_artifact(file, digest=digest))


async def rows_of(platform: Platform, tenant: str) -> dict[str, int]:
    """Count a tenant's rows in all databases, but for events that are to leave, and are kept."""
    counts = {}
    for service in SERVICES:
        url = platform.environment_of(service)["MODELYARD_POSTGRES__URL"]
        connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
        try:
            tables = await connection.fetch(
                "SELECT table_name FROM information_schema.columns"
                " WHERE column_name = 'tenant' AND table_name <> 'outbox'"
            )
            for (table,) in tables:
                query = f"SELECT count(*) FROM {table} WHERE tenant = $1"
                counts[f"{service}.{table}"] = await connection.fetchval(query, tenant)
        finally:
            await connection.close()
    return {name: count for name, count in counts.items() if count}


def files_of(platform: Platform, tenant: str) -> list[Path]:
    """Return stored files that say whose they are: streams, what `furnish` left, a node's cache."""
    roots = (
        platform.environment_of("log_collector")["MODELYARD_STORE__ROOT"],
        platform.environment_of("model_registry")["MODELYARD_ARTIFACTS__ROOT"],
    )
    mark = re.compile(rf"{re.escape(tenant)}\b(?!-)".encode())
    cache = Path(platform.environment_of("scheduler")["MODELYARD_RUNNER__NODE_CACHE_ROOT"])
    return sorted(
        [path for root in roots for path in Path(root).rglob("*") if _says(mark, path)]
        + list((cache / tenant).glob("*"))
    )


def _says(mark: re.Pattern[bytes], path: Path) -> bool:
    try:
        # Segments are compressed: what they say goes with their folder, which this file names.
        return path.suffix != ".seg" and path.is_file() and bool(mark.search(path.read_bytes()))
    except FileNotFoundError:  # a file of the collector's that has just got its name
        return False
