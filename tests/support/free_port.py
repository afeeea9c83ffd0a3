"""A port for what must know its own before it listens, or listens on it again and again."""

import secrets

from deploy.local.ports import port_of
from tests.support.run_scope import run_state


def free_port() -> int:
    """Return a port that no client's socket can take, and no other test of this run is given."""
    return port_of(run_state(), f"test.{secrets.token_hex(4)}")
