"""ComfyUI without us: one websocket, POST, end marker, history, view. The other side of every comparison.

As lean as a careful client can be, so that the comparison is honest; it trusts ComfyUI and repairs nothing.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson

from lib.errors import EngineUnreachable, ExecutionFailed, InvalidWorkflow, JobTimeout
from lib.lifecycle import Tasks

EXECUTING = '{"type": "executing"'
"""How ComfyUI's own serializer starts the message that may end a prompt; others are not even parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRun:
    """One prompt: seconds, and the bytes of its files."""

    total_s: float
    execute_s: float
    files: tuple[bytes, ...] = field(repr=False)


class RawComfy:
    """A client of one ComfyUI; any number of prompts may be in flight."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")
        self._client_id = uuid.uuid4().hex
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            connector = aiohttp.TCPConnector(limit=0)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, connector=connector))
            url = f"{self._base}/ws?clientId={self._client_id}"
            try:
                socket = await stack.enter_async_context(self._http.ws_connect(url, max_msg_size=0))
            except aiohttp.ClientError as error:
                raise EngineUnreachable(f"No ComfyUI answers at {self._base}: {error}") from error
            await socket.receive()
            tasks = await stack.enter_async_context(Tasks())
            tasks.spawn(self._read(socket), name="raw-socket")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def run(self, graph: Mapping[str, Any], *, timeout_s: float | None = None) -> RawRun:
        """Run one graph and bring its files home.

        Raises: InvalidWorkflow, ExecutionFailed, EngineUnreachable, JobTimeout.
        """
        began = time.perf_counter()
        prompt_id = str(uuid.uuid4())
        done = self._waiting[prompt_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._post(graph, prompt_id)
                await done
                entry = await self._history(prompt_id)
                files = await self._files(entry)
        except TimeoutError:
            raise JobTimeout(f"The prompt ran longer than {timeout_s:.0f} s.") from None
        except aiohttp.ClientError as error:
            raise EngineUnreachable(f"ComfyUI at {self._base} broke off: {error}") from error
        finally:
            self._waiting.pop(prompt_id, None)
        return RawRun(total_s=time.perf_counter() - began, execute_s=_execute_s(entry), files=files)

    async def get(self, path: str) -> Any:
        """GET some JSON."""
        async with self._http.get(self._base + path) as response:
            response.raise_for_status()
            return orjson.loads(await response.read())

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """POST some JSON, ignore the answer's body."""
        async with self._http.post(self._base + path, json=body) as response:
            response.raise_for_status()

    async def _post(self, graph: Mapping[str, Any], prompt_id: str) -> None:
        body = orjson.dumps({"prompt": graph, "client_id": self._client_id, "prompt_id": prompt_id})
        headers = {"Content-Type": "application/json"}
        async with self._http.post(f"{self._base}/prompt", data=body, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise InvalidWorkflow(f"ComfyUI refused the workflow: {answer[:500].decode(errors='replace')}")

    async def _history(self, prompt_id: str) -> Mapping[str, Any]:
        history = await self.get(f"/history/{prompt_id}")
        entry: Mapping[str, Any] = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise ExecutionFailed(f"ComfyUI could not run the workflow: {_reason(entry)}")
        return entry

    async def _files(self, entry: Mapping[str, Any]) -> tuple[bytes, ...]:
        found = []
        for outputs in entry["outputs"].values():
            for files in outputs.values():
                found += [await self._view(file) for file in files if isinstance(file, dict) and "filename" in file]
        return tuple(found)

    async def _view(self, file: Mapping[str, str]) -> bytes:
        query = {key: file[key] for key in ("filename", "subfolder", "type")}
        async with self._http.get(f"{self._base}/view", params=query) as response:
            response.raise_for_status()
            return await response.read()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT or not message.data.startswith(EXECUTING):
                continue
            data = orjson.loads(message.data)["data"]
            future = self._waiting.get(data.get("prompt_id")) if data.get("node") is None else None
            if future is not None and not future.done():
                future.set_result(None)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineUnreachable(f"ComfyUI at {self._base} closed its socket."))


def _execute_s(entry: Mapping[str, Any]) -> float:
    stamps = {name: data.get("timestamp", 0) for name, data in entry["status"].get("messages", ())}
    return max(0.0, float(stamps.get("execution_success", 0) - stamps.get("execution_start", 0)) / 1000)


def _reason(entry: Mapping[str, Any]) -> str:
    for name, data in entry["status"].get("messages", ()):
        if name == "execution_error":
            return f"{data.get('node_type')}: {str(data.get('exception_message')).strip()}"
    return "interrupted"
