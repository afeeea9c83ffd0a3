"""`python -m tests.bench NAME`: run a bench; its last line is its figures as JSON."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

from deploy.local.errors import StackError
from tests.bench import gateway, queue, recovery, relay, start, submit, takeover

_BENCHES: Final[Mapping[str, Callable[[], None]]] = {
    "gateway": gateway.main,
    "queue": queue.main,
    "recovery": recovery.main,
    "relay": relay.main,
    "start": start.main,
    "submit": submit.main,
    "takeover": takeover.main,
}


def main(name: str = "") -> int:
    """Run the bench of this name; return the exit code."""
    if name not in _BENCHES:
        sys.stderr.write(f"usage: make bench T=NAME, with one of: {', '.join(_BENCHES)}\n")
        return 2
    try:
        _BENCHES[name]()
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
