"""``GET /page/events``: a snapshot, then what changes, as server-sent events; a slow reader gets fewer, newer ones."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web

from lib.clock import Clock
from lib.errors import Overloaded
from lib.serving.access import Need
from lib.serving.openapi import OBJECT, Answer, Operation, Parameter
from lib.serving.sse import EventStream, EventStreams, encode
from router.dispatch import Dispatcher
from router.page.figures import Counted
from router.page.lens import MOST, Lens, Order, Show
from router.page.picture import SOON_S, Picture
from router.page.relayed import Relayed
from router.page.telling import Scene, Telling
from router.page.troubles import Troubles
from router.registry import Epoch

PATH = "/page/events"
MOST_READERS = 64
FAREWELL = encode({"kind": "stopping"})
"""The router stops; it may be back in a moment."""


class Watching:
    """The route. ``replica`` is the name of this router."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        picture: Picture,
        troubles: Troubles,
        counted: Counted,
        relayed: Relayed,
        streams: EventStreams,
        replica: str,
        clock: Clock,
    ) -> None:
        self._dispatcher = dispatcher
        self._picture = picture
        self._troubles = troubles
        self._counted = counted
        self._relayed = relayed
        self._streams = streams
        self._replica = replica
        self._clock = clock
        self._epoch = Epoch(clock)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Raises: InvalidRequest, Overloaded."""
        lens = Lens.read(request.query)
        if self._streams.open_count >= MOST_READERS:
            raise Overloaded("Too many people look at the page already.", retry_after_s=10)
        stream = self._streams.open(request, farewell=FAREWELL)
        with self._picture.watched():
            async with stream:
                await self._tell(stream, Telling(lens))
        return stream.response

    async def _tell(self, stream: EventStream, telling: Telling) -> None:
        while True:
            version = await self._picture.refresh()
            scene = await self._scene()
            began = self._clock.monotonic()
            news = telling.news(scene)
            event = encode(news) if news is not None else None
            self._picture.spent(self._clock.monotonic() - began)
            if event is not None:
                await stream.send(event)
            await self._picture.rest()
            try:
                async with asyncio.timeout(SOON_S):
                    await self._picture.changed(since=version)
            except TimeoutError:
                continue

    async def _scene(self) -> Scene:
        self._troubles.settle()
        return Scene(
            at=self._epoch.now(),
            rows=self._picture.rows,
            endpoints=self._picture.endpoints,
            decisions=self._dispatcher.decisions,
            troubles=self._troubles.latest,
            trouble_count=self._troubles.count,
            whole={
                "replica": self._replica,
                "degraded": self._dispatcher.degraded,
                "totals": self._counted.totals(),
                "jobs": await self._relayed.look(),
            },
        )


def operations() -> Sequence[Operation]:
    """For the docs page."""
    answer = Answer(
        description="Events: JSON with the 'kind' snapshot, change or stopping, and what is new.",
        media_type="text/event-stream",
        schema=OBJECT,
    )
    parameters = [
        Parameter(name="endpoint", place="query", description="Only workers of this endpoint."),
        Parameter(name="q", place="query", description="Only workers whose name, card, model or trouble has this."),
        Parameter(name="show", place="query", description=f"Only these workers: {', '.join(Show)}."),
        Parameter(name="order", place="query", description=f"Which come first: {', '.join(Order)}."),
        Parameter(name="most", place="query", description=f"So many workers, up to {MOST}."),
    ]
    return [
        Operation(
            method="GET",
            path=PATH,
            tag="Page",
            summary="The fleet as it changes",
            parameters=parameters,
            answers={HTTPStatus.OK: answer},
            need=Need.ADMIN,
        )
    ]
