"""The services as the local stack runs them."""

import json
import stat
import urllib.request

from modelyard.cli.settings import CliSettings

from deploy.local import postgres, services, stack
from deploy.local.processes import environment_of, is_alive
from tests.e2e.platform import Platform


def test_every_part_of_the_platform_is_healthy(platform: Platform) -> None:
    assert [part.part for part in stack.status(platform.running.state) if not part.is_up] == []
    with urllib.request.urlopen(f"{platform.running.url}/readyz", timeout=10) as answer:
        assert answer.status == 200


def test_status_tells_the_breaker_of_every_edge_of_every_service(platform: Platform) -> None:
    settings = CliSettings(_env_file=platform.running.state.root / "cli.env")

    done = platform.cli("--json", "status", MODELYARD_OPERATIONS=settings.operations)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    edges = {name: set(report["breakers"]) for name, report in told["services"].items()}
    assert set(told["breakers"]) >= {
        "database",
        "log-collector",
        "model-registry",
        "redis",
        "scheduler",
    }
    assert edges["scheduler"] >= {"database", "model-registry", "model-registry-artifacts"}
    assert edges["model_registry"] == edges["log_collector"] == {"api-gateway", "database"}


def test_first_key_and_identity_keys_are_their_owners_only(platform: Platform) -> None:
    private = [
        services.credentials_file(platform.running.state),
        platform.running.state.root / "cli.env",
    ]
    private += [platform.running.state.root / name / "identity.key.pem" for name in services.NAMES]

    assert platform.running.api_key.startswith("myk_")
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}


def test_a_service_is_told_its_own_database_only(platform: Platform) -> None:
    records = platform.running.state.read().processes
    for service in services.NAMES:
        told = environment_of(records[service].pid)

        assert told["MODELYARD_POSTGRES__URL"] == postgres.service_url(
            platform.running.state, service
        )
        assert "PYTEST_CURRENT_TEST" not in told


def test_second_up_adopts_services_and_starts_a_killed_one_anew(platform: Platform) -> None:
    before = {part: record.pid for part, record in platform.running.state.read().processes.items()}
    platform.end("log_collector")

    platform.start_again()

    records = platform.running.state.read().processes
    assert all(is_alive(record) for record in records.values())
    changed = {part for part, record in records.items() if record.pid != before[part]}
    assert changed == {"log_collector"}
