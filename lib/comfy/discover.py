"""Which ComfyUI servers there are: attached to, waited for, or launched. Decides once, at start.

``COMFYUI_API_BASE`` or ``COMFYUI_BACKENDS``: those, and never another one. Unset and standalone: a ComfyUI that runs
at a usual port, else our own. Unset and serverless: the supervisor's, at the image's port; it is waited for.
"""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from lib.clock import Clock, SystemClock
from lib.comfy.attached import AttachedServer
from lib.comfy.child import Child, Claim, RunRecord
from lib.comfy.install import parse_args, plan, read_install
from lib.comfy.liveness import argv_of, system_stats
from lib.comfy.ports import Server
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import RestartPolicy, free_port
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

USUAL_PORTS = (18188, 8188)
"""Where a ComfyUI runs on Vast's images, and by its own default."""
PROBE_TIMEOUT_S = 2.0
MOST_PROCESSES = 64


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
        return _attached(settings, settings.attached_bases, http=http, clock=clock)
    if serverless:
        base = f"http://127.0.0.1:{USUAL_PORTS[0]}"
        log.info("waiting for the supervisor's ComfyUI", extra={"event": "comfyui.supervised", "base_url": base})
        return _attached(settings, [base], http=http, clock=clock)
    for port in usual_ports if settings.port else ():
        base = f"http://127.0.0.1:{port}"
        if await _runs_elsewhere(settings, base, http=http):
            log.info("a ComfyUI runs already", extra={"event": "comfyui.running", "base_url": base})
            return _attached(settings, [base], http=http, clock=clock)
    launched = await launch(settings, http=http, clock=clock)
    for server in launched:
        tasks.spawn(server.run(), name=f"supervise {server.name}", vital=True)
    return list[Server](launched)


def _attached(
    settings: EngineSettings, bases: Sequence[str], *, http: aiohttp.ClientSession, clock: Clock
) -> list[Server]:
    several = len(bases) > 1
    return [
        AttachedServer(
            base,
            name=f"comfyui-{number}",
            http=http,
            settings=settings,
            restart_cmd=restart_command(settings, several=several),
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
    ours = settings.workspace.resolve() / "temp"
    names = [path.name for path in map(Path, argv_of(stats)) if path.parent == ours]
    if not names:
        return True
    lock = settings.workspace / "run" / f"{names[0]}.lock"
    return not await asyncio.to_thread(_is_free, lock)


def _is_free(lock: Path) -> bool:
    claim = Claim.take(lock)
    if claim is not None:
        claim.release()
    return claim is not None


async def launch(settings: EngineSettings, *, http: aiohttp.ClientSession, clock: Clock) -> list[LaunchedServer]:
    """Plan our own processes; each starts when its ``run`` does."""
    install, devices = await asyncio.gather(
        asyncio.to_thread(read_install, settings), asyncio.to_thread(_devices, settings)
    )
    count = settings.processes or max(1, len(devices))
    claims = await asyncio.to_thread(_claim, settings, count)
    await _end_leftovers(settings, claims, clock=clock)
    extra = parse_args(settings.args)
    port = extra.port or settings.port
    found: list[LaunchedServer] = []
    for index, (number, claim) in enumerate(claims.items()):
        device = devices[index % len(devices)] if count > 1 and devices else None
        here = plan(settings, install, number=number, device=device)
        port = await asyncio.to_thread(free_port, port, host=here.host)
        found.append(
            LaunchedServer(here, port=port, claim=claim, http=http, policy=RestartPolicy.of(settings), clock=clock)
        )
        port += 1 if port else 0
    return found


def _devices(settings: EngineSettings) -> tuple[str, ...]:
    """GPUs to spread processes over: ``CUDA_VISIBLE_DEVICES``, else all that the driver has. Blocks."""
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


def _claim(settings: EngineSettings, count: int) -> dict[int, Claim]:
    """Claim the first ``count`` process numbers that no other worker of this workspace holds."""
    claims: dict[int, Claim] = {}
    for number in range(1, MOST_PROCESSES + count + 1):
        claim = Claim.take(settings.workspace / "run" / f"comfyui-{number}.lock")
        if claim is not None:
            claims[number] = claim
        if len(claims) == count:
            break
    return claims


async def _end_leftovers(settings: EngineSettings, claims: dict[int, Claim], *, clock: Clock) -> None:
    """End processes of an earlier life of which there are now fewer."""
    records = await asyncio.to_thread(lambda: sorted((settings.workspace / "run").glob("comfyui-*.json")))
    for path in records:
        if path.stem in {f"comfyui-{number}" for number in claims}:
            continue
        claim = await asyncio.to_thread(Claim.take, path.with_suffix(".lock"))
        if claim is None:
            continue
        record = await asyncio.to_thread(RunRecord.find, path)
        if record is not None:
            log.info("ending a left-over ComfyUI", extra={"event": "comfyui.left_over", "pid": record.pid})
            await Child.found(record.pid, clock).end(patience_s=RestartPolicy.of(settings).patience_s)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        claim.release()
