"""Certificates for services, by an authority that a test makes."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from services.chassis.settings import TlsSettings


@dataclass
class Authority:
    """Signs certificates."""

    folder: Path
    name: str = "authority"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = self.folder / "authorities.pem"
        self.certificate = self._sign(self.key, self.name, [], is_authority=True)
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def certify(self, *names: str) -> TlsSettings:
        """Make a certificate for these DNS names on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key, names[0], names)
        key_file, file = self.folder / f"{names[0]}.key", self.folder / f"{names[0]}.pem"
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return TlsSettings(
            certificate_file=file, private_key_file=key_file, authorities_file=self.file
        )

    def _sign(
        self, key: Any, name: str, names: Any, *, is_authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            alternatives = [*map(x509.DNSName, names), loopback]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())
