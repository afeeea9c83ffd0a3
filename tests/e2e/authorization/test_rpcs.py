"""Every RPC of every service, with every role's scopes, on own, foreign and missing things.

The methods come from the contracts, the scopes that they need from the services' own lists. The
services are asked past the gateway, with tokens as the gateway and the other services sign them,
with such as are for another service, and with such as nobody may sign. A foreign thing must read
exactly as one that nobody has.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from typing_extensions import override

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.chassis.clock import SystemClock
from services.chassis.rpc.identity import TokenSigner
from services.chassis.tenancy import NO_TENANT, Principal, TenantId
from tests.e2e.authorization.things import PROPERTY, Findings, Things, fresh
from tests.e2e.platform import Platform

PROTOS: Final = Path(__file__).parents[3] / "protos"
SERVICES: Final = {
    "modelyard.gateway.v1": ("api_gateway", "MODELYARD_GATEWAY__ADDRESS"),
    "modelyard.logs.v1": ("log_collector", "MODELYARD_LOGS__ADDRESS"),
    "modelyard.registry.v1": ("model_registry", "MODELYARD_REGISTRY__ADDRESS"),
    "modelyard.scheduler.v1": ("scheduler", "MODELYARD_SCHEDULER__ADDRESS"),
}
"""By package: the service, and the setting of those who call it that leads there."""
AUDIENCES: Final = frozenset(service.replace("_", "-") for service, _ in SERVICES.values())
SERVICES_OWN: Final = frozenset({"routes:read", "tenants:follow"})
"""Scopes of no role."""
NOTHING: Final[Mapping[str, frozenset[str]]] = {}
FOLLOWS_TENANTS: Final = {"modelyard.gateway.v1": frozenset({"tenants:follow"})}
SERVICES_WORDS: Final = (
    ("api_gateway", "attempt:1", True, NOTHING),
    ("api_gateway", "scheduler", True, NOTHING),
    ("api_gateway", "api-gateway", True, NOTHING),
    ("api_gateway", "key:1", False, NOTHING),
    ("api_gateway", "api-gateway", False, {"modelyard.scheduler.v1": frozenset({"routes:read"})}),
    (
        "scheduler",
        "scheduler",
        True,
        {"modelyard.registry.v1": frozenset({"models:read", "artifacts:read"})},
    ),
    ("scheduler", "attempt:1", True, {"modelyard.registry.v1": frozenset({"artifacts:write"})}),
    ("scheduler", "key:1", True, NOTHING),
    ("scheduler", "scheduler", False, FOLLOWS_TENANTS),
    ("model_registry", "key:1", True, NOTHING),
    ("model_registry", "model-registry", True, NOTHING),
    ("model_registry", "model-registry", False, FOLLOWS_TENANTS),
    ("log_collector", "key:1", True, NOTHING),
    ("log_collector", "log-collector", True, NOTHING),
    ("log_collector", "log-collector", False, FOLLOWS_TENANTS),
)
"""Who signs, for which subject, for a tenant or for none, and which scopes are taken, by owner."""
REFUSED: Final = frozenset({"PERMISSION_DENIED"})
UNKNOWN: Final = frozenset({"UNAUTHENTICATED"})
ABSENT: Final = frozenset({"NOT_FOUND"})
ALIVE: Final = frozenset({code.name for code in grpc.StatusCode}) - REFUSED - UNKNOWN - {"INTERNAL"}
WITHOUT_OUTPUT: Final = frozenset({"OK", "NOT_FOUND", "DEADLINE_EXCEEDED"})
"""The collector knows no owner: a foreign one reads like one without output."""
STREAM_S_MAX: Final = 0.5


class EarlierClock(SystemClock):
    """A clock that is five minutes behind: what it signs has expired."""

    @override
    def now(self) -> datetime:
        return super().now() - timedelta(minutes=5)


@dataclass(frozen=True)
class Method:
    """One method of a contract."""

    described: MethodDescriptor
    scope: str
    more: Mapping[str, object]
    """What a request has besides the thing that it is about."""

    @property
    def path(self) -> str:
        return f"/{self.described.containing_service.full_name}/{self.described.name}"

    @property
    def name(self) -> str:
        return f"{self.described.containing_service.name}.{self.described.name}"

    @property
    def package(self) -> str:
        return str(self.described.containing_service.file.package)

    @property
    def callee(self) -> str:
        """Return the name of the service that answers it."""
        return SERVICES[self.package][0].replace("_", "-")

    @property
    def is_about_a_thing(self) -> bool:
        """Whether a request names something that is there already."""
        named = self._fields.intersection(about("", "", "", ""))
        return bool(named) and self.described.name != "CreateModel"

    @property
    def _fields(self) -> set[str]:
        return {field.name for field in self.described.input_type.fields}

    def request(self, named: Mapping[str, str]) -> Message:
        """Make a request about a thing."""
        values: dict[str, object] = {
            field: value for field, value in named.items() if field in self._fields
        }
        request_type: Any = GetMessageClass(self.described.input_type)
        made: Message = request_type(**values, **self.more)
        return made

    def ask(
        self,
        channel: grpc.Channel,
        token: str,
        named: Mapping[str, str],
        *,
        expected: frozenset[str] = frozenset(),
    ) -> tuple[str, str]:
        """Call it; return its status and what it says.

        A stream that may rightly go on is left soon.
        """
        goes_on = self.described.server_streaming and "DEADLINE_EXCEEDED" in expected
        shape = (
            ("stream" if self.described.client_streaming else "unary")
            + "_"
            + ("stream" if self.described.server_streaming else "unary")
        )
        call = getattr(channel, shape)(
            self.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(self.described.output_type).FromString,
        )
        request = self.request(named)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            answer = call(
                iter([request]) if self.described.client_streaming else request,
                metadata=metadata,
                timeout=STREAM_S_MAX if goes_on else 10,
            )
            if self.described.server_streaming:
                list(answer)
        except grpc.RpcError as error:
            # Which side notices first that the time is over is chance, and so is its wording.
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return error.code().name, "" if is_late else error.details() or ""
        return "OK", ""


def about(job_id: str, model: str, deployment: str, digest: str) -> dict[str, str]:
    """Name a tenant's things as requests do."""
    return {
        "job_id": job_id,
        "owner_id": job_id,
        "name": model,
        "model_name": model,
        "deployment": deployment,
        "digest": digest,
    }


def methods(own: Things) -> Iterator[Method]:
    """Yield all methods of all contracts; deletions last."""
    more: Mapping[str, Mapping[str, object]] = {
        "CancelJob": {"reason": "a test"},
        "GetVersion": {"alias": "champion"},
        "SetAlias": {"alias": "champion", "version": 1},
        "DeleteAlias": {"alias": "champion"},
        "CreateVersion": {
            "files": [{"path": "m", "size_bytes": own.size_bytes, "digest": own.digest}]
        },
    }
    found = []
    for file in sorted(PROTOS.rglob("*_service_pb2.py")):
        module = importlib.import_module(".".join(file.relative_to(PROTOS).with_suffix("").parts))
        for service in module.DESCRIPTOR.services_by_name.values():
            owner, _ = SERVICES[service.file.package]
            scopes = importlib.import_module(f"services.{owner}.bootstrap").REQUIRED_SCOPES
            found += [
                Method(
                    method,
                    scopes[f"/{service.full_name}/{method.name}"],
                    more.get(method.name, {}),
                )
                for method in service.methods
            ]
    yield from sorted(found, key=lambda method: "Delete" in method.name)


@dataclass(frozen=True)
class Signers:
    """Who signs: each service, the gateway in the past, and nobody that is trusted."""

    services: Mapping[str, TokenSigner]
    past: TokenSigner
    stranger: TokenSigner

    @staticmethod
    def of(platform: Platform) -> "Signers":
        """Take the services' keys, and make one that nobody knows."""
        files = {
            service: Path(platform.environment_of(service)["MODELYARD_IDENTITY__PRIVATE_KEY_FILE"])
            for service, _ in SERVICES.values()
        }
        unknown = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return Signers(
            {
                service: TokenSigner(service.replace("_", "-"), file, SystemClock())
                for service, file in files.items()
            },
            TokenSigner("api-gateway", files["api_gateway"], EarlierClock()),
            TokenSigner("api-gateway", unknown, SystemClock()),
        )


@pytest.mark.usefixtures("platform")
def test_no_cell_of_the_matrix_lets_anybody_do_or_see_more(
    platform: Platform, record_property: Callable[[str, object], None]
) -> None:
    environment = platform.environment_of("scheduler") | platform.environment_of("api_gateway")
    signers, findings, count = Signers.of(platform), Findings(), 0
    tenants = [fresh("owners"), fresh("strangers")]
    with ExitStack() as stack:
        own, foreign = [
            Things.made(stack.enter_context(platform.http(platform.create_tenant(name))), name)
            for name in tenants
        ]
        named = {
            "own": about(own.job_id, own.name, own.name, own.digest),
            "foreign": about(foreign.job_id, foreign.name, foreign.name, foreign.digest),
            "missing": about("job_nothing", "nothing", "nothing", "sha256:" + "0" * 64),
        }
        channels = {
            package: stack.enter_context(grpc.insecure_channel(environment[setting]))
            for package, (_, setting) in SERVICES.items()
        }
        for method in methods(own):
            count += 1
            channel = channels[method.package]
            look(findings, method, channel, signers, TenantId(tenants[0]), named)
        for things in (own, foreign):
            things.clear()

    record_property(PROPERTY, f"{count} RPCs, {findings.cell_count} cells")
    assert not findings.violations, "\n".join(findings.violations)
    assert findings.cell_count > count * len(Role)


def look(  # noqa: PLR0917
    findings: Findings,
    method: Method,
    channel: grpc.Channel,
    signers: Signers,
    tenant: TenantId,
    named: Mapping[str, Mapping[str, str]],
) -> None:
    """Look at all cells of one method."""
    gateway, callee = signers.services["api_gateway"], method.callee
    kinds = ("own", "foreign", "missing") if method.is_about_a_thing else ("own",)
    rights = {str(role): scopes for role, scopes in SCOPES_BY_ROLE.items()}
    everything = frozenset().union(*rights.values(), SERVICES_OWN)
    rights |= {
        "its scope alone": frozenset({method.scope}),
        "all scopes but its": everything - {method.scope},
    }
    for title, scopes in rights.items():
        token = gateway.token(Principal(tenant, "key:matrix", scopes), callee)
        told = {}
        for kind in kinds:
            expected = ALIVE
            if method.scope not in scopes - SERVICES_OWN:
                expected = REFUSED
            elif kind != "own":
                is_output = "owner_id" in method.request({}).DESCRIPTOR.fields_by_name
                expected = WITHOUT_OUTPUT if is_output else ABSENT
            status, said = method.ask(channel, token, named[kind], expected=expected)
            findings.expect(f"{method.name} with {title}, {kind}", status, expected)
            for value in named[kind].values():
                said = said.replace(value, "…")
            told[kind] = (status, said)
        if method.is_about_a_thing:
            cell = f"{method.name} with {title}, foreign and missing"
            findings.expect_alike(cell, told["foreign"], told["missing"])
    whole = Principal(tenant, "key:matrix", everything)
    for title, token in (
        ("no token", ""),
        ("an expired token", signers.past.token(whole, callee)),
        ("a stranger's token", signers.stranger.token(whole, callee)),
        *((f"a token for {other}", gateway.token(whole, other)) for other in AUDIENCES - {callee}),
    ):
        status, _ = method.ask(channel, token, named["own"])
        findings.expect(f"{method.name} with {title}", status, UNKNOWN)
    look_at_services(findings, method, channel, signers, whole, named["own"])


def look_at_services(  # noqa: PLR0917
    findings: Findings,
    method: Method,
    channel: grpc.Channel,
    signers: Signers,
    whole: Principal,
    named: Mapping[str, str],
) -> None:
    """Look at what each service may do beside what the gateway does for people."""
    for service, subject, is_for_tenant, taken in SERVICES_WORDS:
        tenant = whole.tenant if is_for_tenant else NO_TENANT
        acting = replace(whole, subject=subject, tenant=tenant)
        token = signers.services[service].token(acting, method.callee)
        expected = ALIVE if method.scope in taken.get(method.package, ()) else REFUSED
        status, _ = method.ask(channel, token, named, expected=expected)
        findings.expect(f"{method.name} by {service} as {subject}", status, expected)
