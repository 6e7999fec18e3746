"""Probes."""

from lib.serving.access import Access
from lib.serving.application import Site
from lib.serving.keyring import ApiKey, KeyRing, digest
from lib.serving.probes import ProbeReply, Probes
from tests.fakes.clock import FakeClock

from .conftest import Serve


async def test_probes_say_what_their_callbacks_say(serve: Serve) -> None:
    """Alive is always 200; health and readiness are 200 or as told; metrics keep their content type."""
    state = {"ok": True}
    probes = Probes(
        health=lambda: ProbeReply(ok=state["ok"], body={"status": "healthy"}, bad_status=500),
        ready=lambda: ProbeReply(ok=state["ok"], body={"ready": state["ok"]}, retry_after_s=4),
        metrics=lambda: (b"pyworker_perf 1.0\n", "text/plain; version=0.0.4; charset=utf-8"),
    )
    site = Site(max_body_bytes=1, access=Access())
    site.mount(probes.routes(), owner="probes", needs=probes.needs())
    client = (await serve(site)).client
    assert [(await client.get(path)).status for path in ("/healthz", "/health", "/ready", "/metrics")] == [200] * 4
    metrics = await client.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert await metrics.text() == "pyworker_perf 1.0\n"
    state["ok"] = False
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/health")).status == 500
    ready = await client.get("/ready")
    assert (ready.status, ready.headers["Retry-After"], await ready.json()) == (503, "4", {"ready": False})


async def test_strangers_get_the_verdict_only(serve: Serve) -> None:
    """The public routes leave /metrics out, and say neither why nor what runs here."""
    body = {"status": "unhealthy", "ready": False, "reason": "/opt/x is missing", "host": {"cpu_count": 2}}
    reply = ProbeReply(ok=False, body=body)
    probes = Probes(health=lambda: reply, ready=lambda: reply, metrics=lambda: (b"", "text/plain"))
    site = Site(max_body_bytes=1)
    site.mount(probes.public_routes(), owner="probes")
    client = (await serve(site)).client
    assert (await client.get("/metrics")).status == 404
    for path in ("/health", "/ready"):
        answer = await client.get(path)
        assert (answer.status, await answer.json()) == (503, {"status": "unhealthy", "ready": False})


async def test_where_keys_are_needed_only_who_has_one_hears_more(serve: Serve) -> None:
    """Monitors need none for the verdict; metrics are for admins."""
    reply = ProbeReply(ok=True, body={"status": "healthy", "host": {"cpu_count": 2}})
    probes = Probes(health=lambda: reply, ready=lambda: reply, metrics=lambda: (b"", "text/plain"))
    key = ApiKey(name="alice", tenant="alice", sha256=digest("k"))
    site = Site(max_body_bytes=1, access=Access(keys=KeyRing(fixed=[key], path=None, clock=FakeClock()), required=True))
    site.mount(probes.routes(), owner="probes", needs=probes.needs())
    client = (await serve(site)).client
    alice = {"X-API-Key": "k"}
    for path in ("/health", "/ready"):
        assert await (await client.get(path)).json() == {"status": "healthy"}
        assert await (await client.get(path, headers=alice)).json() == reply.body
    assert [(await client.get("/metrics", headers=headers)).status for headers in ({}, alice)] == [401, 403]


def test_the_docs_say_what_probes_ask_of_callers() -> None:
    """As they are mounted."""
    reply = ProbeReply(ok=True)
    probes = Probes(health=lambda: reply, ready=lambda: reply, metrics=lambda: (b"", "text/plain"))
    assert {operation.path: operation.need for operation in probes.operations()} == probes.needs()
