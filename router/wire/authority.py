"""The router's own certificate authority, for workers that speak TLS. Blocks: RSA takes milliseconds.

Its key is the one that signs routes, and its certificate is the same whenever it is made of that key: so replicas and
restarts agree without a further file.
"""

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lib.errors import InvalidRequest

BEGINS, ENDS = datetime(2025, 1, 1, tzinfo=UTC), datetime(2075, 1, 1, tzinfo=UTC)
"""Of the root; fixed, for the same certificate each time."""
LIFE = timedelta(days=825)
LEEWAY = timedelta(hours=1)
LEAST_RSA_BITS = 2048
MOST_NAMES = 20
Name = x509.IPAddress | x509.DNSName


class Authority:
    """Signs certificates of workers."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        public = key.public_key()
        told = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        serial = int.from_bytes(hashlib.sha256(told).digest()[:16], "big") >> 1 | 1
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PyWorker router")])
        builder = (
            x509.CertificateBuilder(self._name, self._name, public, serial, BEGINS, ENDS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        self.pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()

    def certificate(self, asked: x509.CertificateSigningRequest, names: Iterable[Name], *, now: datetime) -> str:
        """Return a server's certificate for these names, PEM, under the request's key."""
        public = asked.public_key()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PyWorker")])
        serial = x509.random_serial_number()
        builder = (
            x509.CertificateBuilder(self._name, subject, public, serial, now - LEEWAY, now + LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(issuer, critical=False)
        )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Read a certificate request that its key has signed, and whose key is good enough. Raises: InvalidRequest."""
    try:
        asked = x509.load_pem_x509_csr(pem)
        fits, public = asked.is_signature_valid, asked.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidRequest("The body must be a certificate request, PEM.") from error
    strong = isinstance(public, ec.EllipticCurvePublicKey) or (
        isinstance(public, rsa.RSAPublicKey) and public.key_size >= LEAST_RSA_BITS
    )
    if not fits or not strong:
        raise InvalidRequest("The certificate request must be signed by its key: RSA of 2048 bits at least, or EC.")
    return asked


def wanted_names(asked: x509.CertificateSigningRequest) -> list[Name]:
    """The hosts that a request names; ``0.0.0.0``, which stands in those of ``start_server.sh``, is none."""
    try:
        found = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return []
    named = [one for one in found if isinstance(one, x509.IPAddress | x509.DNSName)]
    return [one for one in named if not _is_nowhere(one)][:MOST_NAMES]


def address(text: str | None) -> x509.IPAddress | None:
    """A peer's address as a name."""
    try:
        found = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return x509.IPAddress(mapped or found)


def _is_nowhere(name: Name) -> bool:
    value = name.value
    return isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network) or (
        not isinstance(value, str) and value.is_unspecified
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_encipherment=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
