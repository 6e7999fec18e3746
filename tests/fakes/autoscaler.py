"""A small autoscaler: takes reports, signs routes with a real RSA key, lists endpoints, issues certificates.

It records what it was told. It can be told to fail, to be slow or to drop connections. Standalone:
``python -m tests.fakes.autoscaler --port 9000`` (``GET /recorded/`` shows what came in).
"""

import argparse
import asyncio
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from lib.protocol.auth import SignatureForm, sign
from lib.protocol.status import ROUTER_HEADER, DeleteRequests, WorkerStatus
from router.signing import load_signing_key


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass
class Behaviour:
    """How the next calls of workers are answered; ``remaining`` of them, or all when ``None``."""

    status: int = 200
    delay_s: float = 0.0
    drop: bool = False
    remaining: int | None = None


@dataclass
class Autoscaler:
    """One endpoint named ``endpoint`` with the key ``api_key``; ``worker_urls`` pins routes to these workers, else the
    loaded worker with the least load is taken."""

    form: SignatureForm = SignatureForm.D
    key: rsa.RSAPrivateKey = field(default_factory=new_key)
    endpoint: str = "ep"
    api_key: str = "endpoint-key"
    ours: bool = False
    """Says that it is a router of ours."""
    worker_urls: list[str] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    deletes: list[dict[str, Any]] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Reports are answered only while this is set (it is, at first)."""

    def __post_init__(self) -> None:
        self.gate.set()
        self._changed = asyncio.Condition()
        self._next_idx = 1000
        self._next_reqnum = 1
        self._runner: web.AppRunner | None = None
        self._ca = _CertificateAuthority()
        self.url = ""

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        app = web.Application()
        app.add_routes(self.route_table())
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def until(self, condition: Callable[[Self], bool], *, timeout_s: float = 60.0) -> None:
        """Wait until what was recorded fulfils the condition."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    # -- what tests ask -----------------------------------------------------------------------------------------

    def auth_data(self, url: str, *, request_idx: int | None = None, cost: float = 100.0) -> dict[str, Any]:
        """The signed part of a READY answer for the worker at ``url``."""
        fields: dict[str, Any] = {
            "cost": cost,
            "endpoint": self.endpoint,
            "reqnum": self._next_reqnum,
            "request_idx": self._new_idx() if request_idx is None else request_idx,
            "url": url,
        }
        self._next_reqnum += 1
        return {**fields, "signature": sign(self.form, fields, self.key), "__request_id": "trace-1"}

    @property
    def deleted(self) -> list[dict[str, Any]]:
        """All finished requests, flat, in the order in which they were told."""
        return [item for body in self.deletes for item in body["requests"]]

    # -- routes -------------------------------------------------------------------------------------------------

    def route_table(self) -> list[web.RouteDef]:
        workers = [
            route
            for prefix in ("", "/e/{endpoint_name}")
            for route in (
                web.get(prefix + "/pubkey/", self._pubkey),
                web.post(prefix + "/worker_status/", self._worker_status),
                web.post(prefix + "/delete_requests/", self._delete_requests),
            )
        ]
        return [
            *workers,
            web.post("/route/", self._route),
            web.get("/api/v0/endptjobs/", self._endpoints),
            web.get("/api/v0/endptjobs/{id}/", self._endpoint),
            web.post("/get_endpoint_workers/", self._workers),
            web.post("/api/v0/sign_cert/", self._sign_cert),
            web.get("/static/jvastai_root.cer", self._root_certificate),
            web.get("/recorded/", self._recorded),
        ]

    async def _pubkey(self, request: web.Request) -> web.StreamResponse:
        self.calls.append("pubkey")
        return await self._answer(request, self._signed_by_us(web.Response(text=public_pem(self.key))))

    async def _worker_status(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._record(request, "worker_status", self.statuses, WorkerStatus, body)

    async def _delete_requests(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._record(request, "delete_requests", self.deletes, DeleteRequests, body)

    async def _record(
        self,
        request: web.Request,
        name: str,
        record: list[dict[str, Any]],
        model: type[WorkerStatus] | type[DeleteRequests],
        body: dict[str, Any],
    ) -> web.StreamResponse:
        """Only what is answered with 200 is recorded as told; every call is in ``calls``."""
        async with self._changed:
            self.calls.append(name)
            self._changed.notify_all()
        await self.gate.wait()
        model.model_validate(body)
        fails = self.behaviour.status != 200 or self.behaviour.drop
        done = web.json_response({"success": True})
        answer = await self._answer(request, self._signed_by_us(done) if name == "worker_status" else done)
        if not fails:
            async with self._changed:
                record.append(body)
                self._changed.notify_all()
        return answer

    def _signed_by_us(self, answer: web.Response) -> web.Response:
        if self.ours:
            answer.headers[ROUTER_HEADER] = "1"
        return answer

    async def _answer(self, request: web.Request, answer: web.Response) -> web.StreamResponse:
        behaviour = self.behaviour
        if behaviour.remaining is not None:
            behaviour.remaining -= 1
            if behaviour.remaining <= 0:
                self.behaviour = Behaviour()
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.drop:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("dropped on purpose")
        return answer if behaviour.status == 200 else web.Response(status=behaviour.status, text="on purpose")

    async def _route(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.routes.append(body)
        if not self._may(request, body):
            return web.json_response({"error": "unauthorized"}, status=401)
        request_idx = body.get("request_idx") or self._new_idx()
        url = self._choose()
        if url is None:
            return web.json_response({"endpoint": self.endpoint, "status": "no worker", "request_idx": request_idx})
        return web.json_response(self.auth_data(url, request_idx=request_idx, cost=body.get("cost", 100)))

    def _choose(self) -> str | None:
        if self.worker_urls:
            return self.worker_urls[len(self.routes) % len(self.worker_urls)]
        newest = {status["id"]: status for status in self.statuses}
        loaded = [s for s in newest.values() if s.get("loadtime") and not s.get("error_msg") and s.get("url")]
        return min(loaded, key=lambda status: status["cur_load"])["url"] if loaded else None

    async def _endpoints(self, request: web.Request) -> web.Response:
        return web.json_response({"success": True, "results": [self._endpoint_object()]})

    async def _endpoint(self, request: web.Request) -> web.Response:
        return web.json_response({"success": True, "result": self._endpoint_object()})

    def _endpoint_object(self) -> dict[str, Any]:
        return {"endpoint_name": self.endpoint, "id": 1, "api_key": self.api_key, "user_id": 1, "created_at": 0.0}

    async def _workers(self, request: web.Request) -> web.Response:
        newest = {status["id"]: status for status in self.statuses}
        names = ("cur_load", "new_load", "cur_perf", "disk_usage")
        return web.json_response(
            [
                {"id": key, "status": "idle" if status["loadtime"] else "loading", "perf": status["max_perf"]}
                | {name: status[name] for name in names}
                for key, status in newest.items()
            ]
        )

    async def _sign_cert(self, request: web.Request) -> web.StreamResponse:
        self.calls.append("sign_cert")
        certificate = self._ca.sign(await request.read())
        return await self._answer(request, web.Response(text=certificate))

    async def _root_certificate(self, request: web.Request) -> web.Response:
        return web.Response(text=self._ca.pem)

    async def _recorded(self, request: web.Request) -> web.Response:
        return web.json_response({"statuses": self.statuses, "deletes": self.deletes, "routes": self.routes})

    def _may(self, request: web.Request, body: dict[str, Any]) -> bool:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.api_key in (bearer, body.get("api_key"), request.query.get("api_key"))

    def _new_idx(self) -> int:
        self._next_idx += 1
        return self._next_idx


class _CertificateAuthority:
    """Signs certificate requests for loopback."""

    def __init__(self) -> None:
        self._key: rsa.RSAPrivateKey | None = None
        self._certificate: x509.Certificate | None = None

    @property
    def pem(self) -> str:
        return self._root()[1].public_bytes(Encoding.PEM).decode()

    def sign(self, request_pem: bytes) -> str:
        key, root = self._root()
        request = x509.load_pem_x509_csr(request_pem)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = _builder(request.subject, root.subject).public_key(request.public_key())
        certificate = builder.add_extension(names, critical=False).sign(key, SHA256())
        return certificate.public_bytes(Encoding.PEM).decode()

    def _root(self) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
        if self._key is None or self._certificate is None:
            self._key = new_key()
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake root")])
            basic = x509.BasicConstraints(ca=True, path_length=None)
            builder = _builder(name, name).public_key(self._key.public_key())
            self._certificate = builder.add_extension(basic, critical=True).sign(self._key, SHA256())
        return self._key, self._certificate


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
    )


async def _serve(host: str, port: int, worker_urls: list[str], key: Path | None) -> None:
    made = Autoscaler(worker_urls=worker_urls)
    if key is not None:
        made.ours, made.key = True, load_signing_key(key)
    autoscaler = await made.start(host, port)
    print(
        json.dumps({"url": autoscaler.url, "endpoint": autoscaler.endpoint, "api_key": autoscaler.api_key}), flush=True
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--worker-url", action="append", default=[], help="route to this worker, reports or not")
    parser.add_argument("--ours", type=Path, metavar="KEY", help="say that it is a router of ours, whose key is there")
    options = parser.parse_args()
    asyncio.run(_serve(options.host, options.port, options.worker_url, options.ours))
