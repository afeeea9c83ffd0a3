"""Each method of each service has a scope of its own, without which the service does not start."""

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from services.chassis.clock import SystemClock
from services.chassis.rpc.identity import TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcServerSettings
from tests.integration.authorization.contracts import offered, scopes_of

METHODS = [(service, method.name) for service in offered() for method in service.methods]


@pytest.mark.parametrize(
    ("service", "method"), METHODS, ids=[f"{service.name}.{name}" for service, name in METHODS]
)
async def test_a_service_with_a_method_without_a_scope_does_not_start(
    service: ServiceDescriptor, method: str
) -> None:
    path = f"/{service.full_name}/{method}"
    declared = dict(scopes_of(service))
    assert declared.pop(path), f"{path} declares no scope"

    with pytest.raises(ValueError, match=f"{path} declares no scope"):
        async with serve(
            GrpcServerSettings(port=0),
            register=lambda _: None,
            services=[service.full_name],
            verifier=TokenVerifier("any", {}, SystemClock()),
            required_scopes=declared,
            callers={},
        ):
            pass


def test_there_is_something_to_check() -> None:
    assert len(METHODS) >= 22
