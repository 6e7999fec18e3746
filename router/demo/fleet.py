"""The demo's fleet: a router, and workers of ours, each on a fake ComfyUI with the speed of a card."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from router.demo.processes import Children, DemoFailed, free_port
from router.demo.settings import BENCHMARK_STEPS, CARDS, ENDPOINT, MODELS, TENANTS, Card

START_S = 240.0
PAUSE_S = 0.1
LOAD_S = 0.4
"""Loading a model takes the fake so long."""
Say = Callable[[str], object]


def _new_key() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Made for one demo, and nobody else's."""

    operator: str = field(default_factory=_new_key, repr=False)
    token: str = field(default_factory=_new_key, repr=False)
    tenants: tuple[str, ...] = field(default_factory=lambda: tuple(_new_key() for _ in TENANTS), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Where the router is, and with which keys."""

    url: str
    keys: Keys


async def start_router(children: Children, folder: Path, *, port: int) -> Fleet:
    """Start it; return when it listens."""
    keys = Keys()
    fleet = Fleet(url=f"http://127.0.0.1:{port}", keys=keys)
    await children.start(
        "router",
        *("-m", "router"),
        needed=True,
        env={
            "ROUTER_PORT": str(port),
            "ROUTER_STATE_DIR": str(folder / "router"),
            "ROUTER_ACCOUNT_KEYS": keys.operator,
            "ROUTER_WORKER_TOKENS": keys.token,
            "ROUTER_ENDPOINTS": json.dumps([_endpoint(keys)]),
        },
    )
    await _answers(f"{fleet.url}/ready")
    return fleet


def _endpoint(keys: Keys) -> dict[str, Any]:
    groups = [
        {"name": card.group, "gpu_name": card.name, "price": card.price, "containers": [card.number]} for card in CARDS
    ]
    tenants = [
        {"name": name, "api_keys": [key], "weight": weight}
        for name, key, weight in zip(TENANTS, keys.tenants, (2, 1), strict=True)
    ]
    return {"name": ENDPOINT, "groups": groups, "tenants": tenants}


async def start_worker(children: Children, folder: Path, fleet: Fleet, card: Card) -> None:
    """Start a worker and its ComfyUI; it reports to the router by itself when it is ready."""
    comfyui, name = free_port(), f"worker-{card.number}"
    paced = {"port": comfyui, "folder": folder / f"comfyui-{card.number}", "speed": card.speed, "load-s": LOAD_S}
    options = [f"--{option}={value}" for option, value in {**paced, "models": ",".join(MODELS)}.items()]
    await children.start(f"comfyui-{card.number}", "-m", "tests.fakes.paced_comfyui", *options, env={}, needed=True)
    await children.start(
        name,
        "workers/comfyui-json/worker.py",
        env={
            "PYWORKER_HOST_READY": "1",
            "WORKSPACE_DIR": str(folder / name),
            "COMFYUI_API_BASE": f"http://127.0.0.1:{comfyui}",
            "SERVERLESS": "true",
            "REPORT_ADDR": f"{fleet.url}/e/{ENDPOINT}",
            "CONTAINER_ID": str(card.number),
            "MASTER_TOKEN": fleet.keys.token,
            "PUBLIC_IPADDR": "127.0.0.1",
            "WORKER_HOST": "127.0.0.1",
            "WORKER_PORT": str(free_port()),
            "WORKER_HTTP_PORT": str(free_port()),
            "API_PORT": str(free_port()),
            "USE_SSL": "false",
            "DRAIN_TIMEOUT_S": "0.5",
            "BENCHMARK_TEST_WIDTH": "512",
            "BENCHMARK_TEST_HEIGHT": "512",
            "BENCHMARK_TEST_STEPS": str(BENCHMARK_STEPS),
            "BENCHMARK_BUDGET_S": "5",
        },
    )


async def all_ready(http: aiohttp.ClientSession, fleet: Fleet, say: Say) -> float:
    """Return when the router knows all workers as ready, telling of each: what they do together, in units per
    second."""
    scores: dict[str, float] = {}
    async with asyncio.timeout(START_S):
        async for worker in _workers(http, fleet):
            if worker["condition"] == "ready" and worker["key"] not in scores:
                scores[worker["key"]] = worker["score"]
                say(f"      worker {worker['id']}, {worker['gpu']}: {worker['score']:.0f} units a second")
            if len(scores) == len(CARDS):
                break
    return sum(scores.values())


async def _workers(http: aiohttp.ClientSession, fleet: Fleet) -> AsyncIterator[dict[str, Any]]:
    """Workers as they change, from the stream that feeds the page."""
    headers = {"Authorization": f"Bearer {fleet.keys.operator}"}
    async with http.get(f"{fleet.url}/page/events", headers=headers) as stream:
        stream.raise_for_status()
        async for line in stream.content:
            if line.startswith(b"data: "):
                for worker in json.loads(line[6:]).get("workers", ()):
                    yield worker
    raise DemoFailed("The router ended before its workers were ready.")


async def _answers(url: str) -> None:
    """A starting process tells nobody when it listens: ask until it does. Raises: DemoFailed."""
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(url) as answer:
                        if answer.ok:
                            return
                except aiohttp.ClientError:
                    await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        raise DemoFailed(f"{url} did not answer within {START_S:g} s.") from None
