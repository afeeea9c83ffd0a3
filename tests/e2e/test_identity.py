"""A stack whose services take calls from certified services only, and people from an issuer."""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub

from deploy.local import services, stack
from deploy.local.own_settings import own_settings
from deploy.local.runtimes import Kind, Wish
from services.chassis.clock import SystemClock
from services.chassis.rpc.identity import TokenSigner
from services.chassis.rpc.tls import CertificateFiles, channel_credentials
from services.chassis.settings import TlsSettings
from services.chassis.tenancy import Principal, TenantId
from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.authority import Authority
from tests.support.eventually import until
from tests.support.free_port import free_port
from tests.support.issuer import AUDIENCE, id_token, real_issuer
from tests.support.platform import brought_up, own_state

TENANT: Final = "default"
ANNA: Final = {"sub": "anna", "tenant": TENANT, "roles": ["developer"]}
CALLS: Final[Mapping[str, tuple[str, ...]]] = {
    "api_gateway": ("SCHEDULER", "REGISTRY", "LOGS"),
    "scheduler": ("REGISTRY", "GATEWAY"),
    "model_registry": ("GATEWAY",),
    "log_collector": ("GATEWAY",),
}
"""Whom each service calls, as its settings name them."""


@dataclass(frozen=True, slots=True)
class Secured:
    """The stack, its issuer, and what a service's certificate is."""

    platform: Platform
    issuer: str
    certificates: Mapping[str, TlsSettings]

    def address_of(self, service: str) -> str:
        """Return where a service answers others."""
        told = self.platform.environment_of(service)
        return f"{told['MODELYARD_GRPC__HOST']}:{told['MODELYARD_GRPC__PORT']}"

    def readiness_of(self, service: str) -> Mapping[str, Mapping[str, str]]:
        """Return what a service says of itself."""
        address = self.platform.address_of(service)
        with urllib.request.urlopen(f"http://{address}/readyz?verbose", timeout=10) as answer:
            told: Mapping[str, Mapping[str, str]] = json.load(answer)
        return told

    def gateways_token(self) -> str:
        """Sign as the gateway does for somebody who may read jobs."""
        told = self.platform.environment_of("api_gateway")
        file = Path(told["MODELYARD_IDENTITY__PRIVATE_KEY_FILE"])
        who = Principal(TenantId(TENANT), "key:any", frozenset({"jobs:read"}))
        return TokenSigner("api-gateway", file, SystemClock()).token(who, "scheduler")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = Authority(tmp_path_factory.mktemp("authority") / "ours")
    certificates = {name: authority.certify(name.replace("_", "-")) for name in services.NAMES}
    with real_issuer(free_port(), [ANNA]) as issuer, own_state("secured") as state:
        state.folder()
        state.settings_file.write_text(
            f"# as an operator would\nMODELYARD_OIDC__ISSUER={issuer}\n"
            f"MODELYARD_OIDC__AUDIENCE={AUDIENCE}\n"
        )
        settings = {name: certified(name, certificates[name]) for name in services.NAMES}
        settings["api_gateway"] |= own_settings(state)["api_gateway"]
        platform = Platform(brought_up(state, Wish(Kind.PROCESS, settings=settings)))
        yield Secured(platform, issuer, certificates)


def certified(service: str, tls: TlsSettings) -> dict[str, str]:
    """Return the settings that let a service answer and call with its certificate."""
    files = {name.upper(): value for name, value in tls.model_dump(mode="json").items()}
    edges = ("GRPC", *CALLS[service])
    return {f"{edge}__TLS__{name}": file for edge in edges for name, file in files.items()}


def test_a_person_runs_a_job_whose_output_is_read_and_registered(
    secured: Secured, tmp_path: Path
) -> None:
    token = id_token(secured.issuer, "anna")
    with secured.platform.client(token, tries_max=30) as client:
        bench = Bench(client, tmp_path)
        spec = bench.spec(
            "print('seen'); pathlib.Path(os.environ['MODELYARD_OUTPUTS'], 'm').write_text('x')",
            outputs=[bench.output("m", model="secured")],
        )

        job = bench.ended(bench.submit(spec))

        assert job.state == "SUCCEEDED"
        assert [record.text for record in bench.output_of(job)] == ["seen"]
        assert client.whoami().subject == "user:anna"
        until(lambda: client.model_versions("secured"), what="the output is a version")


def test_an_api_key_lets_in_as_well(secured: Secured) -> None:
    with secured.platform.client() as client:
        assert client.whoami().tenant == TENANT
        assert client.jobs() is not None


def test_every_part_is_healthy(secured: Secured) -> None:
    assert [part.part for part in stack.status(secured.platform.state) if not part.is_up] == []


@pytest.mark.parametrize("service", services.NAMES)
def test_every_edge_of_a_service_works(secured: Secured, service: str) -> None:
    until(
        lambda: set(secured.readiness_of(service)["advisories"].values()) <= {"ok"},
        what="the gateway's list of tenants is read",
    )
    assert set(secured.readiness_of(service)["breakers"].values()) == {"closed"}


@pytest.mark.parametrize("service", services.NAMES)
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_whoever_has_no_certificate_can_call_no_service(
    secured: Secured, service: str, *, is_encrypted: bool
) -> None:
    authorities = secured.certificates[service].authorities_file.read_bytes()
    address = secured.address_of(service)
    channel = (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities))
        if is_encrypted
        else grpc.insecure_channel(address)
    )
    with channel, pytest.raises(grpc.RpcError) as refused:
        list_jobs(channel, secured.gateways_token())

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_service_with_anothers_token_can_not_call_the_scheduler(secured: Secured) -> None:
    address, token = secured.address_of("scheduler"), secured.gateways_token()
    told = {}
    for service in ("api_gateway", "log_collector"):
        credentials = channel_credentials(CertificateFiles(secured.certificates[service]).current)
        with grpc.secure_channel(address, credentials) as channel:
            try:
                list_jobs(channel, token)
                told[service] = grpc.StatusCode.OK
            except grpc.RpcError as refused:
                told[service] = refused.code()

    assert told == {
        "api_gateway": grpc.StatusCode.OK,
        "log_collector": grpc.StatusCode.UNAUTHENTICATED,
    }


def list_jobs(channel: Any, token: str) -> None:
    jobs: Any = JobServiceStub(channel)
    metadata = [("authorization", f"Bearer {token}")]
    jobs.ListJobs(pb.ListJobsRequest(), timeout=10, metadata=metadata)
