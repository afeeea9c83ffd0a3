"""The services' Ed25519 keys, by which they know each other.

Owns: making each pair once, and rotating them while services run (ADR-0010). Always holds: a
private key is readable by its owner only and lies in its service's own folder; the folder of public
keys holds nothing else; a key signs only once its public half has been there for as long as
verifiers may take to notice, and is trusted until all that it signed has expired.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from deploy.local.errors import StackError
from deploy.local.state import State, write_private

KEYS_READ_INTERVAL: Final = timedelta(seconds=10)
"""The services' own bound on noticing changed key files; this stack leaves it at its default."""
SIGNED_LIFETIME: Final = timedelta(seconds=60 + 5)
"""A token's life and the leeway that verifiers give it."""


def ensure_key(state: State, service: str) -> Path:
    """Return the service's private key file, made at first; its public key lies in `identity/`."""
    path = _key_file(state, service)
    if not path.exists():
        write_private(path, _pem(Ed25519PrivateKey.generate()))
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise StackError(f"{path} is not an Ed25519 key: remove it and start again.")
    _publish(state, service, key)
    return path


def rotate_keys(
    state: State, services: Sequence[str], *, wait: Callable[[float], object] = time.sleep
) -> None:
    """Give the services new keys while they run; what a rotation left undone before goes too.

    Not in a hurry: an old key is trusted until nothing that it signed is in force any more. One
    that has leaked is refused within `KEYS_READ_INTERVAL` once its public file is removed.
    """
    # 1. Everybody trusts the new keys, before anything is signed with them.
    fresh = {service: Ed25519PrivateKey.generate() for service in services}
    published = {service: _publish(state, service, key) for service, key in fresh.items()}
    wait(KEYS_READ_INTERVAL.total_seconds())
    # 2. The services sign with them; what the old ones signed is still accepted.
    for service, key in fresh.items():
        write_private(_key_file(state, service), _pem(key))
    wait((KEYS_READ_INTERVAL + SIGNED_LIFETIME).total_seconds())
    # 3. Nothing of the old ones is in force: nobody trusts them any more.
    for service, current in published.items():
        for file in trusted_keys_folder(state).glob(f"{_public_name(service)}.*pub.pem"):
            if file != current:
                file.unlink()


def trusted_keys_folder(state: State) -> Path:
    """Return the folder with the public keys of every service."""
    return state.folder("identity")


def _publish(state: State, service: str, key: Ed25519PrivateKey) -> Path:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    name = f"{_public_name(service)}.{hashlib.sha256(public).hexdigest()[:8]}.pub.pem"
    file = trusted_keys_folder(state) / name
    write_private(file, public)
    return file


def _key_file(state: State, service: str) -> Path:
    return state.folder(service) / "identity.key.pem"


def _public_name(service: str) -> str:
    return service.replace("_", "-")


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
