"""A ComfyUI that somebody else started and supervises: found, waited for, restarted through a command."""

import asyncio
import logging
import shlex
from ipaddress import ip_address

import aiohttp
from yarl import URL

from lib.clock import Clock, SystemClock
from lib.comfy.liveness import until_answering
from lib.comfy.located import locate
from lib.comfy.ports import DownListener, Folders
from lib.errors import EngineUnreachable
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

RESTART_CMD_TIMEOUT_S = 60.0


class AttachedServer:
    """A ``Server`` behind a base URL. Its life is seen by the engine's socket; this asks over HTTP only when told to.

    ``folders`` are found when it first answers, and believed only after a file uploaded to ComfyUI has been seen there.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        http: aiohttp.ClientSession,
        settings: EngineSettings,
        restart_cmd: str | None,
        alone: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """``alone``: there is no other ComfyUI, so that our start fails if this one never answers."""
        self.name = name
        self.base_url = base_url.rstrip("/")
        self._http = http
        self._settings = settings
        self._alone = alone
        self._restart_cmd = restart_cmd
        self._clock = clock or SystemClock()
        self._folders: Folders | None = None
        self._located = False
        self._generation = 1
        self._down_reason: str | None = None
        self._callbacks: list[DownListener] = []
        self._restarting = False

    @property
    def folders(self) -> Folders | None:
        return self._folders

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def pid(self) -> int | None:
        return None

    @property
    def restartable(self) -> bool:
        return self._restart_cmd is not None

    @property
    def down_reason(self) -> str | None:
        return self._down_reason

    def log_tail(self, lines: int = 50) -> tuple[str, ...]:
        return ()

    def on_down(self, callback: DownListener) -> None:
        self._callbacks.append(callback)

    async def wait_answering(self) -> None:
        """Return when it answers; once it has, a later absence is waited for without limit.

        Raises: EngineUnreachable when the only one did not within ``COMFYUI_STARTUP_TIMEOUT_S`` of our start, or as
        often as ``COMFY_API_AVAILABLE_MAX_RETRIES`` says."""
        first = self._alone and not self._located
        limit_s = self._settings.startup_timeout_s if first else None
        try:
            async with asyncio.timeout(limit_s):
                stats = await until_answering(
                    self._http,
                    self.base_url,
                    name=self.name,
                    clock=self._clock,
                    pause_s=self._settings.probe_interval_ms / 1000,
                    attempts=self._settings.probe_attempts if first else 0,
                )
        except TimeoutError as error:
            within = str(error) or f"{limit_s:g} s (COMFYUI_STARTUP_TIMEOUT_S)"
            raise EngineUnreachable(f"ComfyUI at {self.base_url} did not answer within {within}") from error
        self._down_reason = None
        if not self._located:
            local = is_loopback(self.base_url)
            self._folders = await locate(
                stats, base_url=self.base_url, local=local, http=self._http, settings=self._settings
            )
            self._located = True
            facts = {"engine": self.name, "base_url": self.base_url, "file_access": self._folders is not None}
            log.info("attached to ComfyUI", extra={"event": "comfyui.attached"} | facts)

    async def restart(self, reason: str, *, planned: bool = False) -> bool:
        if self._restart_cmd is None:
            raise EngineUnreachable(
                f"ComfyUI at {self.base_url} needs a restart ({reason}) and is not ours to restart; "
                "set COMFYUI_RESTART_CMD or restart it by hand"
            )
        if self._restarting:
            return False
        self._restarting, self._down_reason = True, reason
        try:
            await self._run_restart_cmd(self._restart_cmd)
        except EngineUnreachable:
            self._down_reason = None  # it runs on as it was, with all that is in it
            raise
        finally:
            self._restarting = False
        self._generation += 1
        if self._down_reason is not None:  # not seen to answer again meanwhile
            for callback in self._callbacks:
                callback(reason, None)
        return True

    async def _run_restart_cmd(self, command: str) -> None:
        """Run it to its end. Raises: EngineUnreachable when it fails."""
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except (OSError, ValueError) as error:
            raise EngineUnreachable(f"COMFYUI_RESTART_CMD={command!r} can't be run: {error}") from error
        try:
            async with asyncio.timeout(RESTART_CMD_TIMEOUT_S):
                said, _ = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise EngineUnreachable(f"COMFYUI_RESTART_CMD did not end within {RESTART_CMD_TIMEOUT_S:g} s") from error
        if process.returncode:
            last = said.decode("utf-8", "replace").strip()[-200:]
            raise EngineUnreachable(f"COMFYUI_RESTART_CMD ended with exit code {process.returncode}: {last}")


def is_loopback(base_url: str) -> bool:
    """Whether a server is on this host, by its URL."""
    host = URL(base_url).host or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
