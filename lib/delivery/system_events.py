"""System events of Salad's API: what ComfyUI and the storage tell, one event a POST, signed, to the operator's one URL.

Events wait in order in a bounded queue and nobody waits for them. While the target is slow, of a running figure
(``progress``, ``progress_state``, ``status``) only the newest waits; of too many events the oldest go.
"""

import asyncio
import logging
import random
import uuid
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from aiohttp import ClientError

from lib.clock import Clock
from lib.delivery.schedules import Schedule, Verdict, retry_after_s, schedules
from lib.delivery.signatures import salad_headers
from lib.errors import UnsafeInput
from lib.jobs.model import WebhookScheme
from lib.settings import DeliverySettings, SaladSettings, SettingsError
from lib.storage.http import GuardedHttp

log = logging.getLogger(__name__)

FIGURES = frozenset({"progress", "progress_state", "status"})
"""Each message of theirs replaces the one before."""
COMFY = FIGURES | {
    "executing",
    "execution_start",
    "execution_cached",
    "executed",
    "execution_success",
    "execution_interrupted",
    "execution_error",
}
STORAGE = frozenset({"file_downloaded", "file_uploaded", "file_deleted"})
ALL = "all"
SEQUENCE = "X-Event-Sequence"
"""Header: events are numbered from 1 as they happen. What is missing was replaced by a newer one, or lost."""
MOST_WAITING = 1000
MOST_BYTES = 16 * 1024 * 1024


def event_names(names: Collection[str]) -> frozenset[str]:
    """Read ``SYSTEM_WEBHOOK_EVENTS``; ``comfy.`` or ``storage.`` may stand before a name. Raises: SettingsError."""
    bare = {name.removeprefix("comfy.").removeprefix("storage.") for name in names}
    if ALL in bare:
        return COMFY | STORAGE
    if unknown := sorted(bare - COMFY - STORAGE):
        known = ", ".join(sorted(COMFY | STORAGE))
        raise SettingsError(
            f"SYSTEM_WEBHOOK_EVENTS={','.join(unknown)}: no such event; expected all, or some of {known}"
        )
    return frozenset(bare)


def event_target(url: str) -> str:
    """Check ``SYSTEM_WEBHOOK_URL``. Raises: SettingsError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError("SYSTEM_WEBHOOK_URL: expected an http or https URL")
    return url


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    number: int
    kind: str
    body: bytes = field(repr=False)


class SystemEvents:
    """Takes events on the event loop at any time (it is a ``lib.comfy.tap.Tap``, too); ``run`` is a best-effort loop
    that sends them. ``schedule`` says how often each is tried."""

    def __init__(
        self,
        url: str,
        *,
        events: Collection[str],
        metadata: Mapping[str, str],
        secret: str,
        http: GuardedHttp,
        schedule: Schedule,
        clock: Clock,
        timeout_s: float = 30.0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._url = event_target(url)
        self._events = event_names(events)
        self._metadata = dict(metadata)
        self._secret = secret
        self._http = http
        self._schedule = schedule
        self._clock = clock
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._waiting: OrderedDict[Hashable, _Event] = OrderedDict()
        self._bytes = 0
        self._number = 0
        self._news = asyncio.Event()
        self._troubled = False

    # -- what happens ------------------------------------------------------------------------------------------------

    def wants(self, kind: str) -> bool:
        """Whether this type of message, or event of the storage, is sent."""
        return kind in self._events

    def heard(self, kind: str, message: dict[str, Any]) -> None:
        """A message of ComfyUI's socket, with callers' ids in it."""
        data = message.get("data", {})
        figure = (kind, data.get("prompt_id"), data.get("node")) if kind in FIGURES else None
        self._add("comfy", kind, message, figure=figure)

    def downloaded(self, *, url: str, local_path: str, size_bytes: int, duration_s: float) -> None:
        """A file was fetched; not told of files that were here already."""
        facts = {"url": bare_url(url), "local_path": local_path, "size": size_bytes, "duration": duration_s}
        self._add("storage", "file_downloaded", facts)

    def uploaded(self, *, url: str, local_path: str | None, size_bytes: int, duration_s: float) -> None:
        """A file is where it was to be brought."""
        facts = {"url": bare_url(url), "local_path": local_path, "size": size_bytes, "duration": duration_s}
        self._add("storage", "file_uploaded", facts)

    def deleted(self, *, url: str | None, local_path: str, size_bytes: int) -> None:
        """A file that had been fetched was removed."""
        facts = {"url": bare_url(url) if url else "unknown", "local_path": local_path, "size": size_bytes}
        self._add("storage", "file_deleted", facts)

    def _add(self, family: str, kind: str, data: Mapping[str, Any], *, figure: Hashable = None) -> None:
        if kind not in self._events:
            return
        self._number += 1
        try:
            body = orjson.dumps({"event": f"{family}.{kind}", "data": data, "metadata": self._metadata})
        except orjson.JSONEncodeError:  # a node's own numbers and texts may be beyond what JSON can say
            self._trouble("it can't be written", kind)
            return
        key = figure or self._number
        if (replaced := self._waiting.pop(key, None)) is not None:
            self._bytes -= len(replaced.body)
        self._waiting[key] = _Event(number=self._number, kind=kind, body=body)
        self._bytes += len(body)
        while len(self._waiting) > MOST_WAITING or self._bytes > self._most_bytes:
            self._trouble("too many wait", self._next().kind)
        self._news.set()

    def _next(self) -> _Event:
        _, event = self._waiting.popitem(last=False)
        self._bytes -= len(event.body)
        return event

    # -- sending -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send events, one after the other; for ever."""
        while True:
            await self._news.wait()
            while self._waiting:
                await self._send(self._next())
            self._news.clear()

    async def _send(self, event: _Event) -> None:
        first = self._clock.now()
        signed = salad_headers(message_id=str(uuid.uuid4()), at=first, body=event.body, secret=self._secret)
        headers = {"Content-Type": "application/json", SEQUENCE: str(event.number)} | signed
        failures = 0
        while True:
            verdict, cause, patience_s = await self._try(event.body, headers)
            if verdict is Verdict.DELIVERED:
                self._troubled = False
                return
            failures += 1
            again = self._next_at(failures, patience_s) if verdict is Verdict.AGAIN else None
            if again is None:
                self._trouble(cause, event.kind)
                return
            await self._clock.sleep(max((again - self._clock.now()).total_seconds(), 0.0))

    async def _try(self, body: bytes, headers: Mapping[str, str]) -> tuple[Verdict, str, float | None]:
        """Return what came of it, why, and for how long the target wants to be left alone."""
        try:
            answer = await self._http.answer_to(
                self._url, body=body, headers=headers, timeout_s=self._timeout_s, trusted=True
            )
        except UnsafeInput as error:
            return Verdict.REFUSED, error.message, None
        except (ClientError, OSError) as error:  # TimeoutError is an OSError
            return Verdict.AGAIN, type(error).__name__, None
        patience_s = retry_after_s(answer.headers.get("Retry-After"), self._clock.now())
        return self._schedule.judge(answer.status), f"status {answer.status}", patience_s

    def _next_at(self, failures: int, patience_s: float | None) -> datetime | None:
        return self._schedule.next_at(
            failures=failures, now=self._clock.now(), chance=random.random(), retry_after_s=patience_s
        )

    def _trouble(self, cause: str, kind: str) -> None:
        """Say once, until one is delivered again, that events are lost."""
        if not self._troubled:
            log.warning("system event lost", extra={"event": "system_event.lost", "kind": kind, "cause": cause})
        self._troubled = True


def bare_url(url: str) -> str:
    """A URL without what may open it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "unknown"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def system_events(
    salad: SaladSettings, delivery: DeliverySettings, *, http: GuardedHttp, clock: Clock
) -> SystemEvents | None:
    """What the settings ask for; ``None`` where no events are wanted. Raises: SettingsError."""
    names, url = event_names(salad.system_webhook_events), salad.system_webhook_url
    if url is None or not names or not delivery.salad_webhook_attempts:
        return None
    secret = delivery.salad_webhook_secret or delivery.webhook_secret
    return SystemEvents(
        url,
        events=names,
        metadata={**salad.system_metadata, **salad.cloud},
        secret=secret.get_secret_value() if secret else "",
        http=http,
        schedule=schedules(delivery)[WebhookScheme.SALAD_SIGNED],
        clock=clock,
        timeout_s=delivery.webhook_timeout_s,
    )
