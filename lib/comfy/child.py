"""One operating-system process of ours, with its group: started, found again, waited for, ended. Knows no ComfyUI."""

import asyncio
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import orjson
import psutil

from lib.clock import Clock

CREATED_TOLERANCE_S = 5.0
"""The system derives a process's start time from its boot time, which moves a little when its clock is set."""
GONE_POLL_S = 1.0


class Child:
    """A process that leads its own session and group, so that what it starts can be ended with it."""

    def __init__(self, pid: int, wait: Callable[[], Awaitable[int | None]]) -> None:
        self.pid = pid
        self._wait = wait

    @classmethod
    async def spawn(cls, command: Sequence[str], *, cwd: Path, env: dict[str, str], log: IO[bytes]) -> Self:
        """Start ``command``; its output goes to ``log``, a file, so that it outlives us without a broken pipe."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        return cls(process.pid, process.wait)

    @classmethod
    def found(cls, pid: int, clock: Clock) -> Self:
        """Take a process over that somebody else started; its exit code can't be known."""
        return cls(pid, lambda: _gone(pid, clock))

    async def wait(self) -> int | None:
        """Return the exit code (negative: the signal) once it has ended; ``None`` where it can't be known."""
        return await self._wait()

    async def end(self, *, patience_s: float) -> None:
        """Ask it to stop, twice and with ``patience_s`` each, then insist; returns when it is gone."""
        for sign, wait_s in ((signal.SIGINT, patience_s), (signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            self.signal_group(sign)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.wait()
                break
        self.signal_group(signal.SIGKILL)

    def signal_group(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sign)


async def _gone(pid: int, clock: Clock) -> None:
    """Wait until a process that is not our child has ended."""
    if not hasattr(os, "pidfd_open"):  # not Linux
        while psutil.pid_exists(pid):
            await clock.sleep(GONE_POLL_S)
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Who runs where, ``<workspace>/run/<name>.json``: finds a process again after we were killed.

    Keys: ``pid``, ``created`` (start time, epoch seconds), ``port``, ``command``, and ``output``, ``input``, ``temp``
    (its folders, empty where they are not known; ``lib.upkeep`` reads them). ``changeable``: the command may replace
    itself by another program, as start scripts do, so that only its session tells it.
    """

    pid: int
    created: float
    port: int
    command: tuple[str, ...]
    output: str
    input: str
    temp: str
    changeable: bool = False

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_bytes(orjson.dumps(self))
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        try:
            values = orjson.loads(path.read_bytes())
            return cls(**values | {"command": tuple(values["command"])})
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
            return None

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the record if its process still runs. Blocks a little."""
        record = cls.read(path)
        return record if record is not None and record.alive() else None

    def alive(self) -> bool:
        """Whether that very process still runs (not another one that was given its number)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < CREATED_TOLERANCE_S
            if not same or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if self.changeable:
                return os.getsid(self.pid) == self.pid
            return process.cmdline()[1:] == list(self.command[1:])
        except (psutil.Error, ProcessLookupError):
            return False


def created_at(pid: int) -> float:
    """Start time of a process in epoch seconds; 0 when it has already gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


class Claim:
    """The right to supervise one process name in a workspace, held as a file lock that dies with us."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Return the claim, or None when another worker holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        return cls(path, handle)

    def release(self) -> None:
        self._handle.close()
