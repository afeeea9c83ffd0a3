"""Connections that only services make, where the settings ask for it (ADR-0010).

Owns: credentials from files, and that a token comes from the service that signed it: over such a
connection a stolen token is of no use without its service's certificate. Leaves to `identity` for
whom a call is.
"""

from typing import Final

import grpc

from services.chassis.errors import Unauthenticated
from services.chassis.rpc.context import Context
from services.chassis.settings import TlsSettings

_NAMES: Final = "x509_subject_alternative_name"


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials:
    """Return what lets in only callers with a certificate."""
    pair = (settings.private_key_file.read_bytes(), settings.certificate_file.read_bytes())
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=settings.authorities_file.read_bytes(),
        require_client_auth=True,
    )


def channel_credentials(settings: TlsSettings) -> grpc.ChannelCredentials:
    """Return what shows our certificate, and checks the server's."""
    return grpc.ssl_channel_credentials(
        root_certificates=settings.authorities_file.read_bytes(),
        private_key=settings.private_key_file.read_bytes(),
        certificate_chain=settings.certificate_file.read_bytes(),
    )


def check_peer(context: Context, service: str) -> None:
    """Raise Unauthenticated unless the connection's certificate is this service's."""
    names = context.auth_context().get(_NAMES, ())
    labels = {name.decode().partition(".")[0] for name in names}
    if service not in labels:
        raise Unauthenticated
