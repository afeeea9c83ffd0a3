"""Free loopback ports, chosen once and remembered.

Always holds: ports come from below the kernel's range for outgoing connections, so that no client's
socket can take one between two starts.
"""

import secrets
import socket
from typing import Final

from deploy.local.errors import StackError
from deploy.local.state import State

LOOPBACK: Final = "127.0.0.1"
_FIRST: Final = 20_000
_COUNT: Final = 12_000
_TRIES_MAX: Final = 200


def port_of(state: State, name: str) -> int:
    """Return the port remembered under this name if it is still free, else a new one."""
    with state.changing() as record:
        remembered = record.ports.get(name)
        if remembered is not None and is_free(remembered):
            return remembered
        taken = set(record.ports.values())
        for _ in range(_TRIES_MAX):
            port = _FIRST + secrets.randbelow(_COUNT)
            if port not in taken and is_free(port):
                record.ports[name] = port
                return port
    raise StackError(f"No free port in {_FIRST}-{_FIRST + _COUNT} on {LOOPBACK} for {name}.")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Return whether something accepts connections on this loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
