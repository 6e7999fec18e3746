"""Which ComfyUI servers there are: attached to, waited for, or launched. Decides once, at start.

``COMFYUI_API_BASE`` or ``COMFYUI_BACKENDS``: those, and never another one. Unset, and where a supervisor owns ComfyUI:
the supervisor's, at the image's port; it is waited for, and so is one on a serverless host, unless ``CMD`` says how to
start it or ``COMFYUI_PORT=0`` asks for our own. Unset and standalone: what ``CMD`` starts, else a ComfyUI that runs at
a usual port, else our own.
"""

import asyncio
import itertools
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import aiohttp

from lib.clock import Clock, SystemClock
from lib.comfy import supervisor
from lib.comfy.attached import AttachedServer
from lib.comfy.child import Child, Claim, RunRecord
from lib.comfy.commanded import plan_command
from lib.comfy.install import parse_args, plan, read_install
from lib.comfy.liveness import argv_of, system_stats
from lib.comfy.ports import Server, Start
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import RestartPolicy, free_port
from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

USUAL_PORTS = (18188, 8188)
"""Where a ComfyUI runs on Vast's images, and by its own default."""
PROBE_TIMEOUT_S = 2.0


async def servers(
    settings: EngineSettings,
    *,
    serverless: bool,
    http: aiohttp.ClientSession,
    tasks: Tasks,
    clock: Clock | None = None,
    usual_ports: Sequence[int] = USUAL_PORTS,
) -> list[Server]:
    """Return the servers at once, without waiting until they answer; launched ones run as vital tasks of ``tasks``.

    ``COMFYUI_PORT=0``: always our own, on a free port.

    Raises: EngineUnreachable (nothing to attach to and nothing installed), SettingsError.
    """
    clock = clock or SystemClock()
    if settings.attached_bases:
        return await _attached(settings, settings.attached_bases, http=http, clock=clock)
    supervised = await asyncio.to_thread(supervisor.owns_comfyui)
    if supervised and settings.command is not None:
        log.warning("a supervisor owns ComfyUI, CMD is ignored", extra={"event": "comfyui.cmd_ignored"})
    own = settings.port == 0 or settings.command is not None
    if supervised or (serverless and not own):
        base = f"http://127.0.0.1:{USUAL_PORTS[0]}"
        log.info("waiting for the supervisor's ComfyUI", extra={"event": "comfyui.supervised", "base_url": base})
        return await _attached(settings, [base], http=http, clock=clock)
    for port in usual_ports if settings.port and settings.command is None else ():
        base = f"http://127.0.0.1:{port}"
        if await _runs_elsewhere(settings, base, http=http):
            log.info("a ComfyUI runs already", extra={"event": "comfyui.running", "base_url": base})
            return await _attached(settings, [base], http=http, clock=clock)
    launched = await launch(settings, http=http, clock=clock)
    for server in launched:
        tasks.spawn(server.run(), name=f"supervise {server.name}", vital=True)
    return list[Server](launched)


async def _attached(
    settings: EngineSettings, bases: Sequence[str], *, http: aiohttp.ClientSession, clock: Clock
) -> list[Server]:
    command = await asyncio.to_thread(restart_command, settings, several=len(bases) > 1)
    return [
        AttachedServer(
            base,
            name=f"comfyui-{number}",
            http=http,
            settings=settings,
            restart_cmd=command,
            alone=len(bases) == 1,
            clock=clock,
        )
        for number, base in enumerate(bases, start=1)
    ]


def restart_command(settings: EngineSettings, *, several: bool = False) -> str | None:
    """The operator's command, else supervisor's for the only ComfyUI of a host that has supervisor."""
    if settings.restart_cmd is not None:
        return settings.restart_cmd
    return "supervisorctl restart comfyui" if not several and shutil.which("supervisorctl") else None


async def _runs_elsewhere(settings: EngineSettings, base: str, *, http: aiohttp.ClientSession) -> bool:
    """Whether a ComfyUI answers there that is not one of ours, left from an earlier life: that one is taken over."""
    stats = await system_stats(http, base, timeout_s=PROBE_TIMEOUT_S)
    if stats is None:
        return False
    return not await asyncio.to_thread(_is_left_over, settings.workspace, argv_of(stats))


def _is_left_over(workspace: Path, argv: Sequence[str]) -> bool:
    """Whether a command line has a temp folder of this workspace whose worker is gone."""
    ours = workspace.resolve() / "temp"
    for name in (path.name for path in map(Path, argv) if path.parent == ours):
        claim = Claim.take(workspace / "run" / f"{name}.lock")
        if claim is not None:
            claim.release()
            return True
    return False


async def launch(settings: EngineSettings, *, http: aiohttp.ClientSession, clock: Clock) -> list[LaunchedServer]:
    """Plan our own processes; each starts when its ``run`` does."""
    planned = await asyncio.to_thread(_plan, settings)
    await _end_leftovers(settings, {here.name for here, _, _ in planned}, clock=clock)
    policy = RestartPolicy.of(settings)
    return [
        LaunchedServer(here, port=port, claim=claim, http=http, policy=policy, clock=clock)
        for here, port, claim in planned
    ]


def _plan(settings: EngineSettings) -> Sequence[tuple[Start, int, Claim]]:
    """Decide what is launched where. Blocks."""
    if settings.command is None:
        return _plan_own(settings)
    claim = Claim.take(settings.workspace / "run" / "comfyui-1.lock")
    if claim is None:
        raise EngineUnreachable(f"another worker runs CMD in this workspace ({settings.workspace}): WORKSPACE_DIR")
    here, port = plan_command(settings, settings.command)
    left = RunRecord.find(here.record)
    return [(here, left.port if left is not None else port or free_port(0, host=here.host), claim)]


def _plan_own(settings: EngineSettings) -> list[tuple[Start, int, Claim]]:
    install, devices, port = read_install(settings), _devices(settings), parse_args(settings.args).port or settings.port
    count = settings.processes or max(1, len(devices))
    planned: list[tuple[Start, int, Claim]] = []
    for index, (number, claim) in enumerate(_claim(settings, count)):
        device = devices[index % len(devices)] if count > 1 and devices else None
        here = plan(settings, install, number=number, device=device)
        left = RunRecord.find(here.record)
        mine = left.port if left is not None else free_port(port, host=here.host)
        planned.append((here, mine, claim))
        port = mine + 1 if port else 0
    return planned


def _devices(settings: EngineSettings) -> tuple[str, ...]:
    """GPUs to spread processes over: ``CUDA_VISIBLE_DEVICES``, else all that the driver has."""
    if settings.visible_devices:
        return settings.visible_devices
    if settings.processes == 1:
        return ()
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(str(index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _claim(settings: EngineSettings, count: int) -> Iterator[tuple[int, Claim]]:
    """Claim the first ``count`` process numbers that no other worker of this workspace holds."""
    for number in itertools.count(1):
        if count == 0:
            return
        claim = Claim.take(settings.workspace / "run" / f"comfyui-{number}.lock")
        if claim is not None:
            count -= 1
            yield number, claim


async def _end_leftovers(settings: EngineSettings, taken: Collection[str], *, clock: Clock) -> None:
    """End processes of an earlier life of which there are now fewer."""
    for path in await asyncio.to_thread(lambda: sorted((settings.workspace / "run").glob("comfyui-*.json"))):
        claim = None if path.stem in taken else await asyncio.to_thread(Claim.take, path.with_suffix(".lock"))
        if claim is None:
            continue
        record = await asyncio.to_thread(RunRecord.find, path)
        if record is not None:
            log.info("ending a left-over ComfyUI", extra={"event": "comfyui.left_over", "pid": record.pid})
            await Child.found(record.pid, clock).end(patience_s=RestartPolicy.of(settings).patience_s)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        claim.release()
