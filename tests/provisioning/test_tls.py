"""Key and certificate of the public listener, against a service that really signs."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from provisioning.errors import ProvisioningError
from provisioning.tls import TlsPaths, ensure_certificate, is_valid
from tests.provisioning.servers import FileServer, Signer


@pytest.fixture
def paths(tmp_path: Path) -> TlsPaths:
    return TlsPaths(key=tmp_path / "i.key", request=tmp_path / "i.csr", certificate=tmp_path / "i.crt")


@pytest.fixture
def signer(server: FileServer) -> Signer:
    server.signer = Signer()
    return server.signer


def ensure(paths: TlsPaths, server: FileServer) -> None:
    ensure_certificate(paths, sign_url=f"{server.url}/sign_cert/", container_id=42, wait_s=0.001)


def test_request_is_signed_as_vast_expects_it(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    ensure(paths, server)
    assert is_valid(paths)
    assert paths.key.stat().st_mode & 0o777 == 0o600
    (request,) = server.requests
    assert request.path == "/sign_cert/?instance_id=42"
    assert request.headers["Content-Type"] == "application/octet-stream"
    wanted = x509.load_pem_x509_csr(request.body)
    assert wanted.subject.rfc4514_string() == "CN=pyworker.vast.ai,ST=CA,C=US"
    assert paths.request.read_bytes() == request.body


def test_valid_certificate_is_kept(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    ensure(paths, server)
    ensure(paths, server)
    assert len(server.requests) == 1


def test_error_pages_are_not_certificates(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    """An error status and a page with status 200 are both tried again; the fifth attempt may still do."""
    server.posts = [502, b"<html>Sorry</html>", 500, b""]
    ensure(paths, server)
    assert len(server.requests) == 5
    assert is_valid(paths)


def test_certificate_for_another_key_is_refused(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    signer.of_another_key = True
    with pytest.raises(ProvisioningError, match="another key"):
        ensure(paths, server)
    assert len(server.requests) == 5
    assert not paths.certificate.exists()


def test_expiring_certificate_is_renewed_with_the_same_key(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    signer.life = timedelta(hours=1)
    ensure(paths, server)
    key = paths.key.read_bytes()
    signer.life = timedelta(days=30)
    ensure(paths, server)
    assert is_valid(paths)
    assert paths.key.read_bytes() == key


def test_damaged_files_are_replaced(server: FileServer, signer: Signer, paths: TlsPaths) -> None:
    paths.key.write_text("not a key")
    paths.certificate.write_text("<html>")
    ensure(paths, server)
    assert is_valid(paths)
