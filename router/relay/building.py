"""Puts the relay together, around the half that keeps jobs."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from lib.lifecycle import every
from lib.serving.middleware import render_plain
from lib.workflow.template import load_templates
from router.parts import Ground, Part
from router.relay.asking import Asking
from router.relay.bodies import Bodies
from router.relay.calling import WorkerCalls
from router.relay.entrance import Entrance, rendered
from router.relay.forwarding import Forwarding
from router.relay.outputs import Links
from router.relay.ports import JobsHalf, Sizing, Upstream
from router.relay.sizing import RequestSizing
from router.relay.watching import KEEP_S, Watch


class JobsBuilder(Protocol):
    """Builds the half that keeps jobs."""

    async def __call__(
        self, ground: Ground, stack: AsyncExitStack, *, upstream: Upstream, sizing: Sizing
    ) -> JobsHalf: ...


async def build_relay(ground: Ground, stack: AsyncExitStack, *, build_jobs: JobsBuilder) -> Part:
    """Build the part."""
    dispatcher, metrics = ground.dispatcher, ground.core.metrics
    watch = Watch(dispatcher)
    stack.callback(dispatcher.changes.listen(watch.hear))
    metrics.relaying(watch.__len__)
    calls = WorkerCalls(ground, watch=watch)
    sizing = RequestSizing(await asyncio.to_thread(load_templates))
    jobs = await build_jobs(ground, stack, upstream=calls, sizing=sizing)
    entrance = Entrance(
        ground.endpoints,
        bodies=Bodies(ground.settings.state_dir, max_bytes=ground.settings.max_body_bytes),
        sizing=sizing,
        forwarding=Forwarding(ground, upstream=calls, metrics=metrics),
        keep=jobs.keep,
    )
    links, asking = Links(dispatcher, calls=calls), Asking(dispatcher, upstream=calls)
    own = {route.path: jobs.render_error for route in jobs.routes if jobs.render_error is not None}

    def health() -> Mapping[str, Any]:
        return {"calls": len(watch), **(jobs.health() if jobs.health is not None else {})}

    return Part(
        name="relay",
        routes=[*entrance.routes(), *links.routes(), *asking.routes(), *jobs.routes],
        needs={**entrance.needs(), **links.needs(), **jobs.needs},
        render_error=rendered({**own, **entrance.renderers(), **asking.renderers()}, render_plain),
        loops={"keep": every(KEEP_S, watch.keep, name="relay: keep", clock=ground.clock), **jobs.loops},
        health=health,
        stop=jobs.stop,
    )
