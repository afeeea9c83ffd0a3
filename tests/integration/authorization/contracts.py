"""What the contracts offer, and what its owners ask of callers."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

PROTOS = Path(__file__).parents[3] / "protos"
OWNERS = {
    "modelyard.gateway": "api_gateway",
    "modelyard.logs": "log_collector",
    "modelyard.registry": "model_registry",
    "modelyard.scheduler": "scheduler",
}


def offered() -> list[ServiceDescriptor]:
    """Return all services of the contracts."""
    files = sorted(PROTOS.rglob("*_service_pb2.py"))
    modules = [".".join(file.relative_to(PROTOS).with_suffix("").parts) for file in files]
    found: list[ServiceDescriptor] = []
    for module in modules:
        found.extend(importlib.import_module(module).DESCRIPTOR.services_by_name.values())
    return found


def scopes_of(service: ServiceDescriptor) -> Mapping[str, str]:
    """Return what the service's owner starts its server with."""
    owner = OWNERS[service.file.package.rpartition(".")[0]]
    bootstrap: Any = importlib.import_module(f"services.{owner}.bootstrap")
    scopes: Mapping[str, str] = bootstrap.REQUIRED_SCOPES
    return scopes
