"""Real HTTP servers over loopback for the provisioning tests: files with ranges and faults, posts, certificates."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass(slots=True, kw_only=True)
class ServedFile:
    """One file and how it misbehaves. ``cut_after``: break the connection there, once an entry."""

    data: bytes
    etag: str | None = None
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    location: str | None = None


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` by path; answers posts with 200; remembers ``requests``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.files: dict[str, ServedFile] = {}
        self.requests: list[Seen] = []
        self.gate: threading.Barrier | None = None
        self.posts: list[bytes | int] = []
        self.signer: Signer | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is part of these tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, path: str, data: bytes, **how: object) -> str:
        """Serve ``data`` at ``path``; gives the URL."""
        self.files[path] = ServedFile(data=data, **how)  # type: ignore[arg-type]
        return self.url + path

    def seen(self, path: str) -> list[Seen]:
        return [request for request in self.requests if request.path.split("?")[0] == path]


class Signer:
    """Signs certificate requests as Vast's service does."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.life = timedelta(days=30)
        self.of_another_key = False

    def sign(self, request: bytes) -> bytes:
        wanted = x509.load_pem_x509_csr(request)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(wanted.subject)
            .issuer_name(wanted.subject)
            .public_key(self._key.public_key() if self.of_another_key else wanted.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + self.life)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class _Exchange(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._note()
        file = self.server.files.get(self.path)
        if self.server.gate is not None:
            self.server.gate.wait(timeout=60)
        if file is None:
            return self._answer(404, b"not here")
        if file.statuses:
            return self._answer(file.statuses.pop(0), b"later")
        if file.location is not None:
            return self._answer(302, b"", {"Location": file.location})
        return self._send(file)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._note(body)
        answer = self.server.posts.pop(0) if self.server.posts else 200
        if isinstance(answer, bytes):
            return self._answer(200, answer)
        if answer == 200 and self.server.signer is not None:
            return self._answer(200, self.server.signer.sign(body))
        return self._answer(answer, b"{}")

    def _note(self, body: bytes = b"") -> None:
        self.server.requests.append(
            Seen(method=self.command, path=self.path, headers=dict(self.headers.items()), body=body)
        )

    def _send(self, file: ServedFile) -> None:
        start = self._start(file)
        if start is not None and start >= len(file.data):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(file.data)}"})
        body = file.data[start or 0 :]
        headers = {"ETag": file.etag} if file.etag else {}
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
        cut = file.cut_after.pop(0) if file.cut_after else None
        return self._answer(200 if start is None else 206, body, headers, cut=cut)

    def _start(self, file: ServedFile) -> int | None:
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if not wanted or not file.ranges or (condition and condition != file.etag):
            return None
        return int(wanted.removeprefix("bytes=").split("-")[0])

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serve() -> Iterator[FileServer]:
    """Run a server on a free port of 127.0.0.1."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
