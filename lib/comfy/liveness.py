"""Asking a ComfyUI whether it answers: ``GET /system_stats`` until 200."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson

from lib.clock import Clock

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
ANNOUNCE_S = 30.0
PROBE_TIMEOUT_S = 5.0

Stats = Mapping[str, Any]


async def system_stats(
    http: aiohttp.ClientSession, base_url: str, *, timeout_s: float = PROBE_TIMEOUT_S
) -> Stats | None:
    """Return ComfyUI's answer, or None when it (or something else than ComfyUI) does not answer so."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with http.get(f"{base_url}/system_stats", timeout=timeout, allow_redirects=False) as response:
            answer = orjson.loads(await response.read()) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError):
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("system"), dict) else None


def argv_of(stats: Stats) -> list[str]:
    """The server's command line as it tells it; paths of its host, never to be sent to callers."""
    argv = stats["system"].get("argv")
    return [str(part) for part in argv] if isinstance(argv, list) else []


async def until_answering(
    http: aiohttp.ClientSession,
    base_url: str,
    *,
    name: str,
    clock: Clock,
    accept: Callable[[Stats], bool] = lambda stats: True,
    last_line: Callable[[], str] = lambda: "",
) -> Stats:
    """Ask until it answers, for ever; every half minute the log says what is waited for."""
    started = announced = clock.monotonic()
    pause_s = FIRST_PAUSE_S
    while True:
        stats = await system_stats(http, base_url)
        if stats is not None and accept(stats):
            return stats
        now = clock.monotonic()
        if now - announced >= ANNOUNCE_S:
            announced = now
            waited = {"waited_s": round(now - started), "base_url": base_url, "last_line": last_line()}
            log.info("waiting for ComfyUI to answer", extra={"event": "comfyui.waiting", "engine": name} | waited)
        await clock.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)
