"""Does requests for callers who wait: finds a worker, passes its answer on, takes another one where it fails.

Once a part of an answer is out there is no second try. A caller who leaves takes his request with him; of a stream the
worker decides, as its job can be followed by its link.
"""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import hdrs, web

from lib.clock import Clock
from lib.errors import NotReady, Overloaded, ServiceError
from router.cases import Ending, Outcome
from router.direct import DirectRequests
from router.dispatch import Dispatcher
from router.metrics import RouterMetrics
from router.model import Ask
from router.parts import Ground
from router.refusals import Refusal
from router.registry import Worker
from router.relay.bodies import Held
from router.relay.headers import FORWARDED_FOR, forwarded_for, with_query
from router.relay.passing import LEFT, CallerLeft, Passing, is_failure
from router.relay.ports import Call, Upstream, Visitor, Work, WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

MOST_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller wants. ``path`` is the worker's; ``kept``: its job goes on when the caller leaves."""

    visitor: Visitor
    work: Work
    path: str
    kept: bool = False


@dataclass(slots=True, kw_only=True)
class _Try:
    """A request on its way; ``tried`` are the workers that did not do it, and why."""

    ask: Ask
    asked: Asked
    body: Held
    tried: dict[str, str]

    @property
    def number(self) -> int:
        return int(self.ask.request_id)


class Forwarding:
    """``wait_s`` is how long a request waits for a worker."""

    def __init__(self, ground: Ground, *, upstream: Upstream, metrics: RouterMetrics) -> None:
        self._dispatcher: Dispatcher = ground.dispatcher
        self._direct: DirectRequests = ground.core.direct
        self._clock: Clock = ground.clock
        self._tasks = ground.tasks
        self._wait_s = ground.settings.relay_wait_s
        self._upstream = upstream
        self._metrics = metrics

    async def send(self, request: web.Request, asked: Asked, body: Held) -> web.StreamResponse:
        """Answer with a worker's answer. Raises: Overloaded, NotReady (nobody did it, with what happened)."""
        ask = await self._ask(asked)
        one = _Try(ask=ask, asked=asked, body=body, tried={})
        try:
            while len(one.tried) < MOST_TRIES:
                response = await self._once(request, one, await self._worker(one))
                if response is not None:
                    return response
            raise self._nobody(one)
        except ServiceError:
            await self._forget(one)
            raise
        finally:
            if one.tried:
                self._dispatcher.refusals.forget(ask.request_id)

    async def _ask(self, asked: Asked) -> Ask:
        work = asked.work
        return self._dispatcher.learning.ask(
            str(await self._direct.new_number()),
            endpoint=asked.visitor.endpoint,
            arrived_at=self._clock.monotonic(),
            cost=work.cost,
            kind=work.kind,
            prior=work.prior,
            tenant=asked.visitor.tenant,
            priority=work.priority or asked.visitor.priority,
            family=work.family,
            models=work.models,
            vram_gib=work.vram_gib,
            dialect=work.dialect,
            input_mb=work.input_mb,
        )

    async def _worker(self, one: _Try) -> Worker:
        """Wait for a worker. Raises: Overloaded, NotReady where the time is over."""
        ask, work = one.ask, one.asked.work
        wait_s = self._wait_s - (self._clock.monotonic() - ask.arrived_at)
        while wait_s >= 0:
            given = await self._dispatcher.assign(
                ask, wait_s=wait_s, kind=work.kind, prior=work.prior, again=bool(one.tried)
            )
            if given is None:
                break
            if (worker := self._dispatcher.worker(given.worker)) is not None:
                return worker
            await self._dispatcher.settle(ask.request_id, Outcome(ending=Ending.LOST))
        if one.tried:
            raise self._nobody(one)
        raise Overloaded("No worker became free in time.", retry_after_s=self._dispatcher.retry_after_s(ask))

    async def _once(self, request: web.Request, one: _Try, worker: Worker) -> web.StreamResponse | None:
        """One try; None: it was nothing, and nothing of it is out."""
        passing, begun = Passing(request, number=one.ask.request_id), self._clock.monotonic()
        try:
            async with self._upstream.call(worker, self._call(request, one)) as answer:
                response = await passing.pass_on(answer)
        except WorkerBusy as error:
            await self._refused(one, worker, _refusal(error), error.message)
            return None
        except WorkerLost as error:
            await self._refused(one, worker, Refusal.UNREACHABLE, error.message)
            if not passing.begun:
                return None
            self._metrics.relayed(one.asked.work.dialect, Ending.LOST)
            await self._forget(one)
            return await passing.break_off(error.message)
        except CallerLeft:
            await self._left(one, passing)
            return web.Response(status=LEFT)
        except asyncio.CancelledError:
            await self._left(one, passing)
            raise
        self._tasks.spawn(self._done(one, passing, took_s=self._clock.monotonic() - begun), name="relay: done")
        return response  # before what is learned of it

    def _call(self, request: web.Request, one: _Try) -> Call:
        headers = request.headers.copy()
        headers[FORWARDED_FOR] = forwarded_for(request.headers, request.remote)
        headers.pop(hdrs.CONTENT_ENCODING, None)  # it was undone when the body was read
        headers.update(one.body.length)
        return Call(
            method=request.method,
            path=with_query(one.asked.path, request),
            tenant=one.asked.visitor.tenant,
            request_idx=one.number,
            headers=headers,
            body=one.body.to_send(),
        )

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _refused(self, one: _Try, worker: Worker, reason: Refusal, why: str) -> None:
        one.tried[worker.key] = why
        self._metrics.rerouted(reason)
        log.warning(
            "worker did not do a request",
            extra={"event": "relay.refused", "worker": worker.key, "request_idx": one.number, "reason": why},
        )
        await self._dispatcher.refused(one.ask.request_id, worker.key, reason)

    async def _done(self, one: _Try, passing: Passing, *, took_s: float) -> None:
        ending = _ending(passing.status)
        self._metrics.relayed(one.asked.work.dialect, ending)
        if passing.status == HTTPStatus.ACCEPTED:
            return  # its worker goes on, and says when it is over
        ran_s = passing.ran_s
        outcome = Outcome(ending=ending, run_s=took_s if ran_s is None else ran_s)
        await self._dispatcher.settle(one.ask.request_id, outcome)

    async def _left(self, one: _Try, passing: Passing) -> None:
        self._metrics.relayed(one.asked.work.dialect, Ending.CANCELLED)
        if not (one.asked.kept and passing.begun):
            await self._forget(one)

    async def _forget(self, one: _Try) -> None:
        """Nothing more comes of it."""
        await self._dispatcher.settle(one.ask.request_id, Outcome(ending=Ending.CANCELLED))

    def _nobody(self, one: _Try) -> NotReady:
        self._metrics.relayed(one.asked.work.dialect, Ending.REFUSED)
        told = "; ".join(f"worker {key.rpartition('/')[2]}: {why}" for key, why in one.tried.items())
        return NotReady(f"No worker did it: {told}.", retry_after_s=self._dispatcher.retry_after_s(one.ask))


def _refusal(error: WorkerBusy) -> Refusal:
    """A worker that does not know our tickets is not full."""
    return Refusal.FAILED if error.status == HTTPStatus.UNAUTHORIZED else Refusal.FULL


def _ending(status: int) -> Ending:
    """What an answer says of its worker: who asks for what can't be done is served well with a 4xx."""
    if is_failure(status):
        return Ending.ERROR
    return Ending.SUCCESS if status < HTTPStatus.BAD_REQUEST else Ending.CANCELLED
