"""Where ``python -m benchmark boot`` runs its jobs: a bare ComfyUI, or our service's API listener."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from benchmark.ours import ApiClient, ApiRun
from benchmark.raw import RawComfy, RawRun
from lib.errors import JobTimeout, ServiceError
from lib.workflow.placeholders import fill


class RawRunner:
    """Runs on ComfyUI itself and does what the service would do to a graph: draws its random numbers."""

    engines = ("comfyui",)

    def __init__(self, comfy: RawComfy) -> None:
        self._comfy = comfy
        self._rng = random.Random()

    async def run(self, workflow: bytes, *, engine: str, timeout_s: float) -> RawRun:
        """Run one graph. Raises: ServiceError."""
        return await self._comfy.run(fill(orjson.loads(workflow), rng=self._rng), timeout_s=timeout_s)

    def warm_again(self, workflow: bytes, *, timeout_s: float) -> None:
        """Nobody restarts ComfyUI here."""

    async def checkpoints(self) -> tuple[str, ...] | None:
        try:
            return tuple(await self._comfy.get("/models/checkpoints"))
        except aiohttp.ClientResponseError:  # versions without this route
            return None

    async def system_stats(self) -> Mapping[str, Any] | None:
        stats: Mapping[str, Any] = await self._comfy.get("/system_stats")
        return stats


class ApiRunner:
    """Runs through a running service; which engine takes a job is the service's choice."""

    engines = ("service",)

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def run(self, workflow: bytes, *, engine: str, timeout_s: float) -> ApiRun:
        """Run one graph. Raises: ServiceError."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._api.run({"workflow_json": orjson.loads(workflow)})
        except TimeoutError:
            raise JobTimeout(f"The job ran longer than {timeout_s:.0f} s.") from None

    def warm_again(self, workflow: bytes, *, timeout_s: float) -> None:
        """Nobody restarts ComfyUI here."""

    async def checkpoints(self) -> tuple[str, ...] | None:
        return None

    async def system_stats(self) -> Mapping[str, Any] | None:
        """The service does not show ComfyUI's own figures; its health object must at least be there."""
        status, answer = await self._api.get("/health")
        if status >= 500:
            raise ServiceError(f"The service is not healthy: {answer}")
        return None
