"""Takes up what an earlier life of the worker left: its jobs, and its prompts that nobody wants any more."""

import logging
from collections.abc import Callable

from lib.app.core import Core
from lib.comfy.engine import ComfyEngine
from lib.errors import EngineUnreachable
from lib.lifecycle import Tasks

log = logging.getLogger(__name__)


async def take_up(core: Core, tasks: Tasks) -> int:
    """Recover the recorded jobs and return how many; then, and whenever an engine is back, remove stray prompts."""
    count = await core.service.recover()
    if count:
        log.info("took up %d jobs of an earlier life", count, extra={"event": "worker.recovered_jobs", "jobs": count})
    for engine in core.engines:
        engine.on_health(_swept(core, engine, tasks))
        await _sweep(core, engine)
    return count


def _swept(core: Core, engine: ComfyEngine, tasks: Tasks) -> Callable[[bool], None]:
    def heard(healthy: bool) -> None:
        if healthy:
            tasks.spawn(_sweep(core, engine), name=f"strays {engine.name}")

    return heard


async def _sweep(core: Core, engine: ComfyEngine) -> None:
    try:
        removed = await engine.remove_strays(core.service.prompts_of(engine.name).__contains__)
    except EngineUnreachable:
        return  # when it is back this is done again
    if removed:
        log.warning(
            "removed prompts that no job knows",
            extra={"event": "engine.strays", "engine": engine.name, "count": removed},
        )
