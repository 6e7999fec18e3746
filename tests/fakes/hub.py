"""A small Hugging Face on loopback, as its own client sees it: commits with plain and LFS files, downloads that
redirect to another host (the CDN), tokens. No server of its kind can be installed; this follows the client's requests.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self

import huggingface_hub.constants
import pytest
from aiohttp import web

TOKEN = "hf_test_token"


@pytest.fixture
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client without the hub's newer protocol for large files, which no stand-in speaks."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@dataclass(slots=True)
class FakeHub:
    """An async context manager. Files named in ``lfs`` (by suffix) come by LFS, those in ``ignored`` the repository
    excludes. ``failures`` are the statuses of the next commits, 0 for a good one; one that is cutting breaks the
    connection at a commit. ``files`` is ``{(type, repo, revision): {path: content}}``, made with a repository;
    ``asked`` has every request: host, method, path, its ``Authorization``."""

    lfs: tuple[str, ...] = (".bin", ".safetensors")
    ignored: tuple[str, ...] = ()
    failures: list[int] = field(default_factory=list)
    cutting: bool = False
    files: dict[tuple[str, str, str], dict[str, bytes]] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    port: int = 0
    _objects: dict[str, bytes] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/api/{kind}s/{owner}/{name}/preupload/{revision}", self._preupload)
        app.router.add_post("/api/{kind}s/{owner}/{name}/commit/{revision}", self._commit)
        app.router.add_post("/{repo:.+}.git/info/lfs/objects/batch", self._batch)
        app.router.add_put("/lfs/{oid}", self._put)
        app.router.add_get("/cdn/{oid}", self._cdn)
        app.router.add_get("/{above:(?:datasets/)?}{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def repo(self, name: str, *, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Make a repository; what is in its dictionary is in it."""
        return self.files.setdefault((kind, name, revision), {})

    def _admitted(self, request: web.Request) -> None:
        authorization = request.headers.get("Authorization", "")
        self.asked.append((request.host.partition(":")[0], request.method, request.path, authorization))
        if authorization != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized(headers={"X-Error-Message": "Invalid user token"})

    def _content(self, request: web.Request, kind: str) -> dict[str, bytes]:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        found = self.files.get((kind, name, request.match_info["revision"]))
        if found is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return found

    async def _preupload(self, request: web.Request) -> web.Response:
        self._admitted(request)
        self._content(request, request.match_info["kind"])
        asked = (await request.json())["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(self.lfs) else "regular",
                "shouldIgnore": bool(self.ignored) and file["path"].endswith(self.ignored),
                "oid": None,
            }
            for file in asked
        ]
        return web.json_response({"files": modes})

    async def _batch(self, request: web.Request) -> web.Response:
        self._admitted(request)
        objects = []
        for one in (await request.json())["objects"]:
            actions = {"upload": {"href": f"{self.endpoint}/lfs/{one['oid']}"}}
            objects.append({"oid": one["oid"], "size": one["size"], "authenticated": True, "actions": actions})
        return web.json_response({"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json")

    async def _put(self, request: web.Request) -> web.Response:
        content = await request.read()
        if hashlib.sha256(content).hexdigest() != request.match_info["oid"]:
            raise web.HTTPBadRequest
        self._objects[request.match_info["oid"]] = content
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        self._admitted(request)
        repo = self._content(request, request.match_info["kind"])
        lines = [json.loads(line) for line in (await request.text()).splitlines() if line]
        if self.failures and (status := self.failures.pop(0)):
            return web.Response(status=status)
        if self.cutting:
            assert request.transport is not None
            request.transport.abort()
        added = dict(self._added(line) for line in lines if line["key"] != "header")
        repo |= added
        self.commits.append(sorted(added))
        oid = hashlib.sha1(repr(self.commits).encode()).hexdigest()
        above = "datasets/" if request.match_info["kind"] == "dataset" else ""
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        url = f"{self.endpoint}/{above}{name}/commit/{oid}"
        return web.json_response({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _added(self, line: dict[str, Any]) -> tuple[str, bytes]:
        value = line["value"]
        if line["key"] == "lfsFile":
            return value["path"], self._objects[value["oid"]]
        return value["path"], base64.b64decode(value["content"])

    async def _resolve(self, request: web.Request) -> web.Response:
        """Large files are elsewhere, under URLs that need no token."""
        self._admitted(request)
        content = self._content(request, "dataset" if request.match_info["above"] else "model").get(
            request.match_info["path"]
        )
        if content is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        oid = hashlib.sha256(content).hexdigest()
        self._objects[oid] = content
        return web.Response(status=302, headers={"Location": f"http://cdn.example:{self.port}/cdn/{oid}"})

    async def _cdn(self, request: web.Request) -> web.Response:
        self.asked.append(
            (request.host.partition(":")[0], "GET", request.path, request.headers.get("Authorization", ""))
        )
        return web.Response(body=self._objects[request.match_info["oid"]], content_type="application/octet-stream")
