"""The demo's processes: started with an environment of their own, watched, and all ended with the block."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from router.demo.settings import ROOT

END_S = 8.0
"""A round of processes has so long to end by itself."""
LOG_LINES = 12
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


class DemoFailed(Exception):
    """The demo can't go on; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process; ``log`` is where it writes. ``needed``: others need it, so it ends after them."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    needed: bool


class Children:
    """An async context manager: whatever was started in it has ended after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []
        self._logs = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for needed in (False, True):
            await self._end([child for child in self._children if child.needed is needed])
        await self._logs.aclose()

    async def _end(self, children: Sequence[Child]) -> None:
        for child in children:
            self._signal(child, signal.SIGTERM)
        try:
            async with asyncio.timeout(END_S):
                for child in children:
                    await child.process.wait()
        except TimeoutError:
            for child in children:
                self._signal(child, signal.SIGKILL)
                await child.process.wait()

    async def start(self, name: str, *command: str, env: Mapping[str, str], needed: bool = False) -> Child:
        """Start Python with these arguments. Ctrl-C in the terminal does not reach it: we end it in order."""
        log = self._folder / f"{name}.log"
        out = await asyncio.to_thread(log.open, "ab")
        self._logs.callback(out.close)
        given = dict(os.environ)  # noqa: TID251 - handed on to children, a few of them
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**{key: given[key] for key in INHERITED if key in given}, "PYTHONUNBUFFERED": "1", **env},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        child = Child(name=name, process=process, log=log, needed=needed)
        self._children.append(child)
        return child

    async def watch(self) -> None:
        """Return when told to; a process that ends by itself ends the demo. Raises: DemoFailed."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(_outlive(child))

    def _signal(self, child: Child, number: signal.Signals) -> None:
        if child.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, number)


async def _outlive(child: Child) -> None:
    status = await child.process.wait()
    text = await asyncio.to_thread(child.log.read_text, errors="replace")
    tail = "\n".join(text.splitlines()[-LOG_LINES:])
    raise DemoFailed(f"{child.name} ended with status {status}. The end of {child.log}:\n{tail}")


def free_port(wanted: int = 0) -> int:
    """The wanted port of the loopback if nobody has it, else a free one."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])
