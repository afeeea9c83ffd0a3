"""Whether the API is what `/openapi.json` says: generated calls, alone and in chains."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from modelyard.client import DeploymentSpec

from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.eventually import until

CONFIGURATION: Final = Path(__file__).with_name("openapi.toml")
_RUN_S_MAX: Final = 240.0

ENDS_ITS_OWN_KEY: Final = (
    "--exclude-operation-id=revoke_key_v1_api_keys__key_id__delete",
    "--exclude-operation-id=rotate_key_v1_api_keys__key_id__rotate_post",
)
"""The list of keys tells the run its own key: ended, all that follows would be refused."""

TELLS_WHO_IS_THERE: Final = (
    "--exclude-operation-id=list_keys_v1_api_keys_get",
    "--exclude-operation-id=list_tenants_v1_tenants_get",
)
"""Without the lists the run knows only what it made itself: it plans and ends nobody else."""


@pytest.fixture
def tenant(platform: Platform, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Make a tenant that has one of each; at the end it is suspended, so that nothing runs on."""
    name = f"e2e-{secrets.token_hex(4)}"
    made = platform.cli("tenant", "create", name)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    with platform.client(key, tries_max=30) as client:
        job_id = furnish(Bench(client, tmp_path))
    yield key, job_id
    suspended = platform.cli("tenant", "suspend", name, "--reason", "the test is over")
    assert suspended.returncode == 0, suspended.stderr


@pytest.fixture
def administrator_key(platform: Platform) -> Iterator[str]:
    """Make a key for the platform's administration."""
    with platform.client() as client:
        key, text = client.issue_key("openapi", role="platform-admin")
        yield text
        client.revoke_key(key.id)


@pytest.mark.slow
def test_a_tenants_calls_are_answered_as_described(
    platform: Platform, tenant: tuple[str, str], tmp_path: Path
) -> None:
    key, job_id = tenant
    told = call_all(
        platform, key, tmp_path, "--exclude-tag=tenants", *ENDS_ITS_OWN_KEY, job_id=job_id
    )
    assert "✅  Stateful" in told


@pytest.mark.slow
def test_an_administrators_calls_are_answered_as_described(
    platform: Platform, administrator_key: str, tmp_path: Path
) -> None:
    told = call_all(
        platform,
        administrator_key,
        tmp_path,
        "--include-tag=tenants",
        "--include-tag=api keys",
        "--include-tag=members",
        *TELLS_WHO_IS_THERE,
    )
    assert "✅  Stateful" in told


@pytest.mark.slow
def test_the_list_of_tenants_is_as_described(
    platform: Platform, administrator_key: str, tmp_path: Path
) -> None:
    call_all(
        platform,
        administrator_key,
        tmp_path,
        "--include-operation-id=list_tenants_v1_tenants_get",
        "--phases=coverage,fuzzing",
    )


def furnish(bench: Bench) -> str:
    """Make what generated calls hardly could: job, output, version, deployment; give the job."""
    spec = bench.spec(
        "print('a line'); pathlib.Path(os.environ['MODELYARD_OUTPUTS'], 'm').write_text('x')",
        outputs=[bench.output("m", model="described")],
    )
    job = bench.ended(bench.submit(spec))
    assert job.state == "SUCCEEDED"
    until(bench.client.models, what="the output is a model")
    until(lambda: bench.client.model_versions("described"), what="the output is its version")
    bench.client.set_alias("described", "champion", 1)
    bench.client.create_deployment(DeploymentSpec(name="described", model="models:/described/1"))
    return job.id


def call_all(
    platform: Platform, key: str, folder: Path, *operations: str, job_id: str = "none"
) -> str:
    """Call the operations as this key; raises AssertionError with the report of what was wrong."""
    ended = subprocess.run(
        [
            str(Path(sys.prefix) / "bin" / "schemathesis"),
            f"--config-file={CONFIGURATION}",
            "--no-color",
            "run",
            f"{platform.running.url}/openapi.json",
            *operations,
        ],
        env={"MODELYARD_API_KEY": key, "JOB_ID": job_id, "PYTHONUTF8": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=_RUN_S_MAX,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with platform.http(key) as client:
        assert client.get("/v1/whoami").status_code == 200, "the run ended its own key"
    return ended.stdout
