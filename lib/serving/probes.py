"""Probes for balancers, supervisors and Prometheus; what they say comes from callbacks."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lib.serving.access import CALLER, Need, Needs
from lib.serving.openapi import OBJECT, TEXT, Answer, Operation
from lib.serving.payloads import json_response


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReply:
    """A probe's answer: ``ok`` is 200, else ``bad_status``; ``body`` is JSON. ``starting``: it is not, but all is well
    so far."""

    ok: bool
    body: Mapping[str, Any] = field(default_factory=dict)
    bad_status: int = 503
    retry_after_s: int | None = None
    starting: bool = False


Probe = Callable[[], ProbeReply]

_RETRY = {"Retry-After": "Seconds until another try makes sense."}
NOT_STORED = {"Cache-Control": "no-store"}
PUBLIC_KEYS = ("version", "status", "ready")
"""What strangers are told; reasons, load and the host's facts stay on the API listener."""


class Probes:
    """``/healthz`` (the process lives), ``/health`` (all that is known), ``/ready`` (admits jobs), ``/metrics``, and
    ``/ping``, by which RunPod's load balancer asks: 200 ready, 204 starting, else unhealthy.

    ``metrics`` returns the exposition and its content type; it is called in a thread.
    """

    def __init__(self, *, health: Probe, ready: Probe, metrics: Callable[[], tuple[bytes, str]]) -> None:
        self._health = health
        self._ready = ready
        self._metrics = metrics

    def routes(self) -> Sequence[web.RouteDef]:
        """All of them, for a listener that knows its callers."""
        return [
            web.get("/healthz", self._alive),
            web.get("/ping", self._ping),
            web.get("/health", self._show_health),
            web.get("/ready", self._show_ready),
            web.get("/metrics", self._show_metrics),
        ]

    def needs(self) -> Needs:
        """Anybody may ask whether the worker is well; who is not known hears what strangers hear."""
        free = dict.fromkeys(("/healthz", "/ping", "/health", "/ready"), Need.FREE)
        return {**free, "/metrics": Need.ADMIN}

    def public_routes(self) -> Sequence[web.RouteDef]:
        """Three of them for strangers: the same verdicts and statuses, without reasons, load and host."""
        return [
            web.get("/healthz", self._alive),
            web.get("/health", self._tell_health),
            web.get("/ready", self._tell_ready),
        ]

    def operations(self) -> Sequence[Operation]:
        """Describe all of them for the docs page."""
        exposition = Answer(description="The exposition, as text.", media_type="text/plain", schema=TEXT)
        return [
            _described("/healthz", "Whether the process lives", {HTTPStatus.OK: _json("It does.")}),
            _described(
                "/ping",
                "Whether RunPod's load balancer may send work",
                {
                    HTTPStatus.OK: _json("Ready."),
                    HTTPStatus.NO_CONTENT: Answer(description="Starting."),
                    HTTPStatus.SERVICE_UNAVAILABLE: _json("Unhealthy."),
                },
            ),
            _described(
                "/health",
                "All that is known about worker, engines and host",
                {
                    HTTPStatus.OK: _json("Healthy."),
                    HTTPStatus.INTERNAL_SERVER_ERROR: _json("Not yet (`PRIMARY_DIALECT=salad`)."),
                    HTTPStatus.SERVICE_UNAVAILABLE: _json("Unhealthy (`PRIMARY_DIALECT=wrapper`)."),
                },
            ),
            _described(
                "/ready",
                "Whether jobs are admitted now",
                {
                    HTTPStatus.OK: _json("Ready."),
                    HTTPStatus.SERVICE_UNAVAILABLE: _json("Not now; `reason` says why.", _RETRY),
                },
            ),
            _described("/metrics", "Prometheus metrics", {HTTPStatus.OK: exposition}, need=Need.ADMIN),
        ]

    async def _alive(self, request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def _ping(self, request: web.Request) -> web.Response:
        reply = self._ready()
        if not reply.ok and reply.starting:
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=NOT_STORED)
        return _respond(_for_strangers(reply))

    async def _show_health(self, request: web.Request) -> web.Response:
        return _respond(self._health()) if CALLER in request else await self._tell_health(request)

    async def _show_ready(self, request: web.Request) -> web.Response:
        return _respond(self._ready()) if CALLER in request else await self._tell_ready(request)

    async def _tell_health(self, request: web.Request) -> web.Response:
        return _respond(_for_strangers(self._health()))

    async def _tell_ready(self, request: web.Request) -> web.Response:
        return _respond(_for_strangers(self._ready()))

    async def _show_metrics(self, request: web.Request) -> web.Response:
        body, content_type = await asyncio.to_thread(self._metrics)
        return web.Response(body=body, headers={"Content-Type": content_type})


def _json(description: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(description=description, schema=OBJECT, headers=headers or {})


def _described(path: str, summary: str, answers: Mapping[int, Answer], *, need: Need = Need.FREE) -> Operation:
    return Operation(method="GET", path=path, tag="Probes", summary=summary, answers=answers, need=need)


def _for_strangers(reply: ProbeReply) -> ProbeReply:
    return replace(reply, body={key: reply.body[key] for key in PUBLIC_KEYS if key in reply.body})


def _respond(reply: ProbeReply) -> web.Response:
    status = 200 if reply.ok else reply.bad_status
    headers = dict(NOT_STORED)
    if reply.retry_after_s is not None and not reply.ok:
        headers["Retry-After"] = str(reply.retry_after_s)
    return json_response(reply.body, status=status, headers=headers)
