"""The engines, each around a ComfyUI that was found, and what they are asked together."""

from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from lib.clock import Clock
from lib.comfy.engine import ComfyEngine
from lib.comfy.models.privacy import Hide
from lib.comfy.placing import Placer
from lib.comfy.ports import Server
from lib.comfy.tap import Tap
from lib.lifecycle import Tasks
from lib.settings import Settings

SMALL_BYTES = 128 * 1024
"""Files of a job that are together at most this are inlined while they are collected."""


def fetched_folder(settings: Settings) -> Path:
    """Where files lie that we make or fetch ourselves; what ComfyUI writes lies in its own folder."""
    return settings.engine.workspace.resolve() / "outputs"


def comfy_http() -> aiohttp.ClientSession:
    """The pooled client for ComfyUI: no limit, no proxy of the environment; each call sets its own time-out."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
    )


def build_engines(
    servers: Sequence[Server],
    settings: Settings,
    *,
    http: aiohttp.ClientSession,
    placer: Placer,
    tasks: Tasks,
    clock: Clock,
    owner: str,
    tap: Tap | None,
    hide: Hide,
) -> tuple[ComfyEngine, ...]:
    """Return one for each server, in their order; see ``ComfyEngine`` for the arguments."""
    delivery = settings.delivery
    return tuple(
        ComfyEngine(
            name=server.name,
            server=server,
            http=http,
            settings=settings.engine,
            tasks=tasks,
            fetch_folder=fetched_folder(settings),
            inline_bytes=min(SMALL_BYTES, delivery.base64_max_bytes, delivery.base64_total_bytes),
            placer=placer,
            owner=owner,
            clock=clock,
            tap=tap,
            hide=hide,
        )
        for server in servers
    )


def first_of(engines: Sequence[ComfyEngine], ask: Callable[..., tuple[str, ...]]) -> Callable[..., tuple[str, ...]]:
    """Ask each engine's catalogue in turn; the first that knows something answers."""

    def answer(*names: str) -> tuple[str, ...]:
        for engine in engines:
            if found := ask(engine.catalog, *names):
                return found
        return ()

    return answer
