"""Logging: text for people or JSON for machines, the ids of the work in hand, and no secrets.

Every record is a constant message with facts in ``extra``; an ``event`` names it (``job.admitted``).
"""

import contextlib
import contextvars
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

_job: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("job", default=MappingProxyType({}))
_request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("http_request_id", default=None)
_caller: contextvars.ContextVar[str | None] = contextvars.ContextVar("http_caller", default=None)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event", "taskName"}
_SECRET_NAME = re.compile(r"(?i)secret|token|password|passwd|authorization|signature|api_?key|access_key|credential")
_HIDDEN = "***"
_MOST_CHARS = 8192
"""Of one fact. What callers send may be in it, and should neither fill the log nor keep the event loop."""
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@\"'<>]{1,2048}@"), r"\1***@"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://[^\s?\"'<>\\]{1,2048})\?[^\s\"'<>\\]+"), r"\1?***"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9+/=._~-]{8,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)((?:secret|token|password|authorization|signature|api_?key|access_key)[\w-]{0,64}[\"']?"
            r"\s{0,64}[:=]\s{0,64})(?:\"[^\"]*\"|'[^']*'|[^\s,;&}\]]+)"
        ),
        r"\1***",
    ),
)


@contextlib.contextmanager
def job_context(job_id: str, **facts: str) -> Iterator[None]:
    """Put ``job_id`` and ``facts`` (``request_id``, ``dialect``, ``owner``; empty ones are left out) on every record
    that is logged inside, in this task and those it starts."""
    token = _job.set({"job_id": job_id} | {name: value for name, value in facts.items() if value})
    try:
        yield
    finally:
        _job.reset(token)


def add_job_facts(**facts: str) -> None:
    """Put more of what is known by now (``engine``) on the records of the job in hand, in this task and those that it
    starts from here on."""
    _job.set({**_job.get(), **facts})


def set_request_id(request_id: str) -> None:
    """Put the HTTP request's id on the records of this task until the next request of its connection."""
    _request_id.set(request_id)
    _caller.set(None)


def set_caller(name: str) -> None:
    """Put who called (a key's name) on the records of this task until the next request of its connection."""
    _caller.set(name)


def redact(text: str) -> str:
    """Hide what may be a secret: query strings and user parts of URLs, bearer tokens, values of secret fields."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def configure_logging(
    *, level: str = "INFO", log_format: Literal["text", "json"] = "text", stream: TextIO | None = None
) -> None:
    """Send all records to one stream, ``stderr`` by default. Raises: ValueError for an unknown level."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_add_context)
    handler.setFormatter(TextFormatter() if log_format == "text" else RedactingJsonFormatter())
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    for chatty in ("asyncio", "botocore", "boto3", "s3transfer", "urllib3", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed in ``extra``, secrets hidden."""
    return {name: _hide(name, value) for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """``2026-01-01 12:00:00,000 INFO lib.jobs.service job.admitted admitted job_id=... cost=100``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; a traceback follows on its own lines."""
        record.message = record.getMessage()
        event = getattr(record, "event", None)
        parts = [self.formatTime(record), record.levelname, record.name, *([event] if event else []), record.message]
        line = " ".join([*parts, *(f"{name}={_shown(value)}" for name, value in facts(record).items())])
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return redact("\n".join([line, *([record.exc_text] if record.exc_text else [])]))


class RedactingJsonFormatter(JsonFormatter):
    """One JSON object a line: ``timestamp``, ``level``, ``logger``, ``event``, ``message``, and the facts."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp=True,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Hide secrets in every field, the traceback among them."""
        return {name: _hide(name, value) for name, value in super().process_log_record(log_data).items()}


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client did wrong: of each request that is no HTTP, and of a body whose encoding is broken and that
    nobody reads, aiohttp logs a traceback; scanners send many."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not (kind.__module__ == "aiohttp.http_exceptions" or kind.__name__ == "RequestPayloadError")


def _add_context(record: logging.LogRecord) -> bool:
    for name, value in _job.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    if (request_id := _request_id.get()) is not None:
        record.http_request_id = request_id
    if (caller := _caller.get()) is not None:
        record.caller = caller
    return True


def _hide(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return _HIDDEN
    match value:
        case str():
            return redact(value if len(value) <= _MOST_CHARS else f"{value[:_MOST_CHARS]}...")
        case Mapping():
            return {key: _hide(str(key), item) for key, item in value.items()}
        case list() | tuple():
            return [_hide("", item) for item in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return _hide(name, str(value))


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(mark in text for mark in " \n\t=") else text
