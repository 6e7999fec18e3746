"""A ComfyUI that the operator's own command starts (``CMD``): what the command is told, and what is known of it.

The command is run as it is, without a shell, in ComfyUI's folder, and should listen where it is told. Where its files
lie is found out when it answers.
"""

import logging
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp
import psutil

from lib.comfy.install import reachable, url_of
from lib.comfy.liveness import Stats
from lib.comfy.located import locate
from lib.comfy.ports import Folders
from lib.settings import EngineSettings, SettingsError

log = logging.getLogger(__name__)

USUAL_PORT = 8188
"""ComfyUI's own choice, for a command that says nothing."""
USUAL_ROOT = Path("/opt/ComfyUI")
"""Where comfyui-api's images have ComfyUI; the command is run there unless ``COMFY_HOME`` says otherwise."""
QUIET = {"WEB_ENABLE_AUTH": "false", "CF_QUICK_TUNNELS": "false"}
"""What comfyui-api tells its command, for images whose start script would put a login or a tunnel in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    """How the command is run; a ``lib.comfy.ports.Start``."""

    name: str
    words: tuple[str, ...]
    cwd: Path
    listen: str
    log: Path
    record: Path
    settings: EngineSettings = field(repr=False)
    folders: Folders | None = None
    fixed_port: bool = True
    """Its port may be written in it, and can't be changed."""

    @property
    def host(self) -> str:
        return reachable(self.listen)

    def command(self, port: int) -> tuple[str, ...]:
        return self.words

    def environment(self, port: int) -> Mapping[str, str]:
        return {**QUIET, "DIRECT_ADDRESS": self.listen, "COMFYUI_PORT_HOST": str(port)}

    def base_url(self, port: int) -> str:
        return url_of(self.host, port)

    def make_folders(self) -> None:
        """Make the log's. Blocks."""
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def is_ours(self, stats: Stats, *, pid: int, port: int) -> bool:
        """Whether the command, or what it started, listens there, and not somebody else's ComfyUI. Blocks a little."""
        return listens(pid, port)

    async def shared(self, stats: Stats, *, port: int, http: aiohttp.ClientSession) -> Folders | None:
        return await locate(stats, base_url=self.base_url(port), local=True, http=http, settings=self.settings)


def plan_command(settings: EngineSettings, command: str) -> tuple[Commanded, int]:
    """Lay out the one process, and its port. Blocks. Raises: SettingsError."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise SettingsError(f"CMD={command!r}: {error}") from error
    if not words:
        raise SettingsError(f"CMD={command!r}: expected a command that starts ComfyUI")
    if settings.processes > 1:
        raise SettingsError(f"COMFYUI_PROCESSES={settings.processes}: CMD starts one ComfyUI; unset one of them")
    if settings.args:
        log.warning("COMFYUI_ARGS is for a ComfyUI without CMD, ignored", extra={"event": "comfyui.args_ignored"})
    workspace, root = settings.workspace.resolve(), settings.install_path or USUAL_ROOT
    name = "comfyui-1"
    here = Commanded(
        name=name,
        words=words,
        cwd=root.resolve() if root.is_dir() else workspace,
        listen=settings.address,
        log=workspace / "logs" / f"{name}.log",
        record=workspace / "run" / f"{name}.json",
        settings=settings,
    )
    chosen = settings.port if "port" in settings.model_fields_set else _own_port(words)
    return here, chosen


def _own_port(words: tuple[str, ...]) -> int:
    named = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if word.startswith("--port="))
    port = named.get("--port", "")
    return int(port) if port.isdigit() else USUAL_PORT


def listens(pid: int, port: int) -> bool:
    """Whether a process, one that it started, or one of its session has a listening socket there. One that may not be
    looked into, as it runs under another user, is believed to be the one. Blocks."""
    unseen = False
    for process in _family(pid):
        try:
            found = process.net_connections("tcp")
        except psutil.AccessDenied:
            unseen = True
        except psutil.Error:
            continue
        else:
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found):
                return True
    return unseen


def _family(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True), *_session(pid)]
    except psutil.Error:
        return _session(pid)


def _session(pid: int) -> list[psutil.Process]:
    """What lost its parent stays in the session that the command leads."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError):
            if os.getsid(process.pid) == pid:
                found.append(process)
    return found
