"""The key and the certificate of the public listener: made here, signed by Vast's certificate service, or a router's.

``POST <sign url>?instance_id=<CONTAINER_ID>`` with the request in PEM answers with the certificate in PEM
(``vast-serverless.md`` 8.1, seen in the start script of 2026). An error page is never taken for a certificate.
A router of ours signs for the address that it is asked from; for another one (behind its proxy) it wants the worker's
token, which Vast's service never gets.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import requests
import stamina
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from provisioning.errors import ProvisioningError
from provisioning.steps import say, write_text_atomically

ATTEMPTS = 5
TIMEOUT_S = 30.0
LEAST_LIFE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPaths:
    """Where key, request and certificate lie."""

    key: Path
    request: Path
    certificate: Path


class _NotSigned(Exception):
    """No certificate this time."""


def ensure_certificate(
    paths: TlsPaths, *, sign_url: str, container_id: int, wait_s: float, address: str = "", token: str = ""
) -> None:
    """Have a valid certificate that fits the key; asks five times, after ``wait_s`` x 1, 2, 4, 8.

    ``address`` and ``token`` are what a router is told: where callers reach this host, and its MASTER_TOKEN.
    Raises ProvisioningError when no attempt gave one.
    """
    if is_valid(paths):
        say(f"    certificate {paths.certificate} is valid")
        return
    key = _key(paths.key)
    request = _signing_request(key, address)
    write_text_atomically(paths.request, request)
    say(f"    asking {sign_url} for a certificate")
    headers = {"Content-Type": "application/octet-stream"} | ({"Authorization": f"Bearer {token}"} if token else {})
    post = partial(requests.post, sign_url, params={"instance_id": container_id}, headers=headers, timeout=TIMEOUT_S)
    try:
        certificate = _signed(request, key=key, post=post, wait_s=wait_s)
    except (_NotSigned, requests.RequestException) as error:
        raise ProvisioningError(
            f"No certificate from {sign_url} in {ATTEMPTS} attempts: {error}",
            remedy="Check CERT_SIGN_URL and CONTAINER_ID, or set USE_SSL=false.",
        ) from error
    write_text_atomically(paths.certificate, certificate)


def is_valid(paths: TlsPaths) -> bool:
    """Tell whether key and certificate are there, belong together and are good for another day."""
    try:
        key = serialization.load_pem_private_key(paths.key.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
    except (OSError, ValueError):
        return False
    lasting = certificate.not_valid_after_utc > datetime.now(UTC) + LEAST_LIFE
    return lasting and certificate.public_key() == key.public_key()


def _key(path: Path) -> rsa.RSAPrivateKey:
    """Keep a usable RSA key, so that a restart before the signature doesn't waste it; else make one."""
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError):
        found = None
    if isinstance(found, rsa.RSAPrivateKey):
        return found
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_text_atomically(path, pem.decode(), mode=0o600)
    return key


def _signing_request(key: rsa.RSAPrivateKey, address: str) -> str:
    """Build what Vast's own script asks for, whose service decides the names in the certificate itself."""
    names = (
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COMMON_NAME, "pyworker.vast.ai"),
    )
    subject = x509.Name([x509.NameAttribute(name, value) for name, value in names])
    alternative = x509.SubjectAlternativeName([_name(address or "0.0.0.0")])  # noqa: S104
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(alternative, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _signed(request: str, *, key: rsa.RSAPrivateKey, post: Callable[..., requests.Response], wait_s: float) -> str:
    for attempt in stamina.retry_context(
        on=(_NotSigned, requests.RequestException),
        attempts=ATTEMPTS,
        timeout=None,
        wait_initial=wait_s,
        wait_max=8 * wait_s,
        wait_jitter=0,
    ):
        with attempt:
            return _checked(post(data=request.encode()), key)
    raise AssertionError("the last attempt returns or raises")


def _checked(answer: requests.Response, key: rsa.RSAPrivateKey) -> str:
    if not answer.ok:
        raise _NotSigned(f"the service answered {answer.status_code} {answer.reason}")
    try:
        certificate = x509.load_pem_x509_certificate(answer.content)
    except ValueError:
        raise _NotSigned("the answer is not a certificate") from None
    if certificate.public_key() != key.public_key():
        raise _NotSigned("the certificate is for another key")
    return answer.text
