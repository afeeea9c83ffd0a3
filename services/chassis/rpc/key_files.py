"""Ed25519 keys that change while processes run (ADR-0010).

Owns: reading keys anew, at a bounded rate, so that neither time nor strangers cost much: a key's
name is its service and the fingerprint of its public half, so names of files say no more than whose
a key is, and nothing can be signed under another key's name. A key that is given as bytes stays.

Always holds: what is not there, or can't be read, is not trusted; only a folder that can't be
listed at all leaves what was known, and a signer whose file can't be read goes on with its key.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from loguru import logger

from services.chassis.clock import Clock

UNKNOWN_KEY_READ_INTERVAL: Final = timedelta(seconds=1)
"""Keys that nobody knows make the folder be read at most so often, whoever sends them."""
_SUFFIX: Final = ".pub.pem"
_UNREADABLE: Final = (OSError, ValueError, TypeError, UnsupportedAlgorithm)


class SigningKey:
    """A service's own key; a changed file is noticed after `read_interval` at most."""

    def __init__(
        self, service: str, source: bytes | Path, clock: Clock, *, read_interval: timedelta
    ) -> None:
        self._service = service
        self._source = source
        self._clock = clock
        self._read_interval_s = read_interval.total_seconds()
        self._pem = source if isinstance(source, bytes) else source.read_bytes()
        self._current = self._named(self._pem)
        self._read_at_s = clock.monotonic()

    def current(self) -> tuple[str, Ed25519PrivateKey]:
        """Return the key to sign with now, and its name."""
        now_s = self._clock.monotonic()
        if isinstance(self._source, Path) and now_s - self._read_at_s >= self._read_interval_s:
            self._read_at_s = now_s
            self._read_anew(self._source)
        return self._current

    def _read_anew(self, file: Path) -> None:
        try:
            pem = file.read_bytes()
            if pem == self._pem:
                return
            self._current = self._named(pem)
        except _UNREADABLE as error:
            logger.error("signing key can't be read", error=type(error).__name__)
            return
        self._pem = pem
        logger.info("signing key changed", key_id=self._current[0])

    def _named(self, pem: bytes) -> tuple[str, Ed25519PrivateKey]:
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the identity key must be an Ed25519 key")
        return _name(self._service, key.public_key()), key


class TrustedKeys:
    """The services' public keys, any number a service, by name.

    The source is a folder with `<service>.pub.pem` or `<service>.<anything>.pub.pem`, or a mapping
    from such names, without the suffix, to PEM.
    """

    def __init__(
        self, source: Mapping[str, bytes] | Path, clock: Clock, *, read_interval: timedelta
    ) -> None:
        self._folder = source if isinstance(source, Path) else None
        self._clock = clock
        self._read_interval_s = read_interval.total_seconds()
        pems = _pems(source) if isinstance(source, Path) else source
        self._keys = dict(_public_key(name, pem) for name, pem in pems.items())
        self._read_at_s = clock.monotonic()

    def find(self, key_name: str) -> Ed25519PublicKey | None:
        """Return the key of this name, None unless it is trusted."""
        if self._folder is not None:
            now_s = self._clock.monotonic()
            age_s = now_s - self._read_at_s
            is_unknown = key_name not in self._keys
            if age_s >= self._read_interval_s or (
                is_unknown and age_s >= UNKNOWN_KEY_READ_INTERVAL.total_seconds()
            ):
                self._read_at_s = now_s
                self._read_anew(self._folder)
        return self._keys.get(key_name)

    def _read_anew(self, folder: Path) -> None:
        try:
            pems = _pems(folder)
        except OSError as error:
            logger.error("trusted keys can't be listed", error=type(error).__name__)
            return
        found: dict[str, Ed25519PublicKey] = {}
        for name, pem in pems.items():
            try:
                key_name, key = _public_key(name, pem)
            except _UNREADABLE as error:
                logger.error("trusted key can't be read", name=name, error=type(error).__name__)
                continue
            found[key_name] = key
        if found.keys() != self._keys.keys():
            logger.info(
                "trusted keys changed",
                added=sorted(found.keys() - self._keys.keys()),
                removed=sorted(self._keys.keys() - found.keys()),
            )
        self._keys = found


def service_of(key_name: str) -> str:
    """Return whose key it is that bears this name."""
    return key_name.partition(".")[0]


def _name(service: str, key: Ed25519PublicKey) -> str:
    return f"{service}.{hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]}"


def _public_key(name: str, pem: bytes) -> tuple[str, Ed25519PublicKey]:
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("a trusted key must be an Ed25519 key")
    return _name(service_of(name), key), key


def _pems(folder: Path) -> Mapping[str, bytes]:
    pems = {}
    for file in sorted(folder.iterdir()):
        if file.name.endswith(_SUFFIX) and not file.name.startswith("."):
            try:
                pems[file.name.removesuffix(_SUFFIX)] = file.read_bytes()
            except FileNotFoundError:
                continue  # removed since it was listed
    return pems
