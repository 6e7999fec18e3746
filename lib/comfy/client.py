"""ComfyUI's HTTP API, one method a call, foreign exceptions wrapped. Knows nothing of jobs.

Never forwards a caller's headers, and never sends ``/interrupt`` without a prompt id.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from lib.comfy.wire import NotPlain, Unconnected, Wire
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


QueueItem = Sequence[Any]
"""``[number, prompt_id, graph, extra_data, ids of output nodes]``, in queue and history alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """ComfyUI's queue at one moment, by prompt id."""

    running: Mapping[str, QueueItem]
    pending: Mapping[str, QueueItem]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.running or prompt_id in self.pending

    def item(self, prompt_id: str) -> QueueItem | None:
        return self.running.get(prompt_id) or self.pending.get(prompt_id)


class ComfyClient:
    """Calls one ComfyUI. Every call raises EngineUnreachable where there is no usable answer."""

    def __init__(self, base_url: str, http: aiohttp.ClientSession, *, timeout_s: float) -> None:
        self._base = URL(base_url.rstrip("/") + "/")
        self._root = self._base.raw_path
        self._wire = Wire(self._base, timeout_s=timeout_s)
        self._http = http
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)

    async def post_prompt(self, body: bytes) -> Reply:
        """Queue a prompt; the body is complete. Raises: ConnectionRefused (never arrived), EngineUnreachable."""
        return await self._call("POST", "prompt", body, once=True)

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry, or ``None`` for unknown, pending and running prompts alike."""
        path = f"history/{prompt_id}"
        found = await self._object(path)
        if prompt_id not in found:
            return None
        if not isinstance(entry := found[prompt_id], dict):
            raise _unreadable(path)
        return entry

    async def queue(self) -> QueueView:
        listed = await self._object("queue")
        running, pending = listed.get("queue_running"), listed.get("queue_pending")
        if not isinstance(running, list) or not isinstance(pending, list):
            raise _unreadable("queue")
        return QueueView(running=_by_id(running), pending=_by_id(pending))

    async def remaining(self) -> int:
        """Return how many prompts run or wait; ComfyUI's cheapest sign of life."""
        info = (await self._object("prompt")).get("exec_info")
        count = info.get("queue_remaining") if isinstance(info, dict) else None
        if not isinstance(count, int):
            raise _unreadable("prompt")
        return count

    async def delete(self, prompt_id: str) -> None:
        """Take a pending prompt out of the queue; running and unknown ones are not touched."""
        await self._ok("POST", "queue", orjson.dumps({"delete": [prompt_id]}))

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt if it is the one that runs."""
        await self._ok("POST", "interrupt", orjson.dumps({"prompt_id": prompt_id}))

    async def forget(self, prompt_ids: Iterable[str]) -> None:
        """Drop history entries."""
        await self._ok("POST", "history", orjson.dumps({"delete": list(prompt_ids)}))

    async def free(self) -> None:
        """Ask ComfyUI to unload models and drop its caches when it comes to it."""
        await self._ok("POST", "free", b'{"unload_models":true,"free_memory":true}')

    async def object_info(self, class_type: str | None = None) -> bytes:
        path = "object_info" if class_type is None else f"object_info/{quote(class_type, safe='')}"
        return (await self._ok("GET", path)).body

    async def model_types(self) -> list[str]:
        """Names of its model folders."""
        return await self._names("models")

    async def models(self, folder: str) -> list[str]:
        """The files of a model folder, listed anew."""
        return await self._names(f"models/{quote(folder, safe='')}")

    async def folder_paths(self) -> Mapping[str, list[str]]:
        """Where its model folders are, on its own host (an internal route: an old or a new one may not have it)."""
        told = await self._object("internal/folder_paths")
        return {name: [str(path) for path in paths] for name, paths in told.items() if isinstance(paths, list)}

    async def system_stats(self) -> Mapping[str, Any]:
        return await self._object("system_stats")

    async def log_writes(self) -> list[str]:
        """Return the last 300 writes to its log, as it keeps them in memory since its start (an internal route)."""
        path = "internal/logs/raw"
        entries = (await self._object(path)).get("entries")
        if not isinstance(entries, list):
            raise _unreadable(path)
        return [str(entry.get("m")) for entry in entries if isinstance(entry, dict)]

    async def socket(self, client_id: str, *, heartbeat_s: float) -> aiohttp.ClientWebSocketResponse:
        """Open the event socket. ``client_id`` must be new for each connection. From then on connections stay open,
        until ``hang_up``."""
        url = (self._base / "ws").with_query(clientId=client_id)
        with _wrapped(self._base):
            async with asyncio.timeout(self._timeout.total):
                socket = await self._http.ws_connect(
                    url, max_msg_size=0, heartbeat=heartbeat_s, timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S)
                )
        self._wire.kept = True
        return socket

    def hang_up(self) -> None:
        """Keep no connections open any more; whoever opened the socket calls this after it."""
        self._wire.close()

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

    async def _ok(self, method: str, path: str, body: bytes | None = None) -> Reply:
        reply = await self._call(method, path, body)
        if reply.status != 200:
            raise EngineUnreachable(f"ComfyUI answered {reply.status} to {method} {path}")
        return reply

    async def _object(self, path: str) -> dict[str, Any]:
        """A body that was cut short or is something else is no answer: nobody may read it as "nothing there"."""
        found = (await self._ok("GET", path)).json
        if found is None:
            raise _unreadable(path)
        return found

    async def _names(self, path: str) -> list[str]:
        found = loads((await self._ok("GET", path)).body)
        if not isinstance(found, list):
            raise _unreadable(path)
        return [str(name) for name in found]

    async def _call(self, method: str, path: str, body: bytes | None = None, *, once: bool = False) -> Reply:
        """``once``: it must not be sent again where it may have been done."""
        target = self._root + path
        with _wrapped(self._base):
            if self._wire.usable:
                with nullcontext() if once else suppress(NotPlain):
                    status, answer = await self._wire.call(method, target, body, once=once)
                    return Reply(status=status, body=answer)
            url, headers = self._base.with_path(target, encoded=True), _JSON if body is not None else None
            async with self._http.request(method, url, data=body, headers=headers, timeout=self._timeout) as response:
                return Reply(status=response.status, body=await response.read())


class _wrapped:
    """Turns aiohttp's exceptions into ours; a class, since a generator costs three times as much a call."""

    __slots__ = ("_base",)

    def __init__(self, base: URL) -> None:
        self._base = base

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, aiohttp.ClientConnectorError | Unconnected):
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


def _by_id(items: list[Any]) -> dict[str, QueueItem]:
    return {str(item[1]): item for item in items if isinstance(item, list) and len(item) > 1}


def _unreadable(path: str) -> EngineUnreachable:
    return EngineUnreachable(f"ComfyUI's answer to GET {path} can't be read")
