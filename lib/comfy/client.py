"""ComfyUI's HTTP API, one method a call, foreign exceptions wrapped. Knows nothing of jobs.

Never forwards a caller's headers, and never sends ``/interrupt`` without a prompt id.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from lib.errors import EngineUnreachable

_JSON = {"Content-Type": "application/json"}
_CHUNK_BYTES = 1 << 18
_CLOSE_S = 1.0
"""How long a socket's farewell is waited for."""


class ConnectionRefused(EngineUnreachable):
    """Nobody listens there: nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer as it came. ``json`` is ``None`` where the body is no JSON object."""

    status: int
    body: bytes

    @property
    def json(self) -> dict[str, Any] | None:
        value = loads(self.body)
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The ids in ComfyUI's queue at one moment."""

    running: frozenset[str]
    pending: frozenset[str]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


class ComfyClient:
    """Calls one ComfyUI. Every call raises EngineUnreachable where there is no usable answer."""

    def __init__(self, base_url: str, http: aiohttp.ClientSession, *, timeout_s: float) -> None:
        base = URL(base_url.rstrip("/") + "/")
        self._base = base
        self._urls = {path: base / path for path in ("prompt", "queue", "history", "interrupt", "free")}
        self._history = str(self._urls["history"])
        self._http = http
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)

    async def post_prompt(self, body: bytes) -> Reply:
        """Queue a prompt; the body is complete. Raises: ConnectionRefused (never arrived), EngineUnreachable."""
        return await self._call("POST", self._urls["prompt"], body)

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry, or ``None`` for unknown, pending and running prompts alike."""
        reply = await self._ok("GET", URL(f"{self._history}/{prompt_id}", encoded=True))
        entry = (reply.json or {}).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def queue(self) -> QueueView:
        listed = (await self._ok("GET", self._urls["queue"])).json or {}
        return QueueView(running=_ids(listed.get("queue_running")), pending=_ids(listed.get("queue_pending")))

    async def remaining(self) -> int:
        """Return how many prompts run or wait; ComfyUI's cheapest sign of life."""
        facts = (await self._ok("GET", self._urls["prompt"])).json or {}
        return int(facts.get("exec_info", {}).get("queue_remaining", 0))

    async def delete(self, prompt_id: str) -> None:
        """Take a pending prompt out of the queue; running and unknown ones are not touched."""
        await self._ok("POST", self._urls["queue"], orjson.dumps({"delete": [prompt_id]}))

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt if it is the one that runs."""
        await self._ok("POST", self._urls["interrupt"], orjson.dumps({"prompt_id": prompt_id}))

    async def forget(self, prompt_ids: Iterable[str]) -> None:
        """Drop history entries."""
        await self._ok("POST", self._urls["history"], orjson.dumps({"delete": list(prompt_ids)}))

    async def free(self) -> None:
        """Ask ComfyUI to unload models and drop its caches when it comes to it."""
        await self._ok("POST", self._urls["free"], b'{"unload_models":true,"free_memory":true}')

    async def object_info(self, class_type: str | None = None) -> bytes:
        url = self._base / "object_info"
        return (await self._ok("GET", url / class_type if class_type else url)).body

    async def system_stats(self) -> Mapping[str, Any]:
        return (await self._ok("GET", self._base / "system_stats")).json or {}

    async def socket(self, client_id: str, *, heartbeat_s: float) -> aiohttp.ClientWebSocketResponse:
        """Open the event socket. ``client_id`` must be new for each connection."""
        url = (self._base / "ws").with_query(clientId=client_id)
        with _wrapped(self._base):
            async with asyncio.timeout(self._timeout.total):
                return await self._http.ws_connect(
                    url, max_msg_size=0, heartbeat=heartbeat_s, timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S)
                )

    @asynccontextmanager
    async def view(self, *, filename: str, subfolder: str, folder_type: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file that ComfyUI holds. Raises FileNotFoundError where it says that there is none."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder_type}
        url = (self._base / "view").with_query(query)
        with _wrapped(self._base):
            async with self._http.get(url, timeout=self._stream_timeout) as response:
                if response.status != 200:
                    raise FileNotFoundError(f"ComfyUI answered {response.status} for {filename!r}")
                yield response.content.iter_chunked(_CHUNK_BYTES)

    async def _ok(self, method: str, url: URL, body: bytes | None = None) -> Reply:
        reply = await self._call(method, url, body)
        if reply.status != 200:
            raise EngineUnreachable(f"ComfyUI answered {reply.status} to {method} {url.path}")
        return reply

    async def _call(self, method: str, url: URL, body: bytes | None = None) -> Reply:
        with _wrapped(self._base):
            async with self._http.request(
                method, url, data=body, headers=_JSON if body is not None else None, timeout=self._timeout
            ) as response:
                return Reply(status=response.status, body=await response.read())


class _wrapped:
    """Turns aiohttp's exceptions into ours; a class, since a generator costs three times as much a call."""

    __slots__ = ("_base",)

    def __init__(self, base: URL) -> None:
        self._base = base

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ClientConnectorError):
            raise ConnectionRefused(f"ComfyUI at {self._base} can't be reached: {error.strerror}") from error
        if isinstance(error, TimeoutError):
            raise EngineUnreachable(f"ComfyUI at {self._base} did not answer in time") from error
        if isinstance(error, aiohttp.ClientError | ConnectionError):
            raise EngineUnreachable(f"ComfyUI at {self._base} broke the connection: {error}") from error


def loads(body: bytes) -> Any:
    """Parse JSON as Python's own ``json`` writes it, NaN included; ``None`` for what is not even that."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body)
    except ValueError:
        return None


def _ids(items: object) -> frozenset[str]:
    if not isinstance(items, list):
        return frozenset()
    return frozenset(str(item[1]) for item in items if isinstance(item, list) and len(item) > 1)
