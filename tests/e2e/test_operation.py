"""What an operator relies on: services apart from one another, and nothing left behind."""

import asyncpg
import pytest

from deploy.local import ports, postgres
from tests.e2e.bench import Bench, is_running
from tests.e2e.platform import SERVICES, Platform


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_told_of_no_other_services_data(platform: Platform, service: str) -> None:
    told = "\n".join(platform.environment_of(service).values())

    assert str(platform.state.root / service) in told
    for other in set(SERVICES) - {service}:
        assert str(platform.state.root / other) not in told
        assert postgres.service_url(platform.state, other) not in told


@pytest.mark.parametrize("service", SERVICES)
async def test_service_cannot_enter_another_services_database(
    platform: Platform, service: str
) -> None:
    url = platform.environment_of(service)["MODELYARD_POSTGRES__URL"]
    server, own = url.replace("postgresql+asyncpg", "postgresql").rsplit("/", 1)

    assert own == service
    for other in set(SERVICES) - {service}:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(f"{server}/{other}", timeout=10)


def test_down_leaves_no_process_and_no_port_and_up_finds_everything(
    platform: Platform, bench: Bench
) -> None:
    done = bench.submit(bench.spec("print('kept')"))
    assert bench.ended(done).state == "SUCCEEDED"
    assert len(bench.output_of(done)) == 1
    cut_off = bench.submit(bench.spec("wait()"))
    process = bench.process_of(cut_off)
    before = platform.state.read()

    platform.down()

    assert not is_running(process)
    assert [part for part, record in before.processes.items() if is_running(record.pid)] == []
    assert [name for name, port in before.ports.items() if ports.answers(port)] == []

    platform.start_again()

    assert bench.client.job(done.id).state == "SUCCEEDED"
    assert [record.text for record in bench.output_of(done)] == ["kept"]
    # What the stack's own end has cut off starts anew, at no cost of a retry.
    bench.open_gate()
    ended = bench.ended(cut_off)
    assert (ended.state, ended.attempt_number, ended.retry_count) == ("SUCCEEDED", 2, 0)
    [first, _] = bench.starts_of(cut_off)
    assert first == process
