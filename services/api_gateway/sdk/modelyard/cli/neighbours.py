"""What the services behind the gateway tell their operators.

The public API tells of the gateway alone. Who may reach the operations ports of the others names
them in MODELYARD_OPERATIONS; they are asked without the API key, which is not for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click
import httpx

_TIMEOUT_S: Final = 5.0
"""Longer than a service takes at most for its own checks."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why something can't be told."""

    code: str
    detail: str


def addresses_of(operations: str) -> Mapping[str, str]:
    """Return the address of each service in `name=address,…`; raises UsageError."""
    addresses = {}
    for item in filter(None, operations.split(",")):
        name, _, address = item.partition("=")
        if not name or not address.startswith(("http://", "https://")):
            raise click.UsageError(f"MODELYARD_OPERATIONS: {item!r} is no name=http://host:port")
        addresses[name] = address
    return addresses


def ask(address: str, *, transport: httpx.BaseTransport | None) -> Mapping[str, Any] | Unknown:
    """Return what a service says of itself, ready or not, or why it says nothing."""
    try:
        with httpx.Client(timeout=_TIMEOUT_S, transport=transport) as http:
            told = http.get(f"{address}/readyz", params={"verbose": "true"}).json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Unknown("UNREACHABLE", f"{address}: {error}")
    except ValueError:
        told = None
    if not isinstance(told, dict) or "ready" not in told:
        return Unknown("UNREADABLE", f"{address} answers with no readiness of Modelyard's")
    return told
