"""lib.jobs.codec: what is stored of a job comes back as it was, and other versions' rows do no harm."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import errors
from lib.errors import EngineDied, ErrorCode, ExecutionFailed, RateLimited, ServiceError
from lib.jobs.codec import (
    CodecError,
    decode_job,
    decode_message,
    decode_request,
    encode_job,
    encode_message,
    encode_request,
    pack,
    unpack,
)
from lib.jobs.model import Job, JobStatus, NamedInput, OutboxItem
from tests.lib.jobs.store_values import TO_S3, ended, job, message

TEXT = st.text(st.characters(codec=None), max_size=8)
"""Any characters, lone surrogates too."""
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


@st.composite
def service_errors(draw: st.DrawFn) -> ServiceError:
    kind = draw(st.sampled_from(CLASSES))
    given: dict[str, Any] = {
        "details": draw(st.dictionaries(TEXT, JSON, max_size=2)),
        "retry_after_s": draw(st.none() | st.floats(0, 1e6)),
    }
    if kind is EngineDied:
        given["started"] = draw(st.booleans())
    error = kind(draw(TEXT), **given)
    if draw(st.booleans()):
        error.retryable = not kind.retryable
    return error


@cache
def values(hint: Any) -> st.SearchStrategy[Any]:
    """Every value of a type of the model."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.none() | values(next(each for each in arguments if each is not types.NoneType))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is frozenset:
        return st.frozensets(values(arguments[0]), max_size=3)
    if origin is not None:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=2)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{field.name: values(hints[field.name]) for field in dataclasses.fields(hint)})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        bytes: st.binary(max_size=8),
        bool: st.booleans(),
        int: st.integers(),
        float: NUMBERS,
        datetime: st.datetimes(timezones=st.just(UTC)),
        ServiceError: service_errors(),
        Any: JSON,
    }
    return plain[hint]


def seen(value: Any) -> Any:
    """A value in a form that compares errors by what they say."""
    if isinstance(value, ServiceError):
        started = value.started if isinstance(value, EngineDied) else None
        return type(value), value.message, dict(value.details), value.retry_after_s, value.retryable, started
    if dataclasses.is_dataclass(value):
        return type(value), [seen(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple):
        return tuple(seen(each) for each in value)
    return dict(value) if isinstance(value, Mapping) else value


@settings(max_examples=150, deadline=None)
@given(values(Job))
def test_every_job_comes_back(given: Job) -> None:
    """All fields of all values in it; workflow and response are kept apart."""
    packed = encode_job(given)
    back = decode_job(packed, request=encode_request(given.spec), response=given.response)
    assert seen(back) == seen(given)


def test_files_are_no_part_of_a_job_s_own_bytes() -> None:
    """News of a job don't write megabytes again; a request without files is its workflow, as it always was."""
    with_files = job(1, files=(NamedInput(name="a.png", value="picture" * 1000),))
    assert b"picture" not in encode_job(with_files)
    assert decode_request(encode_request(with_files.spec)) == (with_files.spec.workflow, with_files.spec.files)
    assert encode_request(job(1).spec) == job(1).spec.workflow


@pytest.mark.parametrize(
    "stored", [b"\0", b"\0" + b"\xff" * 8, b"\0" + bytes(7) + b"\x02{}", b"\0" + bytes(7) + b"\x03[1]{}"]
)
def test_a_torn_request_is_a_codec_error(stored: bytes) -> None:
    """And never half a request."""
    with pytest.raises(CodecError):
        decode_request(stored)


@settings(max_examples=50, deadline=None)
@given(values(OutboxItem))
def test_every_message_comes_back(given: OutboxItem) -> None:
    """With the columns that are kept beside it."""
    columns = ("message_id", "job_id", "owner", "body", "next_at", "attempts", "last_error", "dead")
    known = {name: getattr(given, name) for name in columns}
    assert decode_message(encode_message(given), **known) == given


@given(JSON)
def test_json_comes_back(value: Any) -> None:
    """Integers of any size stay integers, text stays text."""
    back = unpack(pack(value))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_error_class_comes_back(kind: type[ServiceError]) -> None:
    """By its code, which only one class has."""
    error = kind("m", **({"started": True} if kind is EngineDied else {}))
    found = decode_job(encode_job(ended(job(1), JobStatus.FAILED, error=error))).error
    assert type(found) is kind


def test_every_code_has_a_class() -> None:
    """So that no stored error loses its kind."""
    assert {kind.code for kind in CLASSES} == set(ErrorCode)


def changed(**changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(encode_job(job(1, delivery=TO_S3))) | changes)


def test_unknown_keys_are_passed_over() -> None:
    """A row of a newer version is read by an older one: here and in every value inside."""
    fields = orjson.loads(encode_job(job(1, delivery=TO_S3)))
    fields |= {"v": 2, "mood": "new"}
    fields["spec"]["mood"] = 1
    fields["spec"]["delivery"]["s3"]["mood"] = {}
    fields["timings"]["mood"] = None
    assert decode_job(orjson.dumps(fields), request=job(1).spec.workflow) == job(1, delivery=TO_S3)


def test_missing_keys_have_their_default() -> None:
    """A row of an older version is read by a newer one."""
    fields = orjson.loads(encode_job(job(1)))
    for name in ("warnings", "inputs", "posts", "expected_s", "stage"):
        del fields[name]
    del fields["spec"]["traceparent"]
    assert decode_job(orjson.dumps(fields), request=job(1).spec.workflow) == job(1)


def test_version_one_stays_readable() -> None:
    """The bytes of the first release, as they were written then."""
    stored = (
        b'{"v":1,"spec":{"request_id":"r1","dialect":"test","body_hash":"h","owner":"","cost":null,"estimate":{"units":'
        b'12.5,"shape":"s"},"idempotency":null,"credentials":[{"kind":"http","pattern":"https://*","values":{"A":"b"}}],'
        b'"traceparent":null,"delivery":{"s3":null,"put":null,"inline_base64":true,"convert":null,"keep_metadata":null,'
        b'"thumbnail":null,"webhooks":[],"include_temp":false,"base_url":null},"on_disconnect":"keep"},"job_id":"j1",'
        b'"sequence":1,"cost":100.0,"timings":{"accepted_at":"2026-01-01T00:00:00+00:00"},"run":1,"status":"failed",'
        b'"error":{"code":"out_of_memory","message":"No memory.","details":{"node_id":"3"},"retryable":false,'
        b'"retry_after_s":null,"started":null}}'
    )
    found = decode_job(stored)
    assert (found.status, found.spec.delivery.inline_base64) == (JobStatus.FAILED, True)
    assert found.spec.estimate is not None and found.spec.estimate.units == 12.5
    assert isinstance(found.error, ExecutionFailed) and found.error.details == {"node_id": "3"}


@pytest.mark.parametrize(
    "stored",
    [b"", b"{", b"[]", b"{}", b"null", b'{"spec": 1}', b" {", changed(status="dreaming"), changed(timings=None),
     changed(cost="much"), changed(outputs=[{"node_id": 1}]), changed(sequence=True)],
)  # fmt: skip
def test_nonsense_is_a_codec_error(stored: bytes) -> None:
    """And never another exception, nor a job that is half right."""
    with pytest.raises(CodecError):
        decode_job(stored)


def test_an_unknown_code_is_kept_as_a_plain_error() -> None:
    """A newer version's error keeps its message, and its code in the details."""
    error = {"code": "tired", "message": "Too tired.", "details": {"a": 1}, "retryable": True, "retry_after_s": 2}
    found = decode_job(changed(error=error)).error
    assert type(found) is ServiceError and found.retryable
    assert (found.message, found.details) == ("Too tired.", {"a": 1, "code": "tired"})


def test_details_of_any_type_are_stored() -> None:
    """A path or an exception in an error's details becomes text; the job's end is recorded."""
    error = RateLimited("m", details={"path": ValueError("x"), "when": datetime(2026, 1, 1, tzinfo=UTC)})
    found = decode_job(encode_job(ended(job(1), JobStatus.FAILED, error=error))).error
    assert isinstance(found, RateLimited)
    assert found.details == {"path": "x", "when": "2026-01-01T00:00:00+00:00"}


def test_what_has_no_end_is_a_codec_error() -> None:
    """Nesting beyond every encoder is refused, not a crash of the thread that writes."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError):
        pack(deep)


def test_messages_are_read_like_jobs() -> None:
    """Nonsense is a CodecError here too."""
    with pytest.raises(CodecError):
        decode_message(b"[]")
    with pytest.raises(CodecError):
        decode_message(encode_message(message("a")))
