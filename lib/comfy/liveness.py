"""Asking a ComfyUI whether it answers: ``GET /system_stats`` until 200."""

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson

from lib.clock import Clock

log = logging.getLogger(__name__)

PAUSE_S = 0.25
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


def facts_of(stats: Mapping[str, object]) -> dict[str, object]:
    """Reduce ``/system_stats``; its argv reveals paths and stays behind."""
    system, devices = stats.get("system"), stats.get("devices")
    system = system if isinstance(system, Mapping) else {}
    device = devices[0] if isinstance(devices, list) and devices and isinstance(devices[0], Mapping) else {}
    return {
        "comfyui_version": system.get("comfyui_version"),
        "python_version": system.get("python_version"),
        "pytorch_version": system.get("pytorch_version"),
        "os": system.get("os"),
        "ram_total_bytes": system.get("ram_total"),
        "device_name": device.get("name"),
        "device_type": device.get("type"),
        "vram_total_bytes": device.get("vram_total"),
        "vram_free_bytes": device.get("vram_free"),
    }


async def until_answering(
    http: aiohttp.ClientSession,
    base_url: str,
    *,
    name: str,
    clock: Clock,
    pause_s: float = PAUSE_S,
    attempts: int = 0,
    last_line: Callable[[], str] = lambda: "",
) -> Stats:
    """Ask until it answers, every ``pause_s`` seconds, for ever or so many times; every half minute the log says what
    is waited for.

    Raises: TimeoutError, with ``attempts`` only."""
    started = announced = clock.monotonic()
    for asked in itertools.count(1):
        stats = await system_stats(http, base_url)
        if stats is not None:
            return stats
        now = clock.monotonic()
        if now - announced >= ANNOUNCE_S:
            announced = now
            waited = {"waited_s": round(now - started), "base_url": base_url, "last_line": last_line()}
            log.info("waiting for ComfyUI to answer", extra={"event": "comfyui.waiting", "engine": name} | waited)
        if asked == attempts:
            raise TimeoutError(f"{attempts} attempts (COMFY_API_AVAILABLE_MAX_RETRIES)")
        await clock.sleep(pause_s)
    raise AssertionError("it counts without end")
