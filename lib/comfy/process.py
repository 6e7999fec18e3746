"""A ComfyUI that we start: supervised, restarted with back-off, found again after we were killed.

What is started, and how it is known again, is a ``Start``: ``lib.comfy.install.Launch`` for a command line of ours,
``lib.comfy.commanded.Commanded`` for the operator's.
"""

import asyncio
import logging
import re
import signal

import aiohttp

from lib.clock import Clock, SystemClock
from lib.comfy.child import Child, Claim, RunRecord, created_at
from lib.comfy.faults import is_dead_executor
from lib.comfy.liveness import Stats, until_answering
from lib.comfy.logfile import FollowedLog
from lib.comfy.ports import CareAction, DownListener, Folders, Start
from lib.comfy.restarts import RestartPolicy, free_port, is_taken
from lib.errors import EngineDied, EngineUnreachable, ServiceError
from lib.settings import child_environment

log = logging.getLogger(__name__)

PORT_TAKEN = re.compile(r"Errno 98|Errno 48|address already in use", re.IGNORECASE)
USAGE_ERROR = 2
"""Exit code of a ComfyUI that does not like its flags: trying again can't help."""


class LaunchedServer:
    """A ``Server`` whose process is ours. ``run`` is its supervising loop: a vital task, and the only starter.

    ``base_url`` is final once it first answered: a port that is taken meanwhile makes it move on.
    """

    def __init__(
        self,
        launch: Start,
        *,
        port: int,
        claim: Claim,
        http: aiohttp.ClientSession,
        policy: RestartPolicy,
        clock: Clock | None = None,
        log_poll_s: float = 0.5,
    ) -> None:
        self.name = launch.name
        self.base_url = launch.base_url(port)
        self._launch = launch
        self._port = port
        self._claim = claim
        self._http = http
        self._policy = policy
        self._clock = clock or SystemClock()
        self._log = FollowedLog(launch.log, clock=self._clock, poll_s=log_poll_s)
        self._folders = launch.folders
        self._generation = 0
        self._down_reason: str | None = None
        self._callbacks: list[DownListener] = []
        self._child: Child | None = None
        self._answering = asyncio.Event()
        self._end_wanted = asyncio.Event()
        self._failure: ServiceError | None = None
        self._answered_at: float | None = None
        self._ever_answered = False
        self._failures = 0
        self._reason = ""
        self._planned = False
        self._port_taken = False

    @property
    def folders(self) -> Folders | None:
        return self._folders

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def down_reason(self) -> str | None:
        return self._down_reason

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child else None

    @property
    def restartable(self) -> bool:
        return self._failure is None

    @property
    def command(self) -> tuple[str, ...]:
        """What it is started with."""
        return self._launch.command(self._port)

    def log_tail(self, lines: int = 50) -> tuple[str, ...]:
        return self._log.tail(lines)

    def on_down(self, callback: DownListener) -> None:
        self._callbacks.append(callback)

    async def wait_answering(self) -> None:
        """Return when it answers. Raises: EngineDied, EngineUnreachable when it was given up."""
        await self._answering.wait()
        if self._failure is not None:
            raise self._failure

    async def restart(self, reason: str, *, planned: bool = False) -> bool:
        if self._failure is not None:
            raise EngineUnreachable(f"{self.name} was given up: {self._failure.message}")
        return self._end(reason, planned=planned)

    def _end(self, reason: str, *, planned: bool = False, action: CareAction | None = None) -> bool:
        """Have a process that answers ended; one that is on its way up or down already gets there by itself."""
        if not self._answering.is_set():
            return False
        self._reason, self._planned = reason, planned
        self._end_wanted.set()
        self._went_down(reason, action)
        return True

    async def run(self) -> None:
        """Keep it running until cancelled; then end it.

        Raises: EngineDied when it does not come up at first, or ends and must not be restarted;
        EngineUnreachable when it can't be started at all.
        """
        try:
            await self._supervise()
        except ServiceError as error:
            self._failure = error
            raise
        finally:
            self._failure = self._failure or EngineUnreachable(f"{self.name} is stopped")
            await self.close()
            self._answering.set()

    async def _supervise(self) -> None:
        await asyncio.to_thread(self._launch.make_folders)
        child = await self._found_again()
        while True:
            code = None
            if child is not None or await self._has_its_port():
                code = await self._attend(child or await self._spawn())
            child = None
            await self._before_restart(code)

    async def _has_its_port(self) -> bool:
        """Whether nobody else is where it has to listen; a stranger's ComfyUI there would be taken for ours."""
        launch = self._launch
        if not launch.fixed_port or not await asyncio.to_thread(is_taken, self._port, host=launch.host):
            return True
        self._planned, self._answered_at = False, None
        self._down_reason = f"port {self._port} is taken by another program (COMFYUI_PORT_HOST)"
        return False

    async def _found_again(self) -> Child | None:
        """Look for a process that an earlier life of this worker left running; one with other settings is ended."""
        record = await asyncio.to_thread(RunRecord.find, self._launch.record)
        if record is None:
            return None
        child = Child.found(record.pid, self._clock)
        facts = {"engine": self.name, "pid": record.pid, "port": record.port}
        if record.command != self._launch.command(record.port):
            log.info("ending ComfyUI of other settings", extra={"event": "comfyui.found_other"} | facts)
            await child.end(patience_s=self._policy.patience_s)
            return None
        log.info("found ComfyUI again", extra={"event": "comfyui.found"} | facts)
        await asyncio.to_thread(self._log.skip_to_end)
        self._use_port(record.port)
        self._generation = 1
        return child

    async def _spawn(self) -> Child:
        command = self._launch.command(self._port)
        handle = await asyncio.to_thread(self._log.open_for_child)
        try:
            child = await Child.spawn(
                command, cwd=self._launch.cwd, env=child_environment(self._launch.environment(self._port)), log=handle
            )
        except OSError as error:
            raise EngineUnreachable(f"{self.name} can't be started: {command[0]}: {error.strerror}") from error
        finally:
            handle.close()
        self._child = child
        self._generation += 1
        await asyncio.to_thread(self._write_record, child.pid, command)
        facts = {"engine": self.name, "pid": child.pid, "port": self._port, "log": str(self._launch.log)}
        log.info("ComfyUI started", extra={"event": "comfyui.started"} | facts)
        return child

    def _write_record(self, pid: int, command: tuple[str, ...]) -> None:
        folders = self._folders
        RunRecord(
            pid=pid,
            created=created_at(pid),
            port=self._port,
            command=command,
            output=str(folders.output) if folders else "",
            input=str(folders.input) if folders else "",
            temp=str(folders.temp or "") if folders else "",
            changeable=self._launch.fixed_port,
        ).write(self._launch.record)

    async def _attend(self, child: Child) -> int | None:
        """Stay with one process from its start to its end; return its exit code."""
        self._child = child
        self._answered_at = None
        self._reason = ""
        self._planned = False
        self._port_taken = False
        self._end_wanted.clear()
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._become_ready(child)),
                group.create_task(self._log.follow(self._read_line)),
                group.create_task(self._end_when_wanted(child)),
            ]
            code = await child.wait()
            for task in beside:
                task.cancel()
        child.signal_group(signal.SIGKILL)
        self._child = None
        await self._log.catch_up(self._read_line)
        self._went_down(
            self._reason or f"{_exit_text(code)}{self._stranger()}", self._action(CareAction.RESTARTED_DIED)
        )
        return code

    async def _become_ready(self, child: Child) -> None:
        limit_s = self._policy.startup_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                stats = await self._until_it_answers(child)
                self._folders = await self._launch.shared(stats, port=self._port, http=self._http)
        except TimeoutError:
            self._reason = f"{self.name} did not answer within {limit_s:g} s (COMFYUI_STARTUP_TIMEOUT_S)"
            self._reason += self._stranger()
            await child.end(patience_s=self._policy.patience_s)
            return
        self._answered_at = self._clock.monotonic()
        self._ever_answered = True
        self._down_reason = None
        self._answering.set()
        log.info("ComfyUI answers", extra={"event": "comfyui.ready", "engine": self.name, "base_url": self.base_url})

    async def _until_it_answers(self, child: Child) -> Stats:
        """Wait for the process itself: somebody else may have its port."""
        while True:
            stats = await until_answering(
                self._http,
                self.base_url,
                name=self.name,
                clock=self._clock,
                pause_s=self._policy.probe_s,
                last_line=lambda: "".join(self.log_tail(1)),
            )
            if await asyncio.to_thread(self._launch.is_ours, stats, pid=child.pid, port=self._port):
                return stats
            self._stranger_answers()
            await self._clock.sleep(self._policy.probe_s)

    def _stranger_answers(self) -> None:
        if not self._port_taken:
            log.warning("another ComfyUI answers at this port", extra={"event": "comfyui.stranger", "port": self._port})
        self._port_taken = True

    def _stranger(self) -> str:
        """A cause that only the operator can mend: the port can't be changed."""
        if not self._port_taken or not self._launch.fixed_port:
            return ""
        return f"; port {self._port} is taken by another program (COMFYUI_PORT_HOST)"

    def _read_line(self, line: str) -> None:
        if is_dead_executor(line):
            self._end("ComfyUI's executor thread died", action=self._action(CareAction.RESTARTED_EXECUTOR))
        elif PORT_TAKEN.search(line):
            self._port_taken = True

    async def _end_when_wanted(self, child: Child) -> None:
        await self._end_wanted.wait()
        await child.end(patience_s=self._policy.patience_s)

    def _action(self, action: CareAction) -> CareAction | None:
        """What we do about an end that nobody asked for."""
        return action if self._policy.always_restart else None

    def _went_down(self, reason: str, action: CareAction | None) -> None:
        was_up = self._answering.is_set()
        self._answering.clear()
        self._down_reason = reason
        if was_up:
            for callback in self._callbacks:
                callback(reason, action)

    async def _before_restart(self, code: int | None) -> None:
        """Give up, or pause until it may be started again; a planned end is no failure."""
        if self._planned:
            return
        now = self._clock.monotonic()
        stable = self._answered_at is not None and now - self._answered_at >= self._policy.stable_s
        if not self._ever_answered and self._moved_port():
            return
        self._failures = 1 if stable else self._failures + 1
        never_up = not self._ever_answered and (code == USAGE_ERROR or self._failures >= self._policy.first_attempts)
        if never_up or (self._ever_answered and not self._policy.always_restart):
            what = "does not start" if never_up else "ended and ALWAYS_RESTART_COMFYUI is false"
            tail = self.log_tail()
            raise EngineDied(
                f"{self.name} {what}: {self._down_reason}; its last line: {''.join(tail[-1:]) or 'none'}",
                started=False,
                details={"exit_code": code, "log_tail": list(tail), "log": str(self._launch.log)},
            )
        pause_s = self._policy.pause_s(self._failures)
        log.warning(
            "ComfyUI is down, restarting",
            extra={"event": "comfyui.down", "engine": self.name, "reason": self._down_reason, "pause_s": pause_s},
        )
        await self._clock.sleep(pause_s)

    def _moved_port(self) -> bool:
        """Go on to the next port when somebody took ours between our look and ComfyUI's bind."""
        if not self._port_taken or self._launch.fixed_port:
            return False
        taken = self._port
        self._use_port(free_port(taken + 1, host=self._launch.host))
        log.warning("port is taken", extra={"event": "comfyui.port_taken", "port": taken, "next": self._port})
        return True

    def _use_port(self, port: int) -> None:
        self._port = port
        self.base_url = self._launch.base_url(port)

    async def close(self) -> None:
        """End the process and give the name free; what is under way in it is lost. ``run`` does it by itself."""
        if self._child is not None:
            await self._child.end(patience_s=self._policy.patience_s)
            self._child = None
        await asyncio.to_thread(self._launch.record.unlink, missing_ok=True)
        self._claim.release()


def _exit_text(code: int | None) -> str:
    if code is None:
        return "ComfyUI ended"
    if code < 0:
        return f"ComfyUI was ended by {signal.Signals(-code).name}"
    return f"ComfyUI ended with exit code {code}"
