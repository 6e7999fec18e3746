"""A fake ComfyUI 0.3.75 over loopback: same routes, events, errors and files; no torch, and misbehaves on request.

Standalone: ``python -m tests.fakes.comfyui --port 8188 --folder /tmp/fake``.
"""

import argparse
import asyncio
import contextlib
import json
import struct
import tempfile
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import WSMsgType, web

from tests.fakes.comfyui_executor import Executor
from tests.fakes.comfyui_nodes import NODES, object_info, validate

LOG_WRITES = 300


@dataclass(slots=True, kw_only=True)
class Misbehaviour:
    """What goes wrong next. The numbers count down."""

    fail_posts: int = 0
    """POST /prompt answers 500 although the prompt is queued."""
    lose_posts: int = 0
    """POST /prompt answers 200 and queues nothing."""
    refuse_posts: int = 0
    """POST /prompt answers 500 and queues nothing."""
    post_delay_s: float = 0.0
    """POST /prompt answers so late, although the prompt is queued at once."""
    mute: frozenset[str] = frozenset()
    """Types of messages that are not sent (``end`` = the end marker)."""
    lose_interrupts: int = 0
    forget_history: bool = False
    """History entries are gone as soon as they are there."""
    silent: bool = False
    """Every call breaks off without an answer; open sockets stay."""
    hung: bool = False
    """Every new call waits for ever; open sockets stay."""
    cut_short: dict[str, int] = field(default_factory=dict)
    """So many answers to ``GET /<name>`` are half a JSON object."""
    cut_views: int = 0
    """GET /view breaks off in the middle of the file."""
    spoil: Callable[[dict[str, Any]], object] = dict
    """What becomes of history entries that are asked for one by one."""


class FakeComfyUI:
    """An async context manager; ``kill`` and ``start`` end it and bring it back on its port."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.wrong = Misbehaviour()
        self.requests: list[str] = []
        """``METHOD path`` of every call."""
        self.posted: list[dict[str, Any]] = []
        """Bodies of POST /prompt."""
        self.died = asyncio.Event()
        self.log_entries: deque[str] = deque(maxlen=LOG_WRITES)
        """The last writes to its log; empty again after a start."""
        self.ram_free = 1 << 32
        self.previews = False
        """Whether samplers send previews."""
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._runner: web.AppRunner | None = None
        self._executor_task: asyncio.Task[None] | None = None
        self._publisher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Come up with an empty queue and history, as after every start."""
        self.died.clear()
        self._closing.clear()
        self._outbox: asyncio.Queue[tuple[str | bytes, str | None]] = asyncio.Queue()
        self.log_entries.clear()
        self.executor = Executor(
            self.folder,
            emit=self._emit,
            picture=self._picture,
            died=self.died.set,
            write=self.log_entries.append,
            previews=lambda: self.previews,
        )
        self._counter = 0
        self._runner = web.AppRunner(self._application(), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._publisher = asyncio.create_task(self._publish(), name="fake.publish")
        self.revive()

    async def kill(self) -> None:
        """End abruptly: sockets close, queue and history are gone, the port is closed."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._closing.set()
        tasks = [task for task in (self._executor_task, self._publisher) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.drop_sockets()
        await runner.cleanup()

    def revive(self) -> None:
        """Give it a (new) executor."""
        self._executor_task = asyncio.create_task(self.executor.run(), name="fake.executor")

    async def kill_executor(self) -> None:
        """HTTP goes on, nothing runs any more."""
        if self._executor_task is not None:
            self._executor_task.cancel()
            await asyncio.gather(self._executor_task, return_exceptions=True)

    async def drop_sockets(self) -> None:
        for socket in tuple(self._sockets.values()):
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()
        self._sockets.clear()

    def stall_events(self, stalled: bool = True) -> None:
        """Stop (or let go on) every event of every client; HTTP is not affected."""
        if stalled:
            self._flowing.clear()
        else:
            self._flowing.set()

    @property
    def client_ids(self) -> tuple[str, ...]:
        return tuple(self._sockets)

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=100 << 20, middlewares=[self._record])
        app.add_routes(
            [
                web.get("/ws", self._ws),
                web.get("/prompt", self._get_prompt),
                web.post("/prompt", self._post_prompt),
                web.get("/queue", self._get_queue),
                web.post("/queue", self._post_queue),
                web.post("/interrupt", self._interrupt),
                web.post("/free", self._free),
                web.get("/history", self._get_history),
                web.get("/history/{id}", self._get_history),
                web.post("/history", self._post_history),
                web.get("/view", self._view),
                web.post("/upload/image", self._upload),
                web.get("/object_info", self._object_info),
                web.get("/object_info/{name}", self._object_info),
                web.get("/system_stats", self._system_stats),
                web.get("/features", self._features),
                web.get("/internal/logs/raw", self._logs),
            ]
        )
        return app

    @web.middleware
    async def _record(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.wrong.silent and request.transport is not None:
            request.transport.abort()
        if self.wrong.hung:
            await self._closing.wait()
        name = request.path.split("/")[1]
        if request.method == "GET" and (left := self.wrong.cut_short.get(name, 0)):
            self.wrong.cut_short[name] = left - 1
            return web.Response(text='{"queue_running": [[1, "', content_type="application/json")
        return await handler(request)

    def _emit(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        name = "end" if kind == "executing" and data.get("node") is None else kind
        if name in self.wrong.mute:
            return
        if name == "end" and self.wrong.forget_history:
            self.executor.history.clear()
        self._outbox.put_nowait((json.dumps({"type": kind, "data": data}), client_id))

    def _picture(self, data: bytes, facts: dict[str, Any], client_id: str) -> None:
        head = json.dumps(facts).encode()
        self._outbox.put_nowait((struct.pack(">II", 4, len(head)) + head + data, client_id))

    async def _publish(self) -> None:
        """One loop for everybody, as there."""
        while True:
            frame, client_id = await self._outbox.get()
            await self._flowing.wait()
            for name, socket in tuple(self._sockets.items()):
                if client_id in (None, name) and not socket.closed:
                    with contextlib.suppress(ConnectionError):
                        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[client_id] = socket
        info = {"status": {"exec_info": {"queue_remaining": self.executor.remaining}}, "sid": client_id}
        await socket.send_str(json.dumps({"type": "status", "data": info}))
        async for frame in socket:
            if frame.type is WSMsgType.TEXT and json.loads(frame.data).get("type") == "feature_flags":
                answer = {"supports_preview_metadata": True, "max_upload_size": 104857600}
                await socket.send_str(json.dumps({"type": "feature_flags", "data": answer}))
        self._sockets.pop(client_id, None)
        return socket

    async def _get_prompt(self, _: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self.executor.remaining}})

    async def _post_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.posted.append(body)
        if "prompt" not in body:
            error = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        number = float(body["number"]) if "number" in body else self._counter
        self._counter += 1
        error, outputs, node_errors = validate(body["prompt"], self.executor.input)
        if error is not None:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        if self._take("refuse_posts"):
            return web.Response(status=500, text="500 Internal Server Error")
        prompt_id = str(body.get("prompt_id") or uuid.uuid4())
        if not self._take("lose_posts"):
            extra = {**body.get("extra_data", {}), "client_id": body.get("client_id"), "create_time": 1795223674983}
            if (key := extra.pop("api_key_comfy_org", None)) is not None:
                self.executor.keys[prompt_id] = key
            self.executor.put((number, prompt_id, body["prompt"], extra, outputs))
        if self._take("fail_posts"):
            return web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")
        if self.wrong.post_delay_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.wrong.post_delay_s)
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    def _take(self, name: str) -> bool:
        left = getattr(self.wrong, name)
        setattr(self.wrong, name, max(0, left - 1))
        return bool(left > 0)

    async def _get_queue(self, _: web.Request) -> web.Response:
        running = [list(self.executor.running)] if self.executor.running else []
        return web.json_response({"queue_running": running, "queue_pending": [list(i) for i in self.executor.pending]})

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        for prompt_id in body.get("delete") or [item[1] for item in self.executor.pending if body.get("clear")]:
            self.executor.delete(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text() or "{}")
        if not self._take("lose_interrupts"):
            self.executor.interrupt(body.get("prompt_id"))
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        self.executor.freed.append(await request.json())
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info.get("id")
        history = self.executor.history
        if prompt_id is None:
            return web.json_response(history)
        return web.json_response({prompt_id: self.wrong.spoil(history[prompt_id])} if prompt_id in history else {})

    async def _post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        for prompt_id in body.get("delete") or list(self.executor.history if body.get("clear") else ()):
            self.executor.history.pop(prompt_id, None)
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        name, kind = request.query.get("filename", ""), request.query.get("type", "output")
        roots = {"output": self.executor.output, "input": self.executor.input, "temp": self.executor.temp}
        if not name or name.startswith("/") or ".." in name or kind not in roots:
            return web.Response(status=400)
        path = roots[kind] / request.query.get("subfolder", "") / Path(name).name
        if not path.resolve().is_relative_to(roots[kind].resolve()):
            return web.Response(status=403)
        if path.is_file() and self._take("cut_views"):
            half = web.StreamResponse(headers={"Content-Length": str(path.stat().st_size)})
            await half.prepare(request)
            await half.write(path.read_bytes()[: path.stat().st_size // 2])
            request.transport.abort()  # type: ignore[union-attr]
            return half
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image = form.get("image")
        if not isinstance(image, web.FileField):
            return web.Response(status=400)
        kind, subfolder = str(form.get("type") or "input"), str(form.get("subfolder") or "")
        root = {"input": self.executor.input, "temp": self.executor.temp, "output": self.executor.output}[kind]
        folder = (root / subfolder).resolve()
        if not folder.is_relative_to(root.resolve()):
            return web.Response(status=400)
        data, name = image.file.read(), image.filename
        folder.mkdir(parents=True, exist_ok=True)
        stem, suffix, index = Path(name).stem, Path(name).suffix, 1
        while form.get("overwrite") not in ("true", "1") and (folder / name).exists():
            if (folder / name).read_bytes() == data:
                break
            name, index = f"{stem} ({index}){suffix}", index + 1
        (folder / name).write_bytes(data)
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    async def _object_info(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        names = [name] if name in NODES else list(NODES) if name is None else []
        return web.json_response({class_type: object_info(class_type) for class_type in names})

    async def _system_stats(self, _: web.Request) -> web.Response:
        system = {"os": "posix", "ram_total": 1 << 33, "ram_free": self.ram_free, "comfyui_version": "0.3.75"}
        system |= {"python_version": "3.11", "pytorch_version": "2.9.0+cpu", "argv": ["main.py", "/opt/secret"]}
        device = {"name": "cpu", "type": "cpu", "index": None, "vram_total": 1 << 33, "vram_free": 1 << 32}
        return web.json_response({"system": system, "devices": [device]})

    async def _logs(self, _: web.Request) -> web.Response:
        entries = [{"t": "2026-01-01T00:00:00", "m": text} for text in self.log_entries]
        return web.json_response({"entries": entries, "size": {"cols": 80, "rows": 24}})

    async def _features(self, _: web.Request) -> web.Response:
        return web.json_response({"supports_preview_metadata": True, "max_upload_size": 104857600})


async def _serve(port: int, folder: Path) -> None:
    async with FakeComfyUI(folder, port=port) as fake:
        print(fake.base_url, flush=True)
        await fake.died.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A fake ComfyUI.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.folder or Path(tempfile.mkdtemp(prefix="fake-comfyui-"))))
