"""Vast's own programs, unmodified, with our router: the stock PyWorker reports to it, the CLI manages it."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import free_port
from tests.integration.router_process import ACCOUNT_KEY, TOKEN, RouterProcess, router_process
from tests.peers.vast.sdk import drive, sdk_python

STOCK = Path(__file__).resolve().parents[1] / "peers" / "vast" / "stock_worker.py"
WORKER = 7
READY_S = 60.0


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    with router_process(tmp_path_factory.mktemp("router"), "ep") as process:
        yield process


@contextmanager
def stock_worker(python: Path, router: RouterProcess, folder: Path) -> Iterator[str]:
    """One that has done its benchmark; gives its URL."""
    port = str(free_port())
    env = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(folder),
        "REPORT_ADDR": f"{router.url}/e/ep",
        "CONTAINER_ID": str(WORKER),
        "MASTER_TOKEN": TOKEN,
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": port,
        f"VAST_TCP_PORT_{port}": port,
        "USE_SSL": "false",
    }
    log = folder / "stock.log"
    with log.open("ab") as out:
        process = subprocess.Popen([str(python), str(STOCK)], cwd=folder, env=env, stdout=out, stderr=out)
    try:
        until = time.monotonic() + READY_S
        while router.workers("ep").get(WORKER, {}).get("status") != "idle":
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


def cli(python: Path, router: RouterProcess, home: Path, *words: str) -> str:
    """Run Vast's CLI. It is told of the router by ``--url``: with ``VAST_URL`` it asks Vast's own for logs."""
    command = [str(python.parent / "vastai"), *words, "--url", router.url, "--api-key", ACCOUNT_KEY]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "HOME": str(home)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stock_workers_serve_the_sdk(router: RouterProcess, python: Path, tmp_path: Path) -> None:
    """Public key, reports, benchmark, signed requests, ended requests; many at once, of which it refuses none."""
    with stock_worker(python, router, tmp_path) as url:
        payload = {"input": {"prompt": "x"}}
        results = asyncio.run(drive(python, "request", router=router.url, payload=payload, count=8))
        assert [(result["ok"], result["response"]) for result in results] == [(True, payload)] * 8
        assert all(result["url"].startswith(url) for result in results)
        assert router.given("ep", WORKER) == 8
        listed = router.workers("ep")[WORKER]
        assert listed["measured_perf"] > 0 and listed["reliability"] == 1.0


def test_the_cli_shows_and_makes_endpoints(router: RouterProcess, python: Path, tmp_path: Path) -> None:
    """Lists, logs, an endpoint's life."""

    def run(*words: str) -> str:
        return cli(python, router, tmp_path, *words)

    def most() -> dict[str, int]:
        found: list[dict[str, Any]] = json.loads(run("show", "endpoints", "--raw"))
        return {one["endpoint_name"]: one["max_workers"] for one in found}

    fields = {"id": 9, "version": "1.1.0", "loadtime": 1.0, "max_perf": 50.0, "cur_load": 0.0}
    router.tell("ep", "/worker_status/", **fields, url="http://127.0.0.1:9")
    assert most() == {"ep": 16}
    groups = json.loads(run("show", "workergroups", "--raw"))
    assert [one["endpoint_name"] for one in groups] == ["ep"]
    assert '"id": 9' in run("get", "endpt-workers", "1", "--raw")
    assert "ep/9 ready" in run("get", "endpt-logs", "1", "--level", "0")
    assert "ep/9 ready" in run("get", "wrkgrp-logs", str(groups[0]["id"]), "--level", "0")
    run("create", "endpoint", "--endpoint_name", "made", "--max_workers", "3")
    run("update", "endpoint", "2", "--max_workers", "4")
    assert most() == {"ep": 16, "made": 4}
    run("create", "workergroup", "--endpoint_name", "made", "--template_hash", "x")
    assert len(json.loads(run("show", "workergroups", "--raw"))) == 3
    run("delete", "endpoint", "2")
    assert most() == {"ep": 16}
