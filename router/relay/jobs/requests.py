"""The request of a job, read as far as the router has to: its name, whom it tells of its end, how long it lives. Pure.

The body is stored as the caller sent it, with a name where it had none; a worker gets it without what is the router's.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from lib.errors import InvalidRequest
from lib.serving.payloads import dumps
from lib.workflow.decoding import check, invalid
from router.ports import RelayJob
from router.relay.jobs.forms import Dialect

BIG_BODY_BYTES = 256 * 1024
"""Larger bodies are read in a thread."""
WEEK_S = 604_800.0
LEAST_TTL_S = 10.0
SYNC, SUFFIX = "sync-", "-u1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAMED_BY = {Dialect.WRAPPER: "request_id", Dialect.SALAD: "id"}
_LONGEST_SALAD_NAME = 1024
HOOKS = ("webhook", "webhookV2")
"""RunPod's; told by the router, since a worker would tell its own name of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to keep. ``live_s``: its whole life from now on, where it has an end; ``hooked``: it names somebody who
    is to be told of its end."""

    name: str
    body: bytes = field(repr=False)
    live_s: float | None = None
    hooked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Who is told of a job's end by us. ``standard``: signed as Standard Webhooks are, where there is a secret;
    ``with_ours``: the operator's, as the request names none."""

    url: str
    secret: str = field(default="", repr=False)
    standard: bool = False
    with_ours: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    outcomes: frozenset[str] = frozenset()
    """Which it wants to hear of; none named = all."""


def read(dialect: Dialect, body: bytes, *, awaited: bool = False) -> Asked:
    """Read a submitted body; give the job a name where its caller did not. Raises: InvalidRequest."""
    request = check(body)
    if not isinstance(request, dict):
        raise invalid("The body must be a JSON object")
    if dialect is Dialect.RUNPOD:
        if request.get("input") is None:
            raise InvalidRequest("Please provide input", details={"field": "input"})
        name = f"{SYNC if awaited else ''}{uuid.uuid4()}{SUFFIX}"
        return Asked(name=name, body=body, live_s=_live_s(request), hooked=bool(_hooks(dialect, request)))
    fields = request if dialect is Dialect.SALAD else request.get("input")
    if not isinstance(fields, dict):
        raise invalid("Field required" if fields is None else "must be an object", loc=("input",))
    key = _NAMED_BY[dialect]
    hooked = bool(_hooks(dialect, request))
    if name := _name(dialect, fields.get(key)):
        return Asked(name=name, body=body, hooked=hooked)
    fields[key] = name = str(uuid.uuid4())
    return Asked(name=name, body=dumps(request), hooked=hooked)


def renamed(job: RelayJob, name: str) -> bytes:
    """The job's body as it would be with this name, where the name was made here."""
    if job.dialect == Dialect.RUNPOD:
        return job.body
    request = orjson.loads(job.body)
    fields = request if job.dialect == Dialect.SALAD else request["input"]
    fields[_NAMED_BY[Dialect(job.dialect)]] = name
    return dumps(request)


def for_worker(job: RelayJob) -> bytes:
    """The body as a worker gets it."""
    if job.dialect != Dialect.RUNPOD or b'"webhook' not in job.body:
        return job.body
    request = orjson.loads(job.body)
    return dumps({name: value for name, value in request.items() if name not in HOOKS})


def hooks(job: RelayJob) -> tuple[Hook, ...]:
    """Whom the job's own request names; the job is to be with its body."""
    return _hooks(Dialect(job.dialect), orjson.loads(job.body)) if b"webhook" in job.body else ()


def _hooks(dialect: Dialect, request: Mapping[str, Any]) -> tuple[Hook, ...]:
    match dialect:
        case Dialect.RUNPOD:
            url = request.get("webhook") or request.get("webhookV2")
            return (Hook(url=url),) if isinstance(url, str) else ()
        case Dialect.SALAD:
            newer = request.get("webhook_v2")
            url = newer or request.get("webhook")
            return (Hook(url=url, standard=True, with_ours=bool(newer)),) if isinstance(url, str) and url else ()
    fields = request["input"]
    listed = fields.get("webhooks")
    blocks = [fields.get("webhook"), *(listed if isinstance(listed, list) else ())]
    return tuple(
        _hook(block)
        for block in blocks
        if isinstance(block, dict) and isinstance(block.get("url"), str) and block["url"]
    )


def _hook(block: Mapping[str, Any]) -> Hook:
    secret, extra, events = block.get("secret"), block.get("extra_params"), block.get("events")
    return Hook(
        url=block["url"],
        secret=secret if isinstance(secret, str) else "",
        standard=block.get("scheme") == "standard",
        extra=extra if isinstance(extra, dict) else {},
        outcomes=frozenset(one for one in events if isinstance(one, str)) if isinstance(events, list) else frozenset(),
    )


def _name(dialect: Dialect, value: object) -> str:
    """The caller's own name; "" for none. What is no name is the dialect's to refuse, so the first check is ours."""
    if value is None or value == "":
        return ""
    fits = isinstance(value, str) and (
        len(value) <= _LONGEST_SALAD_NAME if dialect is Dialect.SALAD else _NAME.fullmatch(value) is not None
    )
    if not fits:
        place = (_NAMED_BY[dialect],) if dialect is Dialect.SALAD else ("input", _NAMED_BY[dialect])
        raise invalid("must be a name of letters, digits, '.', '_' and '-', of at most 128 characters", loc=place)
    return str(value)


def _live_s(request: Mapping[str, Any]) -> float | None:
    policy = request.get("policy")
    ttl = policy.get("ttl") if isinstance(policy, dict) else None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or ttl <= 0:
        return None
    return min(max(ttl / 1000, LEAST_TTL_S), WEEK_S)
