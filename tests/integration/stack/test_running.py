"""What holds while the local stack's parts run."""

import contextlib
import os
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient

from deploy.local import kafka, postgres, stack
from deploy.local.processes import environment_of
from deploy.local.stack import Infrastructure
from deploy.local.state import State

_LISTENING = "0A"


def _pids(state: State) -> dict[str, int]:
    return {part: record.pid for part, record in state.read().processes.items()}


def _listening_addresses(pids: set[int]) -> set[str]:
    """Return the hexadecimal addresses on which these processes listen (proc(5), net/tcp)."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                inodes.add(os.readlink(descriptor))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        line[1].partition(":")[0]
        for line in lines
        if line[3] == _LISTENING and f"socket:[{line[9]}]" in inodes
    }


def test_status_shows_every_part_as_healthy_when_infra_is_up(
    running_state: State, infra: Infrastructure
) -> None:
    states = {part.part: part for part in stack.status(running_state)}

    for name in stack.INFRASTRUCTURE:
        assert states[name].is_up
        assert states[name].pid == _pids(running_state)[name]
    assert states["scheduler"].health == "stopped"


def test_second_up_adopts_what_runs_and_says_nothing_of_a_start(
    running_state: State, infra: Infrastructure, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _pids(running_state)
    capsys.readouterr()

    again = stack.infra_up(running_state)

    assert again == infra
    assert capsys.readouterr().out == ""
    assert _pids(running_state) == before


def test_every_part_listens_on_loopback_only(running_state: State, infra: Infrastructure) -> None:
    addresses = _listening_addresses(set(_pids(running_state).values()))

    # 127.0.0.1 as such, and as Java writes it into an IPv6 socket.
    assert addresses == {"0100007F", "0000000000000000FFFF00000100007F"}


async def test_postgres_refuses_a_service_another_services_database(
    running_state: State, infra: Infrastructure
) -> None:
    own = postgres.service_url(running_state, "scheduler").replace("+asyncpg", "")
    connection = await asyncpg.connect(own)
    try:
        assert await connection.fetchval("SELECT current_database()") == "scheduler"
        await connection.execute("CREATE TABLE own (id int)")
        await connection.execute("DROP TABLE own")
    finally:
        await connection.close()

    for foreign in ("model_registry", "postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(own.removesuffix("scheduler") + foreign)


async def test_postgres_refuses_a_wrong_password(infra: Infrastructure) -> None:
    url = infra.postgres.url("scheduler", role="scheduler", password="guessed")

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace("+asyncpg", ""))


def test_postgres_does_not_run_as_root(running_state: State, infra: Infrastructure) -> None:
    pid = _pids(running_state)[postgres.PART]

    assert Path(f"/proc/{pid}").stat().st_uid != 0


async def test_postgres_keeps_what_it_confirmed_when_the_power_fails(
    infra: Infrastructure,
) -> None:
    connection = await infra.postgres.connect()
    try:
        assert await connection.fetchval("SHOW fsync") == "on"
    finally:
        await connection.close()


def test_kafka_has_the_declared_topics_and_no_others_appear(infra: Infrastructure) -> None:
    admin = AdminClient({"bootstrap.servers": infra.kafka})

    topics = admin.list_topics(timeout=10).topics

    declared = {topic.name: topic.partition_count for topic in kafka.declared_topics()}
    assert declared.items() <= {name: len(t.partitions) for name, t in topics.items()}.items()
    assert declared["modelyard.job.lifecycle.v1"] == 4
    assert "misspelt" not in admin.list_topics("misspelt", timeout=10).topics or (
        "misspelt" not in admin.list_topics(timeout=10).topics
    )


def test_no_secret_shows_in_a_command_line(running_state: State, infra: Infrastructure) -> None:
    secrets = [file.read_text() for file in (running_state.root / "secrets").iterdir()]

    assert len(secrets) >= len(postgres.SERVICES)
    for pid in _pids(running_state).values():
        shown = Path(f"/proc/{pid}/cmdline").read_text() + str(environment_of(pid))
        assert not any(secret in shown for secret in secrets)
