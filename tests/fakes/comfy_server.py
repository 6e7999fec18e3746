"""A ``lib.comfy.ports.Server`` over a ComfyUI that a test owns: attached, with hooks for its end and its restarts."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from lib.comfy.ports import CareAction, DownListener, Folders
from lib.errors import EngineUnreachable


class OwnedServer:
    """``restarter`` restarts that ComfyUI; without it a restart is impossible. ``restarts`` lists the reasons.
    ``supervised``: it answers as long as its process runs, as the supervisor of one sees it."""

    def __init__(
        self,
        base_url: str,
        *,
        folders: Folders | None,
        restarter: Callable[[], Coroutine[Any, Any, None]] | None = None,
        name: str = "comfyui-test",
        supervised: bool = False,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.restarts: list[str] = []
        self.down_reason: str | None = None
        self.lines: list[str] = []
        self.generation = 1
        self.pid: int | None = None
        self._folders = folders
        self._restarter = restarter
        self._supervised = supervised
        self._callbacks: list[DownListener] = []
        self._up = asyncio.Event()
        self._up.set()

    @property
    def folders(self) -> Folders | None:
        return self._folders

    @property
    def restartable(self) -> bool:
        return self._restarter is not None

    def log_tail(self, lines: int = 50) -> tuple[str, ...]:
        return tuple(self.lines[-lines:])

    def on_down(self, callback: DownListener) -> None:
        self._callbacks.append(callback)

    async def restart(self, reason: str, *, planned: bool = False) -> bool:
        if self._restarter is None:
            raise EngineUnreachable("this ComfyUI is not ours to restart")
        self.restarts.append(reason)
        await asyncio.create_task(self._restarter(), name="test.restart")  # a stack of its own
        self.generation += 1
        return True

    def went_down(self, reason: str, action: CareAction | None = None) -> None:
        """The test ended the process and says so, as a supervisor would."""
        self.down_reason = reason
        self._up.clear()
        for callback in self._callbacks:
            callback(reason, action)

    def came_back(self) -> None:
        self.down_reason = None
        self._up.set()

    async def wait_answering(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                await self._up.wait()
                if self._supervised:
                    return
                try:
                    async with http.get(f"{self.base_url}/system_stats") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
