"""The wrapper's requests become job specs."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import errors
from lib.dialects.wrapper.render import render_refusal
from lib.dialects.wrapper.schema import Input
from lib.errors import InvalidRequest, ServiceError
from lib.jobs.model import (
    Credential,
    DeliverySpec,
    JobEvent,
    PutTarget,
    ThumbnailSpec,
    WebhookScheme,
    WebhookTarget,
)
from lib.serving.errors import status_of
from lib.workflow.cost import measure
from lib.workflow.decoding import check

from .conftest import PICTURE, make_payload


def request(**changes: Any) -> dict[str, Any]:
    """A good request with other fields."""
    return {"input": {"workflow_json": PICTURE, **changes}}


def problems(payload: Any) -> list[dict[str, Any]]:
    """The ``detail`` list that a request gets."""
    with pytest.raises(InvalidRequest) as caught:
        make_payload().parse(payload, {})
    body: dict[str, Any] = render_refusal(caught.value, "")
    assert (body["error"], body["message"]) == ("invalid_request", caught.value.message)
    detail: list[dict[str, Any]] = body["detail"]
    return detail


# -- requests ---------------------------------------------------------------------------------------------------


def test_a_workflow_becomes_a_spec() -> None:
    """The graph as bytes, an id of ours, nothing delivered anywhere."""
    spec = make_payload().parse(request(), {})
    assert orjson.loads(spec.workflow) == PICTURE
    assert len(spec.request_id) == 36
    assert spec.delivery == DeliverySpec()
    assert spec.dialect == "wrapper"


def test_the_callers_id_is_kept() -> None:
    """It names the job, the folder and the key."""
    assert make_payload().parse(request(request_id="my-id_1.x"), {}).request_id == "my-id_1.x"


@pytest.mark.parametrize(
    "request_id", ["../../x", "/abs", "a/b", ".hidden", "-x", "a b", "x" * 129, "a\n", "ü", 7, None]
)
def test_ids_that_are_no_names_are_refused(request_id: object) -> None:
    """An id becomes part of paths."""
    (problem,) = problems(request(request_id=request_id))
    assert problem["loc"] == ["body", "input", "request_id"]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            {"input": {"workflow_json": PICTURE, "modifier": "Text2Image"}},
            "Value error, Cannot provide both workflow_json and modifier - they are mutually exclusive",
        ),
        ({"input": {}}, "Value error, Must provide either workflow_json OR modifier"),
        (
            {"input": {"workflow_json": {}, "modifier": ""}},
            "Value error, Must provide either workflow_json OR modifier",
        ),
        (
            {"input": {"workflow_json": PICTURE, "modifications": {"a": 1}}},
            "Value error, modifications can only be provided when modifier is specified",
        ),
    ],
)
def test_the_source_must_be_one(payload: dict[str, Any], text: str) -> None:
    """The texts are the wrapper's."""
    (problem,) = problems(payload)
    assert problem == {"type": "value_error", "loc": ["body", "input"], "msg": text}


@pytest.mark.parametrize(
    ("payload", "loc"),
    [
        ([], ["body"]),
        ("x", ["body"]),
        (None, ["body"]),
        ({}, ["body", "input"]),
        ({"input": []}, ["body", "input"]),
        (request(workflow_json=[]), ["body", "input", "workflow_json"]),
        (request(modifier=3), ["body", "input", "modifier"]),
        (request(s3="x"), ["body", "input", "s3"]),
        (request(s3={"connect_timeout": "soon"}), ["body", "input", "s3", "connect_timeout"]),
        (request(webhook={"extra_params": []}), ["body", "input", "webhook", "extra_params"]),
        (request(return_outputs_as_base64="maybe"), ["body", "input", "return_outputs_as_base64"]),
        (request(timeout_s=0), ["body", "input", "timeout_s"]),
        (request(timeout_s="inf"), ["body", "input", "timeout_s"]),
        (request(sync_timeout_s=-1), ["body", "input", "sync_timeout_s"]),
        (request(metadata="some"), ["body", "input", "metadata"]),
        (request(convert_output={"format": "bmp"}), ["body", "input", "convert_output", "format"]),
        (request(thumbnail={"width": 0}), ["body", "input", "thumbnail", "width"]),
        (request(upload={"put_urls": ["ftp://h/x"]}), ["body", "input", "upload", "put_urls"]),
        (request(webhook={"events": ["sometimes"]}), ["body", "input", "webhook", "events"]),
        (request(webhooks=[{"events": []}]), ["body", "input", "webhooks"]),
        (request(credentials=[{"type": "ftp"}]), ["body", "input", "credentials"]),
        (request(credentials=[{"type": "http", "url_pattern": "*"}]), ["body", "input", "credentials"]),
    ],
)
def test_wrong_types_are_named(payload: Any, loc: list[str]) -> None:
    """Each mistake has its place."""
    assert problems(payload)[0]["loc"][: len(loc)] == loc


def test_no_value_is_echoed() -> None:
    """A 422 must not carry the caller's keys back, nor into logs."""
    block = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "topsecret", "connect_attempts": "many"}
    detail = problems(request(s3=block))
    assert "topsecret" not in json.dumps(detail)
    assert set(detail[0]) == {"type", "loc", "msg"}


def test_unknown_keys_are_ignored() -> None:
    """At the top, in the input and in the blocks."""
    payload = {**request(surprise=1, s3={"surprise": 1}), "other": True}
    assert make_payload().parse(payload, {}).delivery.s3 is None


def test_blocks_of_empty_strings_mean_nothing() -> None:
    """The published examples send them."""
    empty_s3 = {
        "access_key_id": "",
        "secret_access_key": "",
        "endpoint_url": "",
        "bucket_name": "",
        "region": "",
        "connect_timeout": 60,
        "connect_attempts": 3,
    }
    spec = make_payload().parse(request(s3=empty_s3, webhook={"url": "", "extra_params": {}}), {})
    assert spec.delivery == DeliverySpec()
    assert make_payload().parse(request(s3=None, webhook=None), {}).delivery == DeliverySpec()


def test_blocks_reach_the_planners() -> None:
    """Bucket, keys and webhook as sent."""
    s3 = {"access_key_id": "a", "secret_access_key": "b", "bucket_name": "c", "connect_attempts": 5}
    hook = {"url": "https://example.com/h", "extra_params": {"user": 7}, "secret": "s", "timeout": 9}
    delivery = make_payload().parse(request(s3=s3, webhook=hook), {}).delivery
    assert delivery.s3 is not None
    assert (delivery.s3.bucket_name, delivery.s3.connect_attempts) == ("c", 5)
    assert delivery.webhooks[0] == WebhookTarget(
        url="https://example.com/h", extra_params={"user": 7}, timeout_s=9.0, secret="s"
    )


def test_what_we_added_reaches_the_spec() -> None:
    """Conversion, metadata, thumbnails, PUT URLs, further webhooks, credentials."""
    given = request(
        convert_output={"format": "webp", "options": {}},
        metadata="strip",
        thumbnail={"width": 32, "height": 16},
        upload={"put_urls": ["https://h.example/1", "https://h.example/2"], "headers": {"X-Own": "1"}},
        webhook={"url": "https://h.example/a", "events": ["started", "failed"]},
        webhooks=[{"url": "https://h.example/b", "scheme": "standard"}],
        credentials=[
            {"type": "s3", "url_pattern": "s3://b/*", "access_key_id": "a", "secret_access_key": "s", "region": ""},
            {"type": "http", "url_pattern": "https://h.example/*", "headers": {"Authorization": "Bearer t"}},
        ],
    )
    spec = make_payload().parse(given, {})
    delivery = spec.delivery
    assert delivery.convert is not None
    assert delivery.convert.format == "webp"
    assert delivery.keep_metadata is False
    assert delivery.thumbnail == ThumbnailSpec(width=32, height=16, format="webp")
    assert delivery.put == PutTarget(urls=("https://h.example/1", "https://h.example/2"), headers={"X-Own": "1"})
    first, second = delivery.webhooks
    assert first.events == {JobEvent.STARTED, JobEvent.FAILED}
    assert (second.url, second.scheme) == ("https://h.example/b", WebhookScheme.STANDARD)
    assert spec.credentials == (
        Credential(kind="s3", pattern="s3://b/*", values={"access_key_id": "a", "secret_access_key": "s"}),
        Credential(kind="http", pattern="https://h.example/*", values={"Authorization": "Bearer t"}),
    )
    assert make_payload().parse(request(metadata="keep"), {}).delivery.keep_metadata is True


def test_secrets_show_nowhere() -> None:
    """Neither in the printed spec nor in a refusal."""
    secret = {"type": "http", "url_pattern": "https://h.example/*", "headers": {"Authorization": "topsecret"}}
    assert "topsecret" not in repr(make_payload().parse(request(credentials=[secret]), {}))
    assert "topsecret" not in json.dumps(problems(request(credentials=[{**secret, "url_pattern": "x"}])))


def test_the_work_is_estimated_from_the_graph() -> None:
    """The bound one, where a modifier makes it."""
    assert make_payload().parse(request(), {}).estimate == measure(PICTURE)
    ten, forty = (
        make_payload().parse({"input": {"modifier": "Text2Image", "modifications": {"steps": steps}}}, {}).estimate
        for steps in (10, 40)
    )
    assert ten is not None
    assert forty is not None
    assert forty.units > 3 * ten.units


def test_the_routes_part_is_not_the_jobs() -> None:
    """How long a caller waits says nothing about the job."""
    asked = make_payload().read(request(sync_timeout_s=2.5), {})
    assert asked.sync_timeout_s == 2.5
    assert make_payload().read(request(), {}).sync_timeout_s is None


def test_half_a_bucket_is_refused_with_its_field() -> None:
    """Never the operator's keys for a caller's bucket."""
    (problem,) = problems(request(s3={"bucket_name": "mine"}))
    assert problem["loc"] == ["body", "input", "s3", "bucket_name"]


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("TRUE", True), ("yes", True), ("On", True), ("0", False), ("", False)]
)
def test_the_header_can_ask_for_base64(value: str, expected: bool) -> None:
    """It sets the flag, it can't clear it."""
    headers = {"X-Return-Outputs-As-Base64": value}
    assert make_payload().parse(request(), headers).delivery.inline_base64 is expected
    assert make_payload().parse(request(return_outputs_as_base64=True), headers).delivery.inline_base64


def test_the_header_decides_about_the_response_either_way() -> None:
    """Without it the operator's setting does, which is on by default."""
    name = "X-Include-ComfyUI-Response"
    on, off = make_payload(), make_payload(include_response=False)
    assert [on.wants_response({}), off.wants_response({})] == [True, False]
    assert [on.wants_response({name: "false"}), off.wants_response({name: "true"})] == [False, True]
    assert off.parse(request(), {name: "1"}).keep_response


def test_equal_requests_have_equal_hashes() -> None:
    """Whatever the order of keys; anything else that differs makes another request."""
    parse = make_payload().parse
    one = parse({"input": {"request_id": "a", "workflow_json": PICTURE}}, {}).body_hash
    assert parse({"input": {"workflow_json": PICTURE, "request_id": "a"}}, {}).body_hash == one
    assert parse({"input": {"workflow_json": PICTURE, "request_id": "b"}}, {}).body_hash != one
    assert parse(request(request_id="a"), {"X-Return-Outputs-As-Base64": "1"}).body_hash != one


def test_a_modifier_is_bound() -> None:
    """The template with the caller's values, the seed still a placeholder so that each run draws its own."""
    spec = make_payload().parse({"input": {"modifier": "Text2Image", "modifications": {"prompt": "a cat"}}}, {})
    graph = orjson.loads(spec.workflow)
    assert graph["6"]["inputs"]["text"] == "a cat"
    assert graph["3"]["inputs"]["seed"] == "__RANDOM_INT__"


@pytest.mark.parametrize("name", ["text2image", "os", "../x"])
def test_an_unknown_modifier_is_refused_with_the_known_ones(name: str) -> None:
    """Names are exact."""
    (problem,) = problems({"input": {"modifier": name}})
    assert problem["loc"] == ["body", "input", "modifier"]
    assert "Unknown modifier" in problem["msg"]
    assert "Text2Image" in problem["msg"]


def test_bad_modifications_are_named() -> None:
    """Where in the request, what was expected."""
    (problem,) = problems({"input": {"modifier": "Text2Image", "modifications": {"steps": "many"}}})
    assert problem["loc"] == ["body", "input", "modifications", "steps"]


def test_a_bad_graph_is_refused_before_it_is_accepted() -> None:
    """The checks of the workflow package apply."""
    with pytest.raises(errors.InvalidWorkflow):
        make_payload().parse(request(workflow_json={"1": {"class_type": "A"}}), {})
    with pytest.raises(errors.UnsafeInput):
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "/etc/passwd"}}}
        make_payload().parse(request(workflow_json=graph), {})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a1/ü"),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["1", "class_type", "inputs", "url"]), children)
    ),
    max_leaves=8,
)
fields = st.sampled_from([*Input.model_fields, "workflow_json"])


@given(st.dictionaries(fields | st.text(max_size=3), values | st.just(PICTURE) | st.just("Text2Image")))
def test_any_request_is_translated_or_refused_with_4xx(fields: dict[str, Any]) -> None:
    """Bad input never is an error of ours, and the refusal is JSON."""
    try:
        make_payload().parse(check(json.dumps({"input": fields}).encode()), {})
    except ServiceError as error:
        assert 400 <= status_of(error) < 500
        json.dumps(render_refusal(error, "x"))
