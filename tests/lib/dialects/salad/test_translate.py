"""Salad's request to a job spec."""

from typing import Any

import orjson
import pytest

from lib.dialects.salad.conversion import JpegOptions, WebpOptions
from lib.dialects.salad.echo import LEFT_OUT, MOST_TEXT_CHARS, told_graph
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import OUTCOMES, JobEvent, OnDisconnect, StoreKind, WebhookScheme
from lib.settings import DeliverySettings

from .conftest import HOOK, HOOK_2, PICTURE, REQUEST, make_payload

AWS = {"aws_region": "eu-central-1", "aws_access_key_id": "id", "aws_secret_access_key": "key"}


def read(more: dict[str, Any] | None = None, **settings: Any) -> Any:
    """What becomes of a request."""
    return make_payload(**settings).read({**REQUEST, **(more or {})})


def test_a_plain_request() -> None:
    """Files come inside the answer; who waits and leaves cancels it."""
    asked = read()
    spec = asked.spec
    assert (spec.dialect, spec.on_disconnect, asked.at_once) == ("salad", OnDisconnect.CANCEL, False)
    assert (spec.delivery.inline_base64, spec.delivery.must_arrive, spec.delivery.s3) == (True, False, None)
    assert spec.delivery.inline_large
    assert (spec.body_hash, spec.keep_response) == ("", False)
    graph = orjson.loads(spec.workflow)
    assert graph["1"] == PICTURE["1"]
    assert graph["2"]["inputs"]["filename_prefix"] == f"{spec.request_id}_ComfyUI"
    assert spec.estimate is not None


def test_the_same_id_with_the_same_body_is_the_same_request() -> None:
    """Whatever the order of keys."""
    payload = make_payload()
    one = payload.read({"id": "a", "prompt": PICTURE}).spec
    same = payload.read({"prompt": PICTURE, "id": "a"}).spec
    other = payload.read({"prompt": PICTURE, "id": "a", "webhook": HOOK}).spec
    assert one.body_hash == same.body_hash != other.body_hash


def test_credentials() -> None:
    """Each kind in the core's terms, with Salad's patterns."""
    auths = [
        {"type": "bearer", "token": "t"},
        {"type": "basic", "username": "ä", "password": "p"},
        {"type": "header", "header_name": "X-Key", "header_value": "v"},
        {"type": "query", "query_param": "key", "query_value": "v"},
        {"type": "s3", "access_key_id": "a", "secret_access_key": "s", "endpoint": "https://e", "region": "r"},
    ]
    spec = read({"credentials": [{"url_pattern": f"https://{n}/*", "auth": auth} for n, auth in enumerate(auths)]}).spec
    assert [(item.kind, dict(item.values)) for item in spec.credentials] == [
        ("http", {"Authorization": "Bearer t"}),
        ("http", {"Authorization": "Basic w6Q6cA=="}),
        ("http", {"X-Key": "v"}),
        ("query", {"query_param": "key", "query_value": "v"}),
        ("s3", {"access_key_id": "a", "secret_access_key": "s", "endpoint_url": "https://e", "region": "r"}),
    ]
    assert all(item.salad_pattern for item in spec.credentials)
    assert spec.credentials[2].pattern == "https://2/*"


@pytest.mark.parametrize(
    ("block", "settings", "kind", "place"),
    [
        (
            {"hf_upload": {"repo": "u/r", "repo_type": "dataset", "revision": "dev", "directory": "a/b"}},
            {"hf_token": "t"},
            StoreKind.HUGGING_FACE,
            {"repo": "u/r", "repo_type": "dataset", "revision": "dev", "directory": "a/b/"},
        ),
        (
            {"azure_blob_upload": {"container": "con", "blob_prefix": "/a/"}},
            {"azure_account": "acc", "azure_key": "a2V5"},
            StoreKind.AZURE,
            {"container": "con", "prefix": "a/"},
        ),
        (
            {"http_upload": {"url_prefix": "https://h.example.com/p"}},
            {},
            StoreKind.HTTP,
            {"url_prefix": "https://h.example.com/p"},
        ),
    ],
)
def test_storages(block: dict[str, Any], settings: Any, kind: StoreKind, place: dict[str, str]) -> None:
    """A file that does not arrive there fails the job."""
    wanted = read(block, **settings).spec.delivery
    assert wanted.store is not None
    assert (wanted.store.kind, dict(wanted.store.place)) == (kind, place)
    assert (wanted.must_arrive, wanted.inline_base64, wanted.s3) == (True, False, None)


@pytest.mark.parametrize("wait", [False, True])
def test_s3(wait: bool) -> None:
    """Plain keys; with ``async`` nobody waits."""
    asked = read({"s3": {"bucket": "bkt", "prefix": "p", "async": not wait}}, **AWS)
    target = asked.spec.delivery.s3
    assert (target.bucket_name, target.prefix, target.plain) == ("bkt", "p", True)
    assert asked.at_once != wait
    assert asked.spec.on_disconnect is (OnDisconnect.CANCEL if wait else OnDisconnect.KEEP)


def test_every_block_has_to_be_right() -> None:
    """Also one that does not count."""
    with pytest.raises(InvalidRequest, match="azure_blob_upload"):
        read({"s3": {"bucket": "bkt"}, "azure_blob_upload": {"container": "con"}}, **AWS)


def test_the_first_webhook_beats_a_storage() -> None:
    """As in comfyui-api, unless the operator wants it otherwise."""
    body = {"webhook": HOOK, "s3": {"bucket": "bkt"}}
    ignored, counted = read(body, **AWS).spec.delivery, read(body, webhook_uploads=True, **AWS).spec.delivery
    assert (ignored.s3, ignored.inline_base64, ignored.must_arrive) == (None, True, False)
    assert counted.s3 is not None
    assert (counted.inline_base64, counted.must_arrive) == (False, True)


def test_webhooks() -> None:
    """The second is signed, is called as the request is, and is told the request; of failures it alone hears."""
    plain, signed = read({"id": "abc", "webhook": HOOK, "webhook_v2": HOOK_2}).spec.delivery.webhooks
    assert (plain.url, plain.scheme, plain.events) == (HOOK, WebhookScheme.SALAD, {JobEvent.COMPLETED})
    assert (signed.url, signed.scheme, signed.events) == (HOOK_2, WebhookScheme.SALAD_SIGNED, OUTCOMES)
    assert signed.message_name == "abc"
    assert signed.extra_params == {"id": "abc", "webhook": HOOK, "webhook_v2": HOOK_2}
    (alone,) = read({"webhook": HOOK}).spec.delivery.webhooks
    assert (alone.events, alone.extra_params) == (OUTCOMES, {})


def test_the_operators_own_webhook() -> None:
    """Is told where the request names none, and makes no request asynchronous."""
    own = DeliverySettings(webhook_url="https://operator.example.com/")
    asked = make_payload(delivery=own).read(REQUEST)
    assert [target.operator for target in asked.spec.delivery.webhooks] == [True]
    assert not asked.at_once
    named = make_payload(delivery=own).read({**REQUEST, "webhook_v2": HOOK_2}).spec.delivery.webhooks
    assert [target.url for target in named] == [HOOK_2]


def test_attempts_of_0_tell_nobody() -> None:
    """And the request stays asynchronous."""
    asked = make_payload(delivery=DeliverySettings(salad_webhook_attempts=0)).read({**REQUEST, "webhook": HOOK})
    assert (asked.spec.delivery.webhooks, asked.at_once) == ((), True)


def test_conversion_by_format() -> None:
    """Each format has its own options; what is not given is the encoder's to say. Those of another are warned about."""
    webp = read({"convert_output": {"format": "webp", "options": {"lossless": True, "effort": 6, "mozjpeg": True}}})
    assert webp.spec.delivery.convert.options == {"Q": 80, "lossless": True, "effort": 6}
    jpeg = read({"convert_output": {"format": "jpeg", "options": {"mozjpeg": True, "quality": 70, "lossless": True}}})
    assert jpeg.spec.delivery.convert.options["quant_table"] == 3
    assert jpeg.spec.delivery.convert.options["Q"] == 70
    assert "lossless" not in jpeg.spec.delivery.convert.options
    assert "lossless" not in jpeg.echo["convert_output"]["options"]
    (warned,) = jpeg.spec.delivery.convert.warnings
    assert warned == "convert_output.options.lossless has no effect: jpeg has no such option"
    assert "mozjpeg" in webp.spec.delivery.convert.warnings[0]
    many = {f"{number}" * 100: 1 for number in range(100)} | {"none": None}
    assert (
        len("".join(read({"convert_output": {"format": "webp", "options": many}}).spec.delivery.convert.warnings))
        < 3000
    )
    plain = read({"convert_output": {"format": "jpg"}}).spec.delivery
    assert plain.convert.warnings == ()
    assert (plain.convert.format, plain.keep_metadata) == ("jpg", None)
    kept = read({"convert_output": {"format": "webp", "keep_metadata": True}})
    assert kept.spec.delivery.keep_metadata is True
    assert kept.echo["convert_output"] == {"format": "webp", "keep_metadata": True}
    assert "keep_metadata" not in jpeg.echo["convert_output"]


@pytest.mark.parametrize(
    ("format_", "model"), [("jpeg", JpegOptions), ("webp", WebpOptions)], ids=lambda value: str(value)
)
def test_the_defaults_that_are_told_are_those_of_the_encoder(format_: str, model: Any) -> None:
    """Sent back as they are told, they change nothing."""
    plain = read({"convert_output": {"format": format_}}).spec.delivery.convert.options
    told = model().model_dump(exclude_none=True)
    again = read({"convert_output": {"format": format_, "options": told}}).spec.delivery.convert.options
    assert {name: again[name] for name in plain} == plain
    assert {again[name] for name in again.keys() - plain.keys()} <= {False, 100, 4, "default"}


def test_background_is_checked() -> None:
    """A colour."""
    asked = read({"convert_output": {"format": "jpeg", "options": {"background": "#102030"}}})
    assert asked.spec.delivery.convert.options["background"] == [16, 32, 48]
    with pytest.raises(InvalidRequest, match="background must be a colour"):
        read({"convert_output": {"format": "jpeg", "options": {"background": "blue"}}})


@pytest.mark.parametrize("prefix", ["a/../../b", "x" * 201])
def test_a_prefix_that_can_not_be_a_name_is_refused(prefix: str) -> None:
    """Before any work is done."""
    with pytest.raises(UnsafeInput):
        make_payload().read({"prompt": {"1": {"class_type": "S", "inputs": {"filename_prefix": prefix}}}})


def test_files_in_the_graph_are_not_told_again() -> None:
    """They are what makes it large; the job has them."""
    image = "A" * (MOST_TEXT_CHARS + 4)
    prompt = {**PICTURE, "3": {"class_type": "LoadImage", "inputs": {"image": image, "note": "short"}}}
    payload = make_payload()
    asked = payload.read({"prompt": prompt, "webhook_v2": HOOK_2})
    assert image.encode() in asked.spec.workflow
    assert told_graph(asked.spec.workflow)["3"]["inputs"] == {"image": LEFT_OUT, "note": "short"}
