"""Jobs and webhook messages as versioned JSON, for the store.

Every field of the values in ``lib.jobs.model`` is written under its own name, so a field that is renamed there needs
a step here. Reading takes what an older or a newer version wrote: unknown keys are passed over, missing ones get
their default. The request itself (workflow and files), response and message body are not part of it: a store keeps
those apart.
"""

import dataclasses
import json
import struct
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

import orjson

from lib import errors
from lib.errors import EngineDied, ServiceError
from lib.jobs.model import Job, JobSpec, NamedInput, OutboxItem

VERSION = 1
PLAIN = b" "
"""First byte of what Python's own encoder wrote: orjson would read its big integers as floats."""
FILES = b"\0"
"""First byte of a request with files, before their size, themselves and the workflow; no JSON begins with it."""
FILES_SIZE = struct.Struct(">Q")

Decoder = Callable[[Any], Any]
T = TypeVar("T")


class CodecError(ValueError):
    """The stored bytes can't be read by this version, or the value can't be written as JSON."""


# -- JSON --------------------------------------------------------------------------------------------------------------


def pack(value: object) -> bytes:
    """Encode JSON values and the model's own, also lone surrogates and integers beyond 64 bits. Raises CodecError."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:
        pass
    try:
        return PLAIN + json.dumps(value, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from error


def unpack(packed: bytes) -> Any:
    """Decode what ``pack`` made. Raises CodecError."""
    try:
        return json.loads(packed) if packed[:1] == PLAIN else orjson.loads(packed)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from error


def _plain(value: Any) -> object:
    """What neither encoder knows; dates, enumerations and dataclasses reach it from Python's own only."""
    if isinstance(value, ServiceError):
        return _plain_error(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _plain_error(error: ServiceError) -> dict[str, object]:
    return {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
        "started": error.started if isinstance(error, EngineDied) else None,
    }


# -- what is stored ----------------------------------------------------------------------------------------------------

_JOB_FIELDS = tuple(field.name for field in dataclasses.fields(Job) if field.name not in ("spec", "response"))
_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(JobSpec) if field.name not in ("workflow", "files"))


def encode_request(spec: JobSpec) -> bytes:
    """Return workflow and files as one; a workflow alone is itself. Raises CodecError."""
    if not spec.files and spec.workflow[:1] != FILES:
        return spec.workflow
    files = pack(spec.files)
    return b"".join((FILES, FILES_SIZE.pack(len(files)), files, spec.workflow))


def decode_request(packed: bytes) -> tuple[bytes, tuple[NamedInput, ...]]:
    """Return the workflow and files that ``encode_request`` was given. Raises CodecError."""
    if packed[:1] != FILES:
        return packed, ()
    start = len(FILES) + FILES_SIZE.size
    end = start + FILES_SIZE.unpack_from(packed, len(FILES))[0] if len(packed) >= start else 0
    if not start <= end <= len(packed):
        raise CodecError("not a request")
    files = unpack(packed[start:end])
    if not isinstance(files, list):
        raise CodecError("not files")
    return packed[end:], tuple(_built(NamedInput, file) for file in files)


def encode_job(job: Job) -> bytes:
    """Return a job without its request and response. Raises CodecError."""
    spec = job.spec
    fields: dict[str, object] = {"v": VERSION, "spec": {name: getattr(spec, name) for name in _SPEC_FIELDS}}
    fields |= {name: getattr(job, name) for name in _JOB_FIELDS}
    return pack(fields)


def decode_job(packed: bytes, *, request: bytes = b"", response: Mapping[str, Any] | None = None) -> Job:
    """Return the job that ``encode_job`` was given, completed with what was kept apart. Raises CodecError."""
    fields = unpack(packed)
    if not isinstance(fields, dict) or not isinstance(fields.get("spec"), dict):
        raise CodecError("not a job")
    workflow, files = decode_request(request)
    spec = _built(JobSpec, fields["spec"], workflow=workflow, files=files)
    return _built(Job, fields, spec=spec, response=response or {})


def encode_message(item: OutboxItem) -> bytes:
    """Return what never changes of a message, without its body. Raises CodecError."""
    return pack({"v": VERSION, "event": item.event, "target": item.target, "created_at": item.created_at})


def decode_message(packed: bytes, **known: Any) -> OutboxItem:
    """Return the message that ``encode_message`` was given; ``known`` has its other fields. Raises CodecError."""
    fields = unpack(packed)
    if not isinstance(fields, dict):
        raise CodecError("not a message")
    return _built(OutboxItem, fields, **known)


# -- reading by the model's types --------------------------------------------------------------------------------------


def _built(kind: type[T], fields: Mapping[str, Any], **known: Any) -> T:
    model: Any = kind
    decoders = _field_decoders(model)
    try:
        read = {name: decoders[name](value) for name, value in fields.items() if name in decoders and name not in known}
        return kind(**read, **known)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CodecError(f"{kind.__name__}: {error}") from error


@cache
def _field_decoders(kind: type[Any]) -> Mapping[str, Decoder]:
    hints = typing.get_type_hints(kind)
    return {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind)}


def _decoder(hint: Any) -> Decoder:
    """Return the function that turns JSON into a value of this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (_decoder(argument) for argument in arguments if argument is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if origin in (tuple, frozenset):
        item = _decoder(arguments[0])
        return lambda value: origin([item(each) for each in value])
    if origin is not None:
        item = _decoder(arguments[1])
        return lambda value: {key: item(each) for key, each in value.items()}
    return _plain_decoder(hint)


def _plain_decoder(hint: Any) -> Decoder:
    if hint is datetime:
        return datetime.fromisoformat
    if hint is ServiceError:
        return _error
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda value: _built(hint, value)
    if hint in (str, int, bool, float):
        return _checked((int, float) if hint is float else (hint,))
    return lambda value: value


def _checked(kinds: tuple[type, ...]) -> Decoder:
    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"{type(value).__name__} instead of {kinds[-1].__name__}")
        return value

    return check


# -- errors ------------------------------------------------------------------------------------------------------------


@cache
def _error_classes() -> Mapping[str, type[ServiceError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    return {kind.code: kind for kind in found}


def _error(fields: Mapping[str, Any]) -> ServiceError:
    kind = _error_classes().get(fields["code"], ServiceError)
    given = {"details": fields.get("details"), "retry_after_s": fields.get("retry_after_s")}
    if issubclass(kind, EngineDied):
        error: ServiceError = kind(fields["message"], started=bool(fields.get("started")), **given)
    else:
        error = kind(fields["message"], **given)
    if kind.code != fields["code"]:
        error.details = {**error.details, "code": fields["code"]}
    if fields.get("retryable", error.retryable) != error.retryable:
        error.retryable = fields["retryable"]
    return error
