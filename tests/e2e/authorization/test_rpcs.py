"""Every RPC of every service, with every role's scopes, on own, foreign and missing things.

The methods come from the contracts, the scopes that they need from the services' own lists. The
services are asked past the gateway, with tokens as the gateway signs them, and with such as nobody
may sign. A foreign thing must read exactly as one that nobody has.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
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
from services.chassis.tenancy import Principal, TenantId
from tests.e2e.authorization.things import Findings, Things, fresh
from tests.e2e.platform import Platform

PROTOS: Final = Path(__file__).parents[3] / "protos"
SERVICES: Final = {
    "modelyard.gateway.v1": ("api_gateway", "MODELYARD_GATEWAY__ADDRESS"),
    "modelyard.logs.v1": ("log_collector", "MODELYARD_LOGS__ADDRESS"),
    "modelyard.registry.v1": ("model_registry", "MODELYARD_REGISTRY__ADDRESS"),
    "modelyard.scheduler.v1": ("scheduler", "MODELYARD_SCHEDULER__ADDRESS"),
}
"""By package: the service, and the setting of those who call it that leads there."""
SERVICES_OWN: Final = frozenset({"routes:read", "tenants:follow"})
"""Scopes of no role."""
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
    """Who signs: the gateway, the gateway in the past, and nobody that is trusted."""

    gateway: TokenSigner
    past: TokenSigner
    stranger: TokenSigner

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Signers":
        """Take the gateway's key, and make one that nobody knows."""
        file = Path(environment["MODELYARD_IDENTITY__PRIVATE_KEY_FILE"])
        unknown = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return Signers(
            TokenSigner("api-gateway", file, SystemClock()),
            TokenSigner("api-gateway", file, EarlierClock()),
            TokenSigner("api-gateway", unknown, SystemClock()),
        )


@pytest.mark.usefixtures("platform")
def test_no_cell_of_the_matrix_lets_anybody_do_or_see_more(platform: Platform) -> None:
    environment = platform.environment_of("scheduler") | platform.environment_of("api_gateway")
    signers, findings, count = Signers.of(environment), Findings(), 0
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
            channel = channels[method.described.containing_service.file.package]
            look(findings, method, channel, signers, TenantId(tenants[0]), named)
        for things in (own, foreign):
            things.clear()

    sys.stdout.write(f"{count} RPCs, {findings.cell_count} cells\n")
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
    kinds = ("own", "foreign", "missing") if method.is_about_a_thing else ("own",)
    rights = {str(role): scopes for role, scopes in SCOPES_BY_ROLE.items()}
    everything = frozenset().union(*rights.values(), SERVICES_OWN)
    rights |= {
        "its scope alone": frozenset({method.scope}),
        "all scopes but its": everything - {method.scope},
    }
    for title, scopes in rights.items():
        token = signers.gateway.token(Principal(tenant, "matrix", scopes))
        told = {}
        for kind in kinds:
            expected = ALIVE
            if method.scope not in scopes:
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
    whole = Principal(tenant, "matrix", everything)
    for title, token in (
        ("no token", ""),
        ("an expired token", signers.past.token(whole)),
        ("a stranger's token", signers.stranger.token(whole)),
    ):
        status, _ = method.ask(channel, token, named["own"])
        findings.expect(f"{method.name} with {title}", status, UNKNOWN)
