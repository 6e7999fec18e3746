"""What a ComfyUI tells of its models, over real folders; and a web host that serves models, and breaks off.

Both are async context managers on loopback.
"""

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
from aiohttp import web

SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
GGUF = frozenset({".gguf"})


def safetensors(size_bytes: int = 64, *, seed: int = 0) -> bytes:
    """A real file of one tensor of so many bytes."""
    tensor = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}
    header = orjson.dumps({"w": tensor, "__metadata__": {"seed": str(seed)}})
    data = hashlib.shake_128(str(seed).encode()).digest(size_bytes)
    return struct.pack("<Q", len(header)) + header + data


@dataclass(slots=True)
class _Server:
    """A web application on a free port."""

    port: int = field(default=0, init=False)
    _runner: web.AppRunner | None = field(default=None, init=False)

    def application(self) -> web.Application:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(slots=True)
class ModelComfyUI(_Server):
    """``folders``: its model folders below ``root``, in ComfyUI's order. ``classes``: inputs of its nodes, each the
    name of a folder, a list of choices, or the name of a type. ``further``: choices that come before a folder's."""

    root: Path = field(default_factory=Path)
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    classes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    suffixes: dict[str, frozenset[str]] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/models", self._types)
        app.router.add_get("/models/{folder}", self._models)
        app.router.add_get("/internal/folder_paths", self._paths)
        app.router.add_get("/object_info/{name}", self._info)
        return app

    def put(self, folder: str, name: str, content: bytes = b"the operator's own") -> Path:
        """Have a file in a folder."""
        path = self.root / self.folders[folder][-1] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def listed(self, folder: str) -> list[str]:
        wanted = self.suffixes.get(folder, SUFFIXES)
        paths = [path for where in self.folders[folder] for path in (self.root / where).glob("*")]
        return sorted(path.name for path in paths if path.suffix in wanted)

    async def _types(self, request: web.Request) -> web.Response:
        return web.json_response([*self.folders, "custom_nodes"])

    async def _models(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        self.asked.append(folder)
        return web.json_response(self.listed(folder)) if folder in self.folders else web.Response(status=404)

    async def _paths(self, request: web.Request) -> web.Response:
        told = {name: [str(self.root / where) for where in places] for name, places in self.folders.items()}
        return web.json_response(told | {"custom_nodes": [str(self.root / "custom_nodes")]})

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.classes:
            return web.json_response({})
        inputs = {key: self._declared(given) for key, given in self.classes[name].items()}
        return web.json_response({name: {"input": {"required": inputs}}})

    def _declared(self, given: Any) -> list[Any]:
        if isinstance(given, list):
            return [given]
        if given in self.folders:
            return ["COMBO", {"options": [*self.further, *self.listed(given)]}]
        return [given, {}]


@dataclass(slots=True)
class Asked:
    """One request that the host received."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int = 0


@dataclass(slots=True)
class ModelHost(_Server):
    """Serves ``files`` with tags, ranges and conditions. ``breaks``: so many answers end after ``breaks_after`` bytes;
    ``gate``: bodies wait for it after their first bytes; ``tokens``: what a path wants in ``Authorization``."""

    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    tagged: bool = True
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    breaks: int = 0
    breaks_after: int = 0
    gate: asyncio.Event | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Asked] = field(default_factory=list)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._answer)
        return app

    def url(self, path: str) -> str:
        return f"http://models.example:{self.port}{path}"

    def open(self) -> None:
        """Let all go on, and nobody wait any more."""
        if self.gate is not None:
            self.gate.set()
        self.gate = None

    @property
    def statuses_given(self) -> list[int]:
        return [asked.status for asked in self.asked]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.path, dict(request.query), dict(request.headers))
        self.asked.append(asked)
        response = await self._served(request, asked)
        asked.status = response.status
        return response

    async def _served(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return web.Response(status=status)
        if (target := self.redirects.get(request.path)) is not None:
            return web.Response(status=302, headers={"Location": target})
        if request.headers.get("Authorization", "") != self.tokens.get(request.path, ""):
            return web.Response(status=401)
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        return await self._sent(request, content, asked)

    async def _sent(self, request: web.Request, content: bytes, asked: Asked) -> web.StreamResponse:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.tagged and request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        begin = request.http_range.start or 0
        part = bool(begin) and self.ranges and request.headers.get("If-Range", tag) == tag
        body = content[begin:] if part else content
        headers = {"Content-Length": str(len(body))} | ({"ETag": tag} if self.tagged else {})
        headers |= self.headers.get(request.path, {})
        if part:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if part else 200, headers=headers)
        asked.status = response.status
        await response.prepare(request)
        if self.breaks:
            self.breaks -= 1
            await response.write(body[: self.breaks_after])
            assert request.transport is not None
            request.transport.close()
            return response
        if self.gate is not None:
            await response.write(body[: self.breaks_after])
            self.began.set()
            await self.gate.wait()
            body = body[self.breaks_after :]
        with contextlib.suppress(ConnectionError):  # who asked has left
            await response.write(body)
        return response
