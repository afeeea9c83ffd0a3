"""Connections that only services make, where the settings ask for it (ADR-0010).

Owns: certificates in files, which may be renewed at any time, and that a token comes from the
service that signed it: over such a connection a stolen token is of no use without its service's
certificate. Leaves to `identity` for whom a call is.

Always holds: what can't be read, or does not fit together because it is half written, is not used;
what was read before goes on.
"""

import time
from typing import Final, NamedTuple

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates
from loguru import logger

from services.chassis.errors import Unauthenticated
from services.chassis.rpc.context import Context
from services.chassis.settings import TlsSettings

_NAMES: Final = "x509_subject_alternative_name"
_UNREADABLE: Final = (OSError, ValueError, TypeError, UnsupportedAlgorithm)


class Certificate(NamedTuple):
    """A service's certificate with its key, and who signs those of others; PEM."""

    chain: bytes
    private_key: bytes
    authorities: bytes

    def check(self) -> None:
        """Raise ValueError unless it can be used."""
        key = load_pem_private_key(self.private_key, password=None)
        if load_pem_x509_certificate(self.chain).public_key() != key.public_key():
            raise ValueError("the key is not the certificate's")
        load_pem_x509_certificates(self.authorities)


class CertificateFiles:
    """What the files of the settings hold, read anew after `read_interval` when somebody asks."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises OSError or ValueError for files that can't be used."""
        self._settings = settings
        self._read_interval_s = settings.read_interval.total_seconds()
        self._read_at_s = time.monotonic()
        self.current = self._read()
        self.current.check()

    def renewed(self) -> Certificate | None:
        """Return what has come since it was asked for last; None: go on with what you have."""
        now_s = time.monotonic()
        if now_s - self._read_at_s < self._read_interval_s:
            return None
        self._read_at_s = now_s
        try:
            found = self._read()
            if found == self.current:
                return None
            found.check()
        except _UNREADABLE as error:
            logger.error("certificate can't be read", error=type(error).__name__)
            return None
        self.current = found
        logger.info("certificate renewed", file=str(self._settings.certificate_file))
        return found

    def _read(self) -> Certificate:
        return Certificate(
            self._settings.certificate_file.read_bytes(),
            self._settings.private_key_file.read_bytes(),
            self._settings.authorities_file.read_bytes(),
        )


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials:
    """Return what lets in only callers with a certificate; new connections use renewed files."""
    files = CertificateFiles(settings)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks before each handshake, in threads of its own; two at once read the same.
        found = files.renewed()
        return None if found is None else _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.current),
        renewed,  # type: ignore[arg-type]  # None is for "no change", which the stubs don't know
        require_client_authentication=True,
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.private_key, certificate.chain)], certificate.authorities
    )


def channel_credentials(certificate: Certificate) -> grpc.ChannelCredentials:
    """Return what shows our certificate, and checks the server's."""
    return grpc.ssl_channel_credentials(
        root_certificates=certificate.authorities,
        private_key=certificate.private_key,
        certificate_chain=certificate.chain,
    )


def check_peer(context: Context, service: str) -> None:
    """Raise Unauthenticated unless the connection's certificate is this service's."""
    names = context.auth_context().get(_NAMES, ())
    labels = {name.decode().partition(".")[0] for name in names}
    if service not in labels:
        raise Unauthenticated
