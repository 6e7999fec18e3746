"""What webhooks are told: each wanted message is rendered once, in the body's form of its dialect or scheme.

Knows neither how nor when messages are sent (``lib.delivery.outbox``).
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from lib.clock import Clock
from lib.jobs.model import Job, JobEvent, OutboxItem, Output, Timings, WebhookScheme, WebhookTarget
from lib.serving.payloads import dumps

BODY_BYTES = 20_000
"""Standard Webhooks want bodies under about 20 KB: links instead of files, and of many outputs the first ones."""
TEXT_CHARS = 512

Render = Callable[[Job, WebhookTarget], bytes | Sequence[bytes]]
"""A body, or one for each message where a dialect tells of every output apart."""
Send = Callable[[tuple[OutboxItem, ...]], None]
Link = Callable[[Job], str | None]


class Announcements:
    """Implements ``Announcer``. ``renders``: a dialect's own body, by the dialect's name; ``send``: starts sending
    what is stored (``WebhookSender.send``); ``result_url``: where a job's result can be read, for thin messages.

    ``messages`` is pure and may be called in a thread, which pays for jobs with megabytes of inlined files.
    """

    def __init__(
        self,
        *,
        renders: Mapping[str, Render],
        send: Send,
        clock: Clock,
        result_url: Link = lambda job: None,
    ) -> None:
        self._renders = renders
        self._send = send
        self._clock = clock
        self._result_url = result_url

    def messages(self, job: Job, event: JobEvent) -> tuple[OutboxItem, ...]:
        """Return the messages for each target that wants this event; none for our own benchmark."""
        targets = () if job.spec.internal else job.spec.delivery.webhooks
        wanting = [target for target in targets if event in target.events]
        return tuple(item for target in wanting for item in self._told(job, event, target))

    def stored(self, items: tuple[OutboxItem, ...]) -> None:
        """Send what is recorded now."""
        self._send(items)

    def _told(self, job: Job, event: JobEvent, target: WebhookTarget) -> Iterator[OutboxItem]:
        now = self._clock.now()
        if target.scheme is WebhookScheme.STANDARD:
            bodies: bytes | Sequence[bytes]
            bodies = render_standard(job, target, event=event, at=now, result_url=self._result_url(job))
        else:
            bodies = self._renders[job.spec.dialect](job, target)
        for body in (bodies,) if isinstance(bodies, bytes) else bodies:
            yield OutboxItem(
                message_id=f"msg_{uuid.uuid4().hex}",
                job_id=job.job_id,
                owner=job.spec.owner,
                event=event,
                target=target,
                body=body,
                created_at=now,
                next_at=now,
            )


def render_standard(
    job: Job, target: WebhookTarget, *, event: JobEvent, at: datetime, result_url: str | None = None
) -> bytes:
    """Return a Standard Webhooks body: ``{"type": "job.completed", "timestamp", "data": {...}}``, under 20 KB.

    ``data``: ``id`` (the caller's), ``job_id``, ``status``, ``message``, ``outputs`` (facts and links, no file data),
    ``output_count``, ``timings``; ``result_url``, ``error``, ``warnings``, ``extra`` where there is something to say.
    What does not fit is left out: first outputs at the end, then ``warnings``, then ``extra``.
    """
    data: dict[str, Any] = {
        "id": job.spec.request_id,
        "job_id": job.job_id,
        "status": str(job.status),
        "message": job.message[:TEXT_CHARS],
        "output_count": len(job.outputs),
        "timings": _timings(job.timings),
    }
    if result_url is not None:
        data["result_url"] = result_url
    if job.error is not None:
        error = job.error
        message = error.message[:TEXT_CHARS]
        data["error"] = {"code": str(error.code), "message": message, "retryable": error.retryable}
    known = {name: orjson.Fragment(dumps(value)) for name, value in data.items()}
    room = BODY_BYTES - len(orjson.dumps(known)) - 200  # the envelope
    for name, value in (("extra", target.extra_params), ("warnings", [text[:TEXT_CHARS] for text in job.warnings])):
        if value and len(encoded := dumps(value)) <= room:
            known[name] = orjson.Fragment(encoded)
            room -= len(encoded)
    return orjson.dumps(
        {"type": f"job.{event}", "timestamp": _stamp(at), "data": {**known, "outputs": _fitting(job.outputs, room)}}
    )


def _fitting(outputs: tuple[Output, ...], room: int) -> list[orjson.Fragment]:
    found: list[orjson.Fragment] = []
    for output in outputs:
        encoded = dumps(_entry(output))
        room -= len(encoded) + 1
        if room < 0:
            break
        found.append(orjson.Fragment(encoded))
    return found


def _entry(output: Output) -> dict[str, Any]:
    entry = {
        "node_id": output.node_id,
        "kind": str(output.kind),
        "filename": output.filename,
        "mime_type": output.mime_type,
        "size_bytes": output.size_bytes,
        "width": output.width,
        "height": output.height,
        "text": output.text[:TEXT_CHARS] if output.text is not None else None,
        "url": output.url,
        "url_expires_at": _stamp(output.url_expires_at) if output.url_expires_at else None,
        "thumbnail_url": output.thumbnail_url,
        "error": output.upload_error or output.error,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _timings(timings: Timings) -> dict[str, Any]:
    moments = {
        "accepted_at": timings.accepted_at,
        "started_at": timings.execution_started_at,
        "finished_at": timings.finished_at,
    }
    stages = {"prepare_s": timings.prepare_s, "wait_s": timings.wait_s, "execute_s": timings.execute_s}
    stamped = {name: _stamp(at) for name, at in moments.items() if at is not None}
    return stamped | {name: round(seconds, 3) for name, seconds in stages.items() if seconds is not None}


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
