"""Our router as a process, our worker on a real ComfyUI behind it, and the unmodified ``vastai`` SDK in front.

The worker speaks TLS with the certificate that it got from the router, and the SDK checks it, as it does Vast's.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioning.tls import TlsPaths, ensure_certificate
from tests.comfyui_fixture import RealComfyUI, free_port
from tests.integration.harness import WorkerProcess, picture, slow, worker
from tests.integration.router_process import TOKEN, RouterProcess, router_process
from tests.integration.terse_worker import Trouble, terse_worker
from tests.peers.vast.sdk import drive, sdk_python

pytestmark = pytest.mark.comfyui

WORKER = 42
HOLD_S = 3.0
"""The router holds a request so long before it says WAITING."""
LONG_S = 12.0
"""Longer than that and the SDK's longest pause (5 s) together."""


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    with router_process(
        tmp_path_factory.mktemp("router"), "ep", ROUTER_ROUTE_WAIT_S=str(HOLD_S), ROUTER_STALE_S="120"
    ) as process:
        yield process


@pytest.fixture(scope="module")
def real_worker(
    router: RouterProcess, real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """Reports to the router as the endpoint ``ep``'s."""
    port, folder = str(free_port()), tmp_path_factory.mktemp("worker")
    tls = TlsPaths(key=folder / "i.key", request=folder / "i.csr", certificate=folder / "i.crt")
    ensure_certificate(tls, sign_url=f"{router.url}/api/v0/sign_cert/", container_id=WORKER, wait_s=0.1)
    with worker(
        folder,
        COMFYUI_API_BASE=real_comfyui.base_url,
        SERVERLESS="true",
        REPORT_ADDR=f"{router.url}/e/ep",
        CONTAINER_ID=str(WORKER),
        MASTER_TOKEN=TOKEN,
        PUBLIC_IPADDR="127.0.0.1",
        WORKER_PORT=port,
        WORKER_HOST="127.0.0.1",
        USE_SSL="true",
        SSL_CERT_PATH=str(tls.certificate),
        SSL_KEY_PATH=str(tls.key),
    ) as process:
        process.public = f"https://127.0.0.1:{port}"
        process.wait_for(lambda: router.status("ep", WORKER) == "idle", "known to the router as ready")
        yield process


def sdk(python: Path, router: RouterProcess, scenario: str, **options: Any) -> list[dict[str, Any]]:
    """Run a scenario; the SDK trusts the router's authority."""
    return asyncio.run(drive(python, scenario, router=router.url, **{"trust": "router"} | options))


def made(graph: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"workflow_json": graph}}


def painted(color: int) -> dict[str, Any]:
    return made(picture(color, prefix="router/__RANDOM_INT__"))


def running(process: WorkerProcess) -> bool:
    return bool(process.get("/jobs", params={"status": "running"}).json()["jobs"])


@pytest.mark.parametrize("client", ["futures", "coroutines"])
def test_requests_are_routed_and_made(
    router: RouterProcess, real_worker: WorkerProcess, python: Path, client: str
) -> None:
    """With either of the SDK's clients. Four at once, more than the worker has places: each waits its turn at the
    router, and none is refused."""
    results = sdk(python, router, "request", payload=painted(701), count=4, client=client)
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 4
    assert all(result["response"]["status"] == "completed" for result in results)
    assert len({result["request_idx"] for result in results}) == 4
    assert {result["url"] for result in results} == {real_worker.public}


def test_a_stream_is_read_to_its_end(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Progress comes while the job runs, the result at the end; then the worker is free."""
    *events, ended = sdk(python, router, "stream", route="/generate/stream", payload=made(slow(4.0, color=702)))
    assert (ended["ok"], ended["status"], ended["url"]) == (True, 200, real_worker.public)
    assert len(events) > 5
    assert events[-1]["at"] - events[0]["at"] > 1.0
    assert events[-1]["event"]["status"] == "final_result"
    assert events[-1]["event"]["result"]["status"] == "completed"
    router.until(lambda: router.workers("ep")[WORKER]["reqs_working"] == 0, "idle")


def test_a_job_outlives_its_request(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Submitted and asked for later, in a session, which leads to the same worker both times."""
    accepted, result = sdk(python, router, "submit", payload=painted(703))
    assert accepted["status"] == 202
    assert (result["status"], result["response"]["status"]) == (200, "completed")
    assert result["response"]["id"] == accepted["response"]["id"]


def test_a_session_holds_and_frees_the_worker(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Routed once, used, closed; then the router gives the worker to the next."""
    before = router.given("ep", WORKER)
    opened, *results, is_open, closed = sdk(python, router, "session", payload=painted(704), count=2)
    assert opened["session_id"] and is_open["value"] is True and "closed session" in closed["error"]
    assert [result["status"] for result in results] == [200, 200]
    assert router.given("ep", WORKER) == before + 1
    (after,) = sdk(python, router, "request", payload=painted(705))
    assert after["ok"] is True


def test_a_session_ends_by_itself(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """Left alone it is over after its lifetime, and its worker does not count as held."""
    opened, over, closed = sdk(python, router, "expiry", payload=painted(706), lifetime=1.0)
    assert 0.9 < over["at"] - opened["at"] < 60
    assert "session" in over["error"] and "closed session" in closed["error"]
    router.until(lambda: router.workers("ep")[WORKER]["cur_load"] == 0.0, "free")


def test_the_worker_is_listed(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """As the SDK reads it: its number, ready, with a measured speed and when it was loaded."""
    (listed,) = [one for one in sdk(python, router, "workers") if one["id"] == WORKER]
    assert (listed["status"], listed["reliability"]) == ("idle", 1.0)
    assert listed["perf"] == listed["measured_perf"] > 0
    assert listed["loaded_at"] > listed["started_at"] > 0


def test_a_wrong_request_ends_at_once(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """The explanation reaches its caller; no other worker is asked."""
    before = router.given("ep", WORKER)
    (result,) = sdk(python, router, "request", payload=made({"1": {"class_type": "NoSuchNode", "inputs": {}}}))
    assert (result["ok"], result["status"]) == (False, 422)
    assert "NoSuchNode" in result["text"]
    assert router.given("ep", WORKER) == before + 1


def test_who_does_not_trust_the_authority_sends_nothing(
    router: RouterProcess, real_worker: WorkerProcess, python: Path
) -> None:
    """The SDK refuses the worker's certificate and comes back for ever: it is held, and does not spin."""
    before, counted = router.given("ep", WORKER), real_worker.health()["jobs"]
    (raised,) = sdk(python, router, "request", payload=painted(707), trust="system", timeout=2, raises=True)
    assert raised["type"] == "TimeoutError"
    assert router.given("ep", WORKER) <= before + 2
    assert real_worker.health()["jobs"] == counted


def test_a_dead_worker_costs_one_try(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """It looks much faster, but nobody answers there: the SDK comes back at once and gets the living one."""
    dead = 99
    fields = {"id": dead, "version": "1.1.0", "loadtime": 1.0, "max_perf": 1e6, "cur_load": 0.0}
    router.tell("ep", "/worker_status/", **fields, url=f"http://127.0.0.1:{free_port()}")
    (result,) = sdk(python, router, "request", payload=painted(708))
    assert (result["ok"], result["status"], result["url"]) == (True, 200, real_worker.public)
    assert router.given("ep", dead) == 1
    router.until(lambda: router.status("ep", dead) == "error", "in error")


@pytest.mark.parametrize("said", [429, 500, Trouble.GARBAGE, Trouble.CLOSED], ids=str)
def test_a_bad_answer_of_another_worker_costs_one_try(
    router: RouterProcess, real_worker: WorkerProcess, python: Path, said: int | Trouble
) -> None:
    """One that looks much faster refuses, breaks, talks garbage or hangs up: the same request is then done here."""
    with terse_worker(router, "ep", 98, said, perf=1e6) as other:
        (result,) = sdk(python, router, "request", payload=painted(711))
    router.tell("ep", "/worker_status/", id=98, error_msg="gone")
    assert (result["ok"], result["status"], result["url"]) == (True, 200, real_worker.public)
    assert [call["auth_data"]["request_idx"] for call in other.calls] == [result["request_idx"]]


def test_a_long_job_is_done_once_and_others_wait(
    router: RouterProcess, real_worker: WorkerProcess, python: Path
) -> None:
    """Nobody gives up: not its caller, and not those who are told WAITING meanwhile. The router is killed in the
    middle and comes back without its memory; the job goes on."""

    async def scene() -> list[list[dict[str, Any]]]:
        options = {"router": router.url, "trust": "router"}
        long = asyncio.ensure_future(drive(python, "request", payload=made(slow(LONG_S)), **options))
        await asyncio.to_thread(router.until, lambda: running(real_worker), "at work")
        await asyncio.to_thread(router.kill)
        await asyncio.to_thread(router.start)
        await asyncio.to_thread(router.until, lambda: router.status("ep", WORKER) == "idle", "known again")
        others = drive(python, "request", payload=painted(709), count=2, **options)
        return list(await asyncio.gather(long, others))

    (long,), others = asyncio.run(scene())
    assert (long["ok"], long["status"]) == (True, 200)
    assert long["latency"] >= LONG_S
    assert [(other["ok"], other["status"]) for other in others] == [(True, 200)] * 2
    assert router.given("ep", WORKER) == 2


def test_a_worker_that_is_killed_costs_a_retry(router: RouterProcess, real_worker: WorkerProcess, python: Path) -> None:
    """It is the only one: its caller waits until it is back, and gets what was made."""

    async def scene() -> list[dict[str, Any]]:
        options = {"router": router.url, "trust": "router", "timeout": 140}
        asking = asyncio.ensure_future(drive(python, "request", payload=made(slow(6.0, color=710)), **options))
        await asyncio.to_thread(router.until, lambda: running(real_worker), "at work")
        assert real_worker.process is not None
        os.kill(real_worker.process.pid, 9)
        await asyncio.to_thread(real_worker.process.wait)
        real_worker.start()
        return await asking

    (result,) = asyncio.run(scene())
    assert (result["ok"], result["status"], result["response"]["status"]) == (True, 200, "completed")
    router.until(lambda: router.status("ep", WORKER) == "idle", "idle")
