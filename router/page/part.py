"""Puts the page together. Its frame is everybody's; what is in it is the operator's, as all figures are."""

import asyncio
from contextlib import AsyncExitStack

from aiohttp import web

from lib.serving.access import Need
from lib.serving.sse import EventStreams
from router.page.document import load_document
from router.page.figures import Counted
from router.page.picture import Picture
from router.page.relayed import Relayed
from router.page.troubles import Troubles
from router.page.watching import PATH, Watching, operations
from router.parts import Ground, Part
from router.registry import Epoch

HEARTBEAT_S = 15.0


async def page(ground: Ground, stack: AsyncExitStack) -> Part:
    """Build the part."""
    dispatcher, clock, epoch = ground.dispatcher, ground.clock, Epoch(ground.clock)
    document = await asyncio.to_thread(load_document)
    troubles = Troubles(dispatcher, clock=clock)
    stack.callback(dispatcher.changes.listen(troubles.hear))
    counted = Counted(ground.core.metrics)
    streams = EventStreams(tasks=ground.tasks, clock=clock, heartbeat_s=HEARTBEAT_S)
    picture = Picture(dispatcher, desired=counted.desired, clock=clock, epoch=epoch)
    ground.core.link.listen(lambda trouble: picture.stir())
    watching = Watching(
        dispatcher,
        picture=picture,
        troubles=troubles,
        counted=counted,
        relayed=Relayed(ground.jobs, clock=clock),
        streams=streams,
        replica=ground.replica,
        clock=clock,
    )

    async def stop() -> None:
        streams.close()

    return Part(
        name="page",
        routes=[web.get("/", document.show), web.get(PATH, watching.events, allow_head=False)],
        needs={"/": Need.FREE, PATH: Need.ADMIN},
        operations=operations(),
        stop=stop,
    )
