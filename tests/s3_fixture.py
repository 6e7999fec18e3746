"""Real S3 servers on loopback: ``nanio`` (quick, in the project's environment) and Swift (strict, in its own).

Fixtures are imported by the ``conftest`` of the folders that use them.
"""

import fcntl
import getpass
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.comfyui_fixture import free_port

ROOT = Path(__file__).parent.parent
SWIFT_REQUIREMENTS = ROOT / "tests" / "peers" / "swift.txt"
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolutionError|Could not fetch URL|Network is unreach"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server, its one user and a plain client to look at what arrived."""

    port: int
    access_key_id: str
    secret_access_key: str
    tls_port: int = 0
    certificate: Path | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


def free_ports(count: int) -> list[int]:
    """Ports that are free, all different."""
    return [free_port() for _ in range(count)]


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, deadline_s: float = 120.0) -> None:
    """Return when something listens; fail when the process ends or the time is over."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"nothing listens on {port}")


@contextmanager
def running(command: list[str], *, port: int, env: dict[str, str] | None = None, log: Path) -> Iterator[None]:
    """A server process, from its first accepted connection to its end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | (env or {}), stdout=output, stderr=output)
        try:
            wait_for_port(port, process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def nanio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """nanio: verifies signatures and expiry; has the bucket ``outputs``."""
    folder = tmp_path_factory.mktemp("nanio")
    (port,) = free_ports(1)
    server = S3Server(port=port, access_key_id="nanio-user", secret_access_key="nanio-secret")
    command = [str(Path(sys.executable).parent / "nanio"), "serve", "--data-dir", str(folder / "data")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    env = {"NANIO_ACCESS_KEY": server.access_key_id, "NANIO_SECRET_KEY": server.secret_access_key}
    with running(command, port=port, env=env, log=folder / "log"):
        server.client().create_bucket(Bucket="outputs")
        yield server


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Swift with ``s3api``: also checks region, body and virtual hosts (``<bucket>.s3.test``); bucket ``outputs``.

    It listens a second time with TLS, by a certificate of its own for ``s3.test``.
    """
    programs = swift_programs()
    folder = tmp_path_factory.mktemp("swift")
    ports = dict(zip(("account", "container", "object", "proxy", "proxy-tls"), free_ports(5), strict=True))
    _configure_swift(folder, programs, ports)
    server = S3Server(
        port=ports["proxy"],
        access_key_id="test:tester",
        secret_access_key="testing",
        tls_port=ports["proxy-tls"],
        certificate=folder / "tls.crt",
    )
    with ExitStack() as stack:
        for name, port in ports.items():
            command = [str(programs / f"swift-{name.removesuffix('-tls')}-server"), str(folder / f"{name}.conf")]
            stack.enter_context(running(command, port=port, log=folder / f"{name}.log"))
        server.client().create_bucket(Bucket="outputs")
        yield server


def swift_programs() -> Path:
    """The ``bin`` folder of Swift's own environment, made once per content of its requirements file."""
    key = hashlib.sha256(SWIFT_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / ".peers" / f"swift-{key}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "swift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            _install(folder)
            (folder / "complete").touch()
    return folder / "bin"


def _install(folder: Path) -> None:
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "-r", str(SWIFT_REQUIREMENTS)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode and UNREACHABLE.search(done.stdout + done.stderr):
        pytest.skip("the package registry cannot be reached, so Swift could not be installed")
    assert done.returncode == 0, done.stderr


def _configure_swift(folder: Path, programs: Path, ports: dict[str, int]) -> None:
    (folder / "srv" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = x\n[storage-policy:0]\nname = only\ndefault = yes\n"
    )
    for name in ("account", "container", "object"):
        ring = [str(programs / "swift-ring-builder"), f"{name}.builder"]
        for step in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{ports[name]}/d1", "1"], ["rebalance"]):
            subprocess.run([*ring, *step], cwd=folder, check=True, capture_output=True)
        (folder / f"{name}.conf").write_text(
            f"{_swift_head(folder, ports[name])}devices = {folder}/srv\nmount_check = false\n"
            f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    make_certificate(folder / "tls.crt", folder / "tls.key", name="s3.test")
    tls = f"cert_file = {folder}/tls.crt\nkey_file = {folder}/tls.key\n"
    for name, options in (("proxy", ""), ("proxy-tls", tls)):
        (folder / f"{name}.conf").write_text(_swift_head(folder, ports[name]) + options + _swift_proxy())


def _swift_proxy() -> str:
    filters = ("catch_errors", "listing_formats", "s3api", "tempauth", "slo", "dlo")
    extra = {"s3api": "storage_domain = s3.test\n", "tempauth": "user_test_tester = testing .admin\n"}
    return (
        f"[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
        + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n{extra.get(name, '')}" for name in filters)
        + "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
    )


def make_certificate(certificate: Path, key: Path, *, name: str) -> None:
    """A self-signed certificate for a host name, and its key, as PEM files."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


def _swift_head(folder: Path, port: int) -> str:
    return (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nuser = {getpass.getuser()}\n"
        f"swift_dir = {folder}\nworkers = 0\nlog_level = ERROR\n"
    )
