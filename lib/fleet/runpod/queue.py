"""Queue mode: RunPod's SDK as a process of ours, and the jobs that it takes."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lib.fleet.runpod.bridge import Answer, Tell
from lib.fleet.runpod.frames import HEAD, Kind, Message, parse
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "lib.fleet.runpod.sdk")
POST_PATIENCE_S = 15.0
"""How long the end of the worker waits until RunPod has the results (the SDK tries three times), or knows that this
worker is unfit."""


class RunPodQueue:
    """An async context manager: starts the SDK, runs what it takes, and ends it when results are posted.

    ``run`` does one job (``Bridge.run``). ``refresh``: a worker does one job, which is said with its result. ``on_end``
    is called when that is done; an SDK that ends for any other reason is a failure of the worker.
    """

    def __init__(
        self,
        *,
        run: Callable[[Mapping[str, Any], Tell], Awaitable[Answer]],
        tasks: Tasks,
        environment: Mapping[str, str],
        concurrency: int,
        refresh: bool,
        on_end: Callable[[], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._run = run
        self._tasks = tasks
        self._environment = dict(environment)
        self._refresh = refresh
        self._room = 1 if refresh else concurrency
        self._command = (*command, *(["--refresh"] if refresh else []))
        self._on_end = on_end
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._told: dict[int, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._begun = self._ending = False
        self._unfit: str | None = None

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                cwd=ROOT,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._tasks.spawn(self._listen(), name="runpod sdk", vital=True)
        self._tasks.spawn(self._watch(), name="runpod queue", vital=True)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """What is on its way to RunPod arrives; then the SDK has nothing more to do."""
        if self._unfit is None:
            self.drain()
        self._ending = True
        last = self._idle.wait() if self._unfit is None else self._process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(last, POST_PATIENCE_S)
        self._kill()
        await self._process.wait()
        self._writer.close()

    def follow(self, *, ready: bool, trouble: str) -> None:
        """Take jobs while the worker is ready. One that gets into trouble before it ever was is unfit, and ends."""
        if ready and not self._begun:
            self._begun = True
            self._send(Kind.FIT)
        elif trouble and not self._begun and self._unfit is None:
            self._unfit = trouble
            self._send(Kind.UNFIT, body=trouble)
        self._send(Kind.ROOM, body=self._room if ready and not self._ending else 0)

    def drain(self) -> None:
        """Take no more jobs; those in hand go on."""
        if not self._ending:
            self._ending = True
            self._send(Kind.ROOM, body=0)
            if self._process.returncode is None:
                self._process.terminate()  # as the platform would: the SDK ends its loop after what it has in hand

    # -- the SDK's process -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Raises: RuntimeError when the SDK ended and should not have."""
        status = await self._process.wait()
        self._kill()
        if self._ending:
            return
        if status:
            cause = f": {self._unfit}" if self._unfit else "; its lines above say why"
            raise RuntimeError(f"RunPod's SDK ended with status {status}{cause}")
        self._on_end()

    def _kill(self) -> None:
        """Its heartbeat is a process too, and may outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                self._hear(parse(await self._reader.readexactly(size)))
        for job in self._jobs.values():  # nobody is there to post the results
            job.cancel()
        self._idle.set()

    def _hear(self, message: Message) -> None:
        ticket = message.ticket
        match message.kind:
            case Kind.TAKEN:
                self._idle.clear()
                job = self._tasks.spawn(self._serve(ticket, message.body), name=f"runpod:{message.body['id']}")
                job.add_done_callback(lambda done: self._served(ticket, done))
                self._jobs[ticket] = job
            case Kind.TOLD:
                if (told := self._told.get(ticket)) is not None and not told.done():
                    told.set_result(None)
            case Kind.STOPPED:
                job = self._jobs[ticket]
                log.info("RunPod stopped a job", extra={"event": "runpod.stopped", "job": job.get_name()})
                job.cancel()
            case Kind.POSTED:
                self._posted(self._jobs.pop(ticket))

    def _posted(self, job: asyncio.Task[None]) -> None:
        if not self._jobs:
            self._idle.set()
        if self._refresh and job.done() and not job.cancelled():
            self._on_end()  # the SDK comes to that too, when the polls that it has open return

    def _send(self, kind: Kind, *, ticket: int = 0, body: Any = None) -> None:
        self._writer.write(Message(kind=kind, ticket=ticket, body=body).to_frame())

    # -- one job -----------------------------------------------------------------------------------------------

    async def _serve(self, ticket: int, job: Mapping[str, Any]) -> None:
        try:
            answer = await self._run(job, lambda news: self._tell(ticket, news))
        finally:
            self._told.pop(ticket, None)
        result = Message(kind=Kind.RESULT, ticket=ticket, body=answer)
        self._writer.write(await asyncio.to_thread(result.to_frame))  # megabytes of base64, perhaps

    async def _tell(self, ticket: int, news: Mapping[str, Any]) -> None:
        """Return when RunPod has it."""
        self._told[ticket] = asyncio.get_running_loop().create_future()
        self._send(Kind.PROGRESS, ticket=ticket, body=news)
        await self._told[ticket]

    def _served(self, ticket: int, done: asyncio.Task[None]) -> None:
        """A defect of ours ends the job as well."""
        if not done.cancelled() and done.exception() is not None:
            self._send(Kind.RESULT, ticket=ticket, body={"error": "The worker failed; its log has the trace."})
