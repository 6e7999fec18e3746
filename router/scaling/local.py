"""Workers as processes of this machine: each has a place, ports of its own, a ComfyUI of its own (unless it is told of
one), the place's folder with its log, and a pid file there, so that a router that comes after a crash finds them again.

One that dies is started again in its place, a few times; one that shall go gets SIGTERM, on which a worker of ours
finishes what it has, and is killed when it takes too long.
"""

import asyncio
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil

from lib.clock import Clock
from lib.lifecycle import Tasks
from lib.settings import child_environment
from router.kept import write_private
from router.scaling.ports import Instance, InstanceState, Launch, ProviderFailed
from router.scaling.provider_settings import LocalProvider

log = logging.getLogger(__name__)

RECORD = "worker.json"
DEATHS = 3
"""So often a place may lose its worker within ``DEATHS_S``; then it rests as long."""
DEATHS_S = 300.0
RESTART_S = 1.0
LOOK_S = 1.0
"""Where the system can't tell of the end of a process that is not our child."""
OURS = "ROUTER_"
"""Variables that are the router's own business."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """A worker that runs. ``created`` tells its process from a later one of the same pid."""

    id: int
    place: int
    launch: Launch
    pid: int
    created: float
    started_at: float
    process: asyncio.subprocess.Process | None = None
    leaving: bool = False
    again: bool = False
    """It ends to be started again."""


@dataclass(slots=True)
class _Place:
    """Where a worker may run: its environment, and when workers died there (monotonic)."""

    environment: Mapping[str, str]
    deaths: deque[float] = field(default_factory=deque)


class LocalProcesses:
    """Implements ``Provider`` for one group. ``number`` gives ids that no worker had before."""

    keeps_stopped = False
    fresh_s = 0.0

    def __init__(
        self,
        settings: LocalProvider,
        *,
        folder: Path,
        root: Path,
        launch_of: Callable[[], Launch],
        number: Callable[[], Awaitable[int]],
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._root = root
        self._launch_of = launch_of
        self._number = number
        self._clock = clock
        self._tasks = tasks
        self._places = [_Place(environment) for environment in settings.each]
        self._runs: dict[int, _Run] = {}
        self._gone = asyncio.Event()
        self._looked = False
        self._closing = False

    async def start(self, count: int, launch: Launch) -> Sequence[Instance]:
        if self._closing:
            raise ProviderFailed("The router stops.")
        now = self._clock.monotonic()
        taken = {run.place for run in self._runs.values()}
        free = [number for number in range(len(self._places)) if number not in taken and not self._rests(number, now)]
        if not free:
            raise ProviderFailed("Every place is taken, or lost its worker too often lately; see the workers' logs.")
        return [
            self._shown(await self._begin(await self._number(), place=place, launch=launch)) for place in free[:count]
        ]

    async def resume(self, instance: int, launch: Launch) -> None:
        raise ProviderFailed("Processes can't be stopped and resumed.")

    async def restart(self, instance: int, launch: Launch) -> None:
        run = self._runs.get(instance)
        if run is None:
            raise ProviderFailed(f"There is no worker {instance} here.")
        run.again, run.launch = True, launch
        self._end(run)

    async def stop(self, instance: int) -> None:
        raise ProviderFailed("Processes can't be stopped and resumed.")

    async def remove(self, instance: int) -> None:
        if (run := self._runs.get(instance)) is not None:
            run.again = False
            self._end(run)

    async def list(self) -> Sequence[Instance]:
        if not self._looked:
            await self._adopt()
        return [self._shown(run) for run in self._runs.values()]

    async def _adopt(self) -> None:
        """Take over the workers that an earlier router started and left."""
        self._looked = True
        for run in await asyncio.to_thread(_found, self._folder, self._launch_of()):
            if run.place < len(self._places):
                self._runs[run.id] = run
                self._tasks.spawn(self._watch_found(run), name=f"worker {run.id}")
                log.info("worker found again", extra={"event": "scaling.adopted", "worker": run.id, "pid": run.pid})

    async def close(self) -> None:
        """Let the workers finish, unless they are to outlive the router."""
        self._closing = True
        if self._settings.keep_running:
            return
        for run in tuple(self._runs.values()):
            self._end(run)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_time + 5.0):
                while self._runs:
                    self._gone.clear()
                    await self._gone.wait()

    # -- processes ----------------------------------------------------------------------------------------------------

    async def _begin(self, number: int, *, place: int, launch: Launch) -> _Run:
        folder = self._folder / str(place)
        environment = {
            **_own(number, workspace=folder, address=self._settings.address),
            **launch.environment,
            **self._settings.env,
            **self._places[place].environment,
        }
        filled = {name: _filled(value, number, place, environment) for name, value in environment.items()}
        inherited = {name: value for name, value in child_environment({}).items() if not name.startswith(OURS)}
        working = self._root / self._settings.folder
        try:
            out = await asyncio.to_thread(_log_file, folder)
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._settings.command,
                    cwd=working,
                    env=inherited | filled,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            finally:
                os.close(out)
            run = _Run(
                id=number,
                place=place,
                launch=launch,
                pid=process.pid,
                created=await asyncio.to_thread(_created, process.pid),
                started_at=self._clock.now().timestamp(),
                process=process,
            )
            self._runs[number] = run
            await asyncio.to_thread(_record, folder, run)
        except OSError as error:
            raise ProviderFailed(f"{self._settings.command[0]} can't be started: {error.strerror}") from error
        log.info("worker started", extra={"event": "scaling.process", "worker": number, "pid": run.pid})
        self._tasks.spawn(self._watch(run, process), name=f"worker {number}")
        if self._closing and not self._settings.keep_running:  # meanwhile
            self._end(run)
        return run

    async def _watch(self, run: _Run, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        await self._ended(run, f"it ended with {status}")

    async def _watch_found(self, run: _Run) -> None:
        """It is nobody's child here."""
        if hasattr(os, "pidfd_open"):
            await _end_of(run.pid)
        while (await asyncio.to_thread(_living, [run]))[0]:
            await self._clock.sleep(LOOK_S)
        await self._ended(run, "it ended")

    async def _ended(self, run: _Run, how: str) -> None:
        """Its place stays its own if it is started again."""
        await asyncio.to_thread((self._folder / str(run.place) / RECORD).unlink, missing_ok=True)
        if not run.leaving:
            self._places[run.place].deaths.append(self._clock.monotonic())
            run.again = not self._rests(run.place, self._clock.monotonic())
            words = {"event": "scaling.died", "worker": run.id, "how": how, "again": run.again}
            log.warning("worker died", extra=words)
            await self._clock.sleep(RESTART_S if run.again else 0.0)
        if run.again and not self._closing:
            try:
                await self._begin(run.id, place=run.place, launch=run.launch)
            except ProviderFailed as error:
                log.warning("worker is not started again", extra={"event": "scaling.lost", "reason": error.message})
            else:
                return
        self._runs.pop(run.id, None)
        self._gone.set()

    def _end(self, run: _Run) -> None:
        """SIGTERM now, SIGKILL for its whole session when it takes too long."""
        if run.leaving:
            return
        run.leaving = True
        _signal(run, signal.SIGTERM)
        self._tasks.spawn(self._kill_later(run), name=f"end of worker {run.id}")

    async def _kill_later(self, run: _Run) -> None:
        await self._clock.sleep(self._settings.drain_time)
        if self._runs.get(run.id) is run:
            log.warning("worker did not end in time", extra={"event": "scaling.killed", "worker": run.id})
            _signal(run, signal.SIGKILL)

    def _rests(self, place: int, now: float) -> bool:
        deaths = self._places[place].deaths
        while deaths and deaths[0] < now - DEATHS_S:
            deaths.popleft()
        return len(deaths) >= DEATHS

    def _shown(self, run: _Run) -> Instance:
        state = InstanceState.LEAVING if run.leaving and not run.again else InstanceState.RUNNING
        return Instance(
            id=run.id, state=state, started_at=run.started_at, detail=f"process {run.pid} in place {run.place}"
        )


def _own(number: int, *, workspace: Path, address: str) -> dict[str, str]:
    """What makes a worker one of its own on a machine that has several."""
    public, plain, api = _free_ports(3)
    return {
        "SERVERLESS": "true",
        "CONTAINER_ID": str(number),
        "WORKER_HOST": address,
        "PUBLIC_IPADDR": address,
        "WORKER_PORT": str(public),
        "WORKER_HTTP_PORT": str(plain),
        "API_PORT": str(api),
        "USE_SSL": "false",
        "COMFYUI_PORT": "0",
        "WORKSPACE_DIR": str(workspace),
        "FORCE_UPDATE_PATH": str(workspace / "force_update"),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _filled(value: str, number: int, place: int, environment: Mapping[str, str]) -> str:
    for name, text in (("{id}", number), ("{place}", place), ("{port}", environment["WORKER_PORT"])):
        value = value.replace(name, str(text))
    return value


def _log_file(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:  # it has ended already, and is watched
        return 0.0


def _record(folder: Path, run: _Run) -> None:
    told = {"id": run.id, "pid": run.pid, "created": run.created, "place": run.place, "started_at": run.started_at}
    write_private(folder / RECORD, orjson.dumps(told))


def _found(folder: Path, launch: Launch) -> list[_Run]:
    """Workers whose record is there and whose process lives; other records are thrown away. Blocks."""
    runs: list[_Run] = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            run = _Run(launch=launch, **orjson.loads(path.read_bytes()))
        except (ValueError, TypeError, OSError):
            continue
        if _living([run])[0]:
            runs.append(run)
        else:
            path.unlink(missing_ok=True)
    return runs


async def _end_of(pid: int) -> None:
    """Wait for the end of a process that need not be our child (Linux)."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _living(runs: Sequence[_Run]) -> list[bool]:
    return [run.created > 0 and _created(run.pid) == run.created and _runs(run.pid) for run in runs]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(run: _Run, number: signal.Signals) -> None:
    """To the process, which tells its children; the last one to its whole session."""
    if run.process is None and not _living([run])[0]:
        return
    with suppress(ProcessLookupError, PermissionError):
        if number is signal.SIGKILL:
            os.killpg(run.pid, number)
        elif run.process is not None:
            run.process.send_signal(number)
        else:
            os.kill(run.pid, number)
