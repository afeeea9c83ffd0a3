"""The services as the local stack runs them."""

import os
import stat
import urllib.request

import pytest

from deploy.local import postgres, services, stack
from deploy.local.processes import environment_of, is_alive
from tests.support.platform import Platform

pytestmark = pytest.mark.xdist_group("platform")


def test_every_part_of_the_platform_is_healthy(platform: Platform) -> None:
    assert [part.part for part in stack.status(platform.state) if not part.is_up] == []
    with urllib.request.urlopen(f"{platform.url}/readyz", timeout=10) as answer:
        assert answer.status == 200


def test_first_key_and_identity_keys_are_their_owners_only(platform: Platform) -> None:
    private = [services.credentials_file(platform.state), platform.state.root / "cli.env"]
    private += [platform.state.root / name / "identity.key.pem" for name in services.NAMES]

    assert platform.api_key.startswith("myk_")
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}


def test_a_service_is_told_its_own_database_only(platform: Platform) -> None:
    records = platform.state.read().processes
    for service in services.NAMES:
        told = environment_of(records[service].pid)

        assert told["MODELYARD_POSTGRES__URL"] == postgres.service_url(platform.state, service)
        assert "PYTEST_CURRENT_TEST" not in told


@pytest.mark.timeout(240)
def test_second_up_adopts_services_and_starts_a_killed_one_anew(platform: Platform) -> None:
    before = {part: record.pid for part, record in platform.state.read().processes.items()}
    os.kill(before["log_collector"], 9)

    stack.up(platform.state)

    records = platform.state.read().processes
    assert all(is_alive(record) for record in records.values())
    changed = {part for part, record in records.items() if record.pid != before[part]}
    assert changed == {"log_collector"}
