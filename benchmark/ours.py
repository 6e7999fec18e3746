"""Our service as a caller of its API listener sees it: one POST, ``/generate/sync`` or a dialect's, files as base64."""

import base64
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson

from lib.errors import EngineUnreachable, ExecutionFailed, InvalidWorkflow


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRun:
    """One job: seconds, the bytes of its files, the answer."""

    total_s: float
    execute_s: float
    files: tuple[bytes, ...] = field(repr=False)
    answer: Mapping[str, Any] = field(repr=False)


class ApiClient:
    """A client of one API listener; any number of jobs may be in flight."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        self._http = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def run(self, request: Mapping[str, Any]) -> ApiRun:
        """Run one job; ``request`` is the wrapper's ``input`` object.

        Raises: InvalidWorkflow (4xx), ExecutionFailed, EngineUnreachable (no service).
        """
        began = time.perf_counter()
        try:
            status, answer = await self.post("/generate/sync", {"input": request})
        except aiohttp.ClientError as error:
            raise self._silent(error) from error
        if status != 200 or answer.get("status") != "completed":
            kind = InvalidWorkflow if 400 <= status < 499 else ExecutionFailed
            raise kind(f"The service answered {status}: {answer.get('message') or answer.get('detail') or answer}")
        data = (entry.get("data") for entry in answer.get("output", ()))
        files = tuple(base64.b64decode(text) for text in data if text)
        execute_s = float(answer.get("timings", {}).get("generation_ms") or 0) / 1000
        return ApiRun(total_s=time.perf_counter() - began, execute_s=execute_s, files=files, answer=answer)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """POST some JSON; give status and JSON answer."""
        headers = {"Content-Type": "application/json"}
        async with self._http.post(self._base + path, data=orjson.dumps(body), headers=headers) as response:
            return response.status, _decode(await response.read())

    async def get(self, path: str) -> tuple[int, Any]:
        """GET something; JSON is decoded, other bodies come as text. Raises: EngineUnreachable (no service)."""
        try:
            async with self._http.get(self._base + path) as response:
                return response.status, _decode(await response.read())
        except aiohttp.ClientError as error:
            raise self._silent(error) from error

    async def text(self, path: str) -> str:
        """GET some text."""
        async with self._http.get(self._base + path) as response:
            return await response.text()

    def _silent(self, error: aiohttp.ClientError) -> EngineUnreachable:
        return EngineUnreachable(f"The service at {self._base} does not answer: {error}")


async def runpod(api: ApiClient, graph: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Run one job through RunPod's ``/runsync``. Raises: ExecutionFailed."""
    status, answer = await api.post("/runsync", {"input": {"workflow": graph}})
    if status != 200 or answer.get("status") != "COMPLETED":
        raise ExecutionFailed(f"The service answered {status}: {answer.get('error') or answer}")
    return tuple(base64.b64decode(image["data"]) for image in answer["output"]["images"])


async def salad(api: ApiClient, graph: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Run one job through Salad's ``/prompt``. Raises: ExecutionFailed."""
    status, answer = await api.post("/prompt", {"prompt": graph})
    if status != 200:
        raise ExecutionFailed(f"The service answered {status}: {answer.get('message') or answer}")
    return tuple(base64.b64decode(image) for image in answer["images"])


DIALECTS = {"runpod": runpod, "salad": salad}
"""How a job is run in a foreign API, with its files in the answer."""


def _decode(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:2000].decode(errors="replace")}
