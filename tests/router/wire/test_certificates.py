"""The router's certificate authority."""

import asyncio
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from router.wire.authority import Authority
from tests.fakes.router_world import TOKEN
from tests.fakes.vast_worker import shared_key
from tests.router.wire.conftest import Start, Talk

SIGN = "/api/v0/sign_cert/?instance_id=42"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def asked(key: Key, *names: x509.GeneralName) -> str:
    """A request as ``start_server.sh`` makes it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pyworker.vast.ai")])
    alternatives = x509.SubjectAlternativeName(names or [x509.IPAddress(ipaddress.ip_address("0.0.0.0"))])
    builder = x509.CertificateSigningRequestBuilder(subject).add_extension(alternatives, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def names_in(pem: str) -> list[str]:
    found = x509.load_pem_x509_certificate(pem.encode()).extensions
    return [str(one.value) for one in found.get_extension_for_class(x509.SubjectAlternativeName).value]


async def test_a_worker_gets_a_certificate_that_the_root_vouches_for(talk: Talk, tmp_path: Path) -> None:
    """Checked by TLS itself, strictly and with the host's name, as the SDK does."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = tmp_path / "worker.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    chain.write_text(secret + await talk(SIGN, data=asked(key)))
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    serving.load_cert_chain(chain)
    trusting.load_verify_locations(cadata=await talk("/static/jvastai_root.cer", method="GET"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=serving)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()


async def test_strangers_get_their_own_address_only(talk: Talk) -> None:
    """Whatever they ask for; a worker's token opens more."""
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = asked(key, x509.IPAddress(ipaddress.ip_address("203.0.113.9")), x509.DNSName("gpu.example.org"))
    assert names_in(await talk(SIGN, data=wanted)) == ["127.0.0.1"]
    assert names_in(await talk(SIGN, data=wanted, key="wrong-token-0123456789")) == ["127.0.0.1"]
    assert names_in(await talk(SIGN, data=wanted, key=TOKEN)) == ["203.0.113.9", "gpu.example.org", "127.0.0.1"]


async def test_behind_a_proxy_a_token_is_needed(start: Start) -> None:
    """Everybody would have the proxy's address there."""
    talk = await start(public_url="https://router.example.org")
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = asked(key, x509.DNSName("gpu.example.org"))
    await talk(SIGN, data=wanted, status=401)
    assert names_in(await talk(SIGN, data=wanted, key=TOKEN)) == ["gpu.example.org"]


@pytest.mark.parametrize("data", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
async def test_what_is_no_request_is_refused(talk: Talk, data: str) -> None:
    """In the console's form, so that no error page is taken for a certificate."""
    assert (await talk(SIGN, data=data, status=400))["success"] is False


async def test_weak_keys_are_refused(talk: Talk) -> None:
    """RSA of 1024 bits."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    assert "2048" in (await talk(SIGN, data=asked(weak), status=400))["msg"]


def test_the_root_is_the_same_each_time() -> None:
    """Replicas and restarts serve one authority."""
    assert Authority(shared_key()).pem == Authority(shared_key()).pem
