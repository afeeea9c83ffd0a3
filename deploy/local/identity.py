"""The services' Ed25519 keys, by which they know each other.

Owns: making each pair once. Always holds: a private key is readable by its owner only and lies in
its service's own folder; the folder of public keys holds nothing else.
"""

from pathlib import Path

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


def ensure_key(state: State, service: str) -> Path:
    """Return the service's private key file, made at first; its public key lies in `identity/`."""
    path = state.folder(service) / "identity.key.pem"
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        write_private(path, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise StackError(f"{path} is not an Ed25519 key: remove it and start again.")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    name = service.replace("_", "-")
    (trusted_keys_folder(state) / f"{name}.pub.pem").write_bytes(public)
    return path


def trusted_keys_folder(state: State) -> Path:
    """Return the folder with the public key of every service."""
    return state.folder("identity")
