"""No stopwatch tells what another tenant has from what nobody has.

Times are not measured here, but what they are made of: for both, the owner asks its database for
the same statements in the same order, and says the same. The methods come from the contracts; one
that names something in a field that is not known here fails.
"""

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.rpc.client import Metadata, idempotent
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.tenancy import Principal, TenantId
from tests.integration.authorization.contracts import offered, scopes_of
from tests.integration.authorization.statements import ENDS, statements_for
from tests.integration.log_collector.service import running_service
from tests.integration.model_registry.registry import (
    GLOBEX,
    Registry,
    a_file,
    digest_of,
    running_registry,
)
from tests.integration.scheduler.rpcs import serving
from tests.integration.scheduler.yard import Yard
from tests.support.databases import Databases
from tests.support.eventually import eventually
from tests.unit.log_collector.builders import ContainerLog, a_stream
from tests.unit.scheduler.builders import UMBRELLA

NAMING: Final = frozenset({"job_id", "owner_id", "name", "model_name", "deployment", "digest"})
"""The fields by which a request says what it is about."""
ABOUT_NOTHING: Final = frozenset(
    {
        "CheckJob",
        "CordonNode",
        "CreateDeployment",
        "CreateModel",
        "DrainNode",
        "GetStats",
        "ListDeployments",
        "ListJobs",
        "ListModels",
        "ListNodes",
        "ListQueues",
        "ListRoutes",
        "ListTenants",
        "PauseQueue",
        "PutArtifact",
        "ResumeQueue",
        "SubmitJob",
        "UncordonNode",
    }
)
"""The methods that ask for nothing of a tenant's that would have to be there."""
ENDLESS: Final = frozenset({"FollowLogs"})
OWN_FILE: Final = b"what the stranger has stored"
MORE: Final[Mapping[str, Mapping[str, object]]] = {
    "CancelJob": {"reason": "a test"},
    "CreateVersion": {"files": [a_file("m", OWN_FILE)]},
    "DeleteAlias": {"alias": "champion", "if_revision": 1},
    "DeleteDeployment": {"if_version": 1},
    "GetVersion": {"alias": "champion"},
    "SetAlias": {"alias": "champion", "version": 1, "if_revision": 1},
    "SetModelTags": {"tags": {"team": "vision"}},
}
"""What requests hold besides; of what is not theirs, nobody is told the version either."""
TIMEOUT_S: Final = 20

_numbers = itertools.count()


def methods_of(package: str) -> Iterator[MethodDescriptor]:
    """Yield the methods of a package that are about something."""
    for service in offered():
        if service.file.package == package:
            yield from (method for method in service.methods if method.name not in ABOUT_NOTHING)


@dataclass(frozen=True)
class Answer:
    """What a caller was told, and what it took."""

    status: str
    said: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Stranger:
    """A tenant that has nothing, and asks."""

    channel: grpc.aio.Channel
    package: str
    tenant: TenantId

    async def expect_alike(
        self, foreign: Mapping[str, str], missing: Mapping[str, str], *, count: int
    ) -> None:
        """Ask all methods that name such things; there are `count` of them."""
        asked = [method for method in methods_of(self.package) if self._names(method, foreign)]
        assert len(asked) == count
        for method in asked:
            for key in (None, f"key-{next(_numbers)}"):
                told = [
                    await self.ask(method, named, metadata=idempotent(key and f"{key}-{kind}"))
                    for kind, named in (("foreign", foreign), ("missing", missing))
                ]
                assert told[0] == told[1], method.full_name
                assert told[0].statements, f"{method.full_name} asks no database"

    def _names(self, method: MethodDescriptor, named: Mapping[str, str]) -> bool:
        fields = NAMING.intersection(method.input_type.fields_by_name)
        assert fields, f"{method.full_name} is about nothing that is known here"
        return bool(fields.intersection(named))

    async def ask(
        self,
        method: MethodDescriptor,
        named: Mapping[str, str],
        *,
        metadata: Metadata = (),
        more: Mapping[str, object] | None = None,
    ) -> Answer:
        """Call a method about a thing; of an endless one, take the first look."""
        # Each call by somebody else: one that is left open asks on for itself.
        scopes = frozenset(scope for service in offered() for scope in scopes_of(service).values())
        caller = Principal(self.tenant, f"key:stranger-{next(_numbers)}", scopes)
        request_type: Any = GetMessageClass(method.input_type)
        own = {
            field: value
            for field, value in named.items()
            if field in method.input_type.fields_by_name
        }
        request = request_type(**(more or MORE.get(method.name, {})), **own)
        with acting_as(caller), statements_for(caller) as statements:
            status, said = await self._told(method, request, metadata, statements)
        for value in named.values():
            said = said.replace(value, "…")
        if method.name in ENDLESS:
            first_end = next(at for at, each in enumerate(statements) if each in ENDS)
            del statements[first_end + 1 :]
        return Answer(status, said, tuple(statements))

    async def _told(
        self, method: MethodDescriptor, request: Message, metadata: Metadata, seen: list[str]
    ) -> tuple[str, str]:
        shape = "unary_stream" if method.server_streaming else "unary_unary"
        stub = getattr(self.channel, shape)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        call = stub(request, timeout=TIMEOUT_S, metadata=metadata)

        async def has_looked() -> bool:
            return not ENDS.isdisjoint(seen)

        try:
            if method.name in ENDLESS:
                await eventually(has_looked, what="a first look")
                call.cancel()
            elif method.server_streaming:
                assert [each async for each in call] == []
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""


async def test_the_scheduler_asks_the_same(
    yard: Yard, identity: tuple[TokenSigner, TokenVerifier]
) -> None:
    signer, verifier = identity
    job, deployment = await yard.a_job(), (await yard.a_deployment()).deployment
    async with serving(yard, signer=signer, verifier=verifier) as channel:
        stranger = Stranger(channel, "modelyard.scheduler.v1", UMBRELLA)

        await stranger.expect_alike({"job_id": job.id}, {"job_id": "job_nothing"}, count=4)
        for theirs, nobodys in ((deployment.spec.name, "nothing"), (deployment.id, "dep_nothing")):
            await stranger.expect_alike({"deployment": theirs}, {"deployment": nobodys}, count=3)


@pytest.mark.parametrize("name", ["SubmitJob", "CheckJob"])
async def test_the_scheduler_asks_the_same_for_what_a_job_would_wait_for(
    name: str, yard: Yard, identity: tuple[TokenSigner, TokenVerifier]
) -> None:
    signer, verifier = identity
    theirs = await yard.a_job()
    spec = {"name": "n", "image": "modelyard/base", "command": ["c"]}
    async with serving(yard, signer=signer, verifier=verifier) as channel:
        stranger = Stranger(channel, "modelyard.scheduler.v1", UMBRELLA)
        [method] = [each for service in offered() for each in service.methods if each.name == name]
        foreign, missing = [
            await stranger.ask(
                method,
                {"job_id": job_id},
                more={"spec": {**spec, "after": [{"job_id": job_id, "condition": 1}]}},
            )
            for job_id in (theirs.id, "job_nothing")
        ]

    assert foreign == missing
    assert foreign.status == "INVALID_ARGUMENT"
    assert foreign.statements


@pytest.fixture
async def registry(tmp_path: Path, database_url: Databases) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path / "artifacts", database_url("model_registry")) as registry:
        yield registry


async def test_the_registry_asks_the_same(registry: Registry) -> None:
    owner, other = registry.client, registry.client.of(GLOBEX)
    await owner.create_model("digits")
    [stored] = (await owner.create_version("digits")).files
    await owner.set_alias("champion", 1, name="digits")
    await other.put(OWN_FILE)
    stranger = Stranger(other.channel, "modelyard.registry.v1", GLOBEX)

    await stranger.expect_alike(
        {"name": "digits", "model_name": "digits"},
        {"name": "nothing", "model_name": "nothing"},
        count=7,
    )
    await stranger.expect_alike({"digest": stored.digest}, {"digest": digest_of(b"none")}, count=2)


async def test_the_registry_asks_the_same_for_the_files_of_a_version(registry: Registry) -> None:
    owner, other = registry.client, registry.client.of(GLOBEX)
    stored = await owner.put(b"weights")
    await other.create_model("own")
    stranger = Stranger(other.channel, "modelyard.registry.v1", GLOBEX)
    [method] = [each for each in methods_of(stranger.package) if each.name == "CreateVersion"]

    foreign, missing = [
        await stranger.ask(
            method,
            {"model_name": "own", "digest": digest},
            more={"files": [{"path": "m", "size_bytes": stored.size_bytes, "digest": digest}]},
        )
        for digest in (stored.digest, digest_of(b"missing"))
    ]

    assert foreign == missing
    assert foreign.status == "FAILED_PRECONDITION"


async def test_the_collector_asks_the_same(tmp_path: Path, url: str, engine: AsyncEngine) -> None:
    stream = a_stream()
    log = ContainerLog(tmp_path / "containers", stream.attempt_id)
    with closing(log):
        async with running_service(tmp_path, url, engine) as service:
            await service.tell(stream, "created", version=1)
            await service.tell(stream, "started", version=2)
            log.write("a secret")

            async def is_stored() -> bool:
                request = logs_pb.ReadLogsRequest(owner_id=stream.owner_id)
                return bool((await service.client.read(request)).records)

            await eventually(is_stored, what="the output is stored")
            stranger = Stranger(service.client.channel, "modelyard.logs.v1", UMBRELLA)
            await stranger.expect_alike(
                {"owner_id": stream.owner_id}, {"owner_id": "job_nothing"}, count=2
            )
