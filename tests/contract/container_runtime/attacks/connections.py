"""Try to reach addresses and names given in $TARGETS and $NAMES; tell which answered.

Judged from the other side: what arrives there. What is told here is for the reader of a failure.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time

WAIT_MAX_S = 2.0


def opened(address: str, port: int, kind: socket.SocketKind) -> socket.socket | None:
    """Begin to connect, in every family that has such an address."""
    name = f"{address}%eth0" if address.startswith("fe80") else address
    try:
        family, _, _, _, target = socket.getaddrinfo(name, port, type=kind)[0]
        begun = socket.socket(family, kind)
    except OSError:
        return None
    begun.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            begun.connect(target)
        except BlockingIOError:
            return begun
        except OSError:
            begun.close()
            return None
    return begun


def connected(targets: list[tuple[str, int]]) -> list[str]:
    """Return the addresses to which a connection came about, after a wait for all of them."""
    waiting = {}
    for address, port in targets:
        if (begun := opened(address, port, socket.SOCK_STREAM)) is not None:
            waiting[begun] = address
    found = []
    ends_at = time.monotonic() + WAIT_MAX_S
    while waiting and (left := ends_at - time.monotonic()) > 0:
        for each in select.select([], list(waiting), [], left)[1]:
            address = waiting.pop(each)
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(address)
    return found


def send_datagrams(targets: list[tuple[str, int]]) -> None:
    """Send a word to each; nobody confirms."""
    for address, port in targets:
        if (begun := opened(address, port, socket.SOCK_DGRAM)) is not None:
            with contextlib.suppress(OSError):
                begun.send(b"hello")


def resolved(names: list[str]) -> list[str]:
    """Return the names that have an address."""
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(name, 80)
            found.append(name)
    return found


targets = [(address, port) for address, port in json.loads(os.environ["TARGETS"])]
send_datagrams(targets)
sys.stdout.write(
    json.dumps(
        {"connected": connected(targets), "resolved": resolved(json.loads(os.environ["NAMES"]))}
    )
)
