"""Where files go, in which form, and whose credentials with them."""

import itertools
from typing import Any

import pytest

from lib.delivery.plan import missing_for_s3, plan_convert, plan_put, plan_s3, plan_thumbnail
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import ConvertSpec, ThumbnailSpec
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard

OPERATOR = {
    "s3_access_key_id": "OPKEY",
    "s3_secret_access_key": "OPSECRET",
    "s3_session_token": "OPTOKEN",
    "s3_bucket_name": "op-bucket",
    "s3_endpoint_url": "https://s3.op.example",
    "s3_region": "op-region",
    "s3_prefix": "pre/",
    "s3_allow_buckets": ("shared",),
}
OWN = {"access_key_id": "k", "secret_access_key": "s", "bucket_name": "mine"}
EMPTY = {
    "access_key_id": "",
    "secret_access_key": "",
    "endpoint_url": "",
    "bucket_name": "",
    "region": None,
    "connect_timeout": 60,
    "connect_attempts": 3,
}


def settings(**values: Any) -> DeliverySettings:
    return DeliverySettings.model_validate(values)


@pytest.mark.parametrize("block", [None, {}, EMPTY])
def test_nothing_given(block: dict[str, Any] | None) -> None:
    """No block, or the published example full of empty strings: the operator's place, or none if there is none."""
    assert plan_s3(block, settings()) is None
    target = plan_s3(block, settings(**OPERATOR))
    assert target is not None
    assert target.operator
    assert (target.bucket_name, target.access_key_id, target.session_token) == ("op-bucket", "OPKEY", "OPTOKEN")
    assert (target.endpoint_url, target.region, target.prefix) == ("https://s3.op.example", "op-region", "pre/")


def test_half_an_operator_is_no_operator() -> None:
    """Keys without a bucket, or a bucket without keys, do not switch uploads on."""
    assert plan_s3(None, settings(s3_access_key_id="k", s3_secret_access_key="s")) is None
    assert plan_s3(None, settings(s3_bucket_name="b")) is None


def test_what_half_an_operator_lacks() -> None:
    """A bucket wants both keys, and one key the other; keys alone are for the buckets on S3_ALLOW_BUCKETS."""
    keys = {"s3_access_key_id": "k", "s3_secret_access_key": "s"}
    assert missing_for_s3(settings()) == missing_for_s3(settings(**keys)) == ()
    assert missing_for_s3(settings(s3_bucket_name="b", **keys)) == ()
    assert missing_for_s3(settings(s3_bucket_name="b")) == ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")
    assert missing_for_s3(settings(s3_access_key_id="k")) == ("S3_SECRET_ACCESS_KEY",)


def test_own_keys_stand_alone() -> None:
    """With keys of its own the block takes nothing from the operator, region and endpoint included."""
    target = plan_s3(OWN | {"connect_timeout": 9999, "connect_attempts": 0}, settings(**OPERATOR))
    assert target is not None
    assert not target.operator
    assert (target.endpoint_url, target.region, target.prefix, target.session_token) == (None, None, "", None)
    assert (target.access_key_id, target.secret_access_key, target.bucket_name) == ("k", "s", "mine")
    assert (target.connect_timeout_s, target.connect_attempts) == (300.0, 1)


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"access_key_id": "k", "bucket_name": "b"}, "secret_access_key"),
        ({"secret_access_key": "s", "bucket_name": "b"}, "access_key_id"),
        ({"access_key_id": "k", "secret_access_key": "s"}, "bucket_name"),
        ({"endpoint_url": "https://evil.example"}, "endpoint_url"),
        ({"endpoint_url": "https://evil.example", "bucket_name": "op-bucket"}, "endpoint_url"),
        ({"bucket_name": "other"}, "bucket_name"),
        ({"bucket_name": "other", "region": "x"}, "bucket_name"),
        (OWN | {"endpoint_url": "ftp://x"}, "endpoint_url"),
        (OWN | {"prefix": "../other"}, "prefix"),
        ({"prefix": "a\nb"}, "prefix"),
        ({"prefix": "x" * 600}, "prefix"),
        ({"prefix": 7}, "prefix"),
        (OWN | {"endpoint_url": "minio:9000"}, "endpoint_url"),
    ],
)
def test_half_a_block_is_refused(block: dict[str, Any], field: str) -> None:
    """Missing halves, foreign endpoints and buckets without keys: 422, with the place in the request."""
    with pytest.raises(InvalidRequest) as caught:
        plan_s3(block, settings(**OPERATOR))
    assert caught.value.details["errors"][0]["loc"] == ["body", "input", "s3", field]  # type: ignore[index]


@pytest.mark.parametrize(("prefix", "folder"), [("a/b", "a/b/"), ("/a//b/", "a/b/"), ("/", "")])
def test_a_requests_own_prefix_is_folders(prefix: str, folder: str) -> None:
    """Behind the operator's prefix in his bucket, alone in the caller's."""
    own, operators = (plan_s3(block, settings(**OPERATOR)) for block in (OWN | {"prefix": prefix}, {"prefix": prefix}))
    assert own is not None and operators is not None
    assert (own.folder, operators.folder, operators.operator) == (folder, folder, True)


def test_a_bucket_without_any_keys_is_refused() -> None:
    """Asking for a bucket where the operator has no keys is an error, not silence."""
    with pytest.raises(InvalidRequest, match="none are configured"):
        plan_s3({"bucket_name": "b"}, settings())


def test_the_operators_keys_serve_allowed_buckets() -> None:
    """The operator's own bucket and those on the list may be named, with another region, and his endpoint repeated."""
    target = plan_s3({"bucket_name": "shared", "region": "r2"}, settings(**OPERATOR))
    assert target is not None
    assert (target.bucket_name, target.region, target.operator) == ("shared", "r2", True)
    assert plan_s3({"bucket_name": "op-bucket", "endpoint_url": "https://s3.op.example/"}, settings(**OPERATOR))


def test_operator_secrets_never_leave_for_a_foreign_place() -> None:
    """For every combination of given fields: an operator's credential goes to an operator's place only."""
    values = {
        "access_key_id": "k",
        "secret_access_key": "s",
        "bucket_name": "other",
        "endpoint_url": "https://e.example",
    }
    for count in range(len(values) + 1):
        for names in itertools.combinations(values, count):
            try:
                target = plan_s3({name: values[name] for name in names}, settings(**OPERATOR))
            except InvalidRequest:
                continue
            assert target is not None
            foreign = target.endpoint_url != OPERATOR["s3_endpoint_url"] or target.bucket_name != "op-bucket"
            assert foreign != target.operator
            assert foreign == (target.access_key_id == "k") == (target.secret_access_key == "s")


def test_a_private_endpoint_is_refused_early() -> None:
    """With the guard at hand a plainly private address never costs GPU time; the allow-list opens it."""
    block = OWN | {"endpoint_url": "http://10.0.0.5:9000"}
    with pytest.raises(UnsafeInput) as caught:
        plan_s3(block, settings(), guard=AddressGuard())
    assert caught.value.details["field"] == "input.s3.endpoint_url"
    assert plan_s3(block, settings(), guard=AddressGuard(allow=["10.0.0.0/8"]))


def loc_of(error: InvalidRequest) -> list[object]:
    return error.details["errors"][0]["loc"]  # type: ignore[index,no-any-return]


@pytest.mark.parametrize("block", [None, {}, [], {"urls": []}, {"urls": None}])
def test_no_put(block: Any) -> None:
    """Nothing given, nothing put."""
    assert plan_put(block) is None


def test_put_urls() -> None:
    """An object, or the list alone; headers and time go along, the time within bounds."""
    urls = ["https://store.example/a?sig=1", "https://store.example/b?sig=2"]
    assert plan_put(urls) == plan_put({"urls": urls, "headers": {}})
    target = plan_put({"urls": urls, "headers": {"Content-Type": "image/webp"}, "timeout": 99999})
    assert target is not None
    assert (target.urls, dict(target.headers), target.timeout_s) == (tuple(urls), {"Content-Type": "image/webp"}, 3600)
    assert "sig" not in repr(target)


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"urls": "https://x.example"}, ["put_urls"]),
        ({"urls": ["https://x.example", "nowhere"]}, ["put_urls", 1]),
        ({"urls": [3]}, ["put_urls", 0]),
        ({"urls": ["https://x.example"] * 1001}, ["put_urls"]),
        ({"urls": ["https://x.example"], "headers": {"Host": "y"}}, ["headers", "Host"]),
        ({"urls": ["https://x.example"], "headers": {"content-length": "1"}}, ["headers", "content-length"]),
        ({"urls": ["https://x.example"], "headers": {"A": "b\r\nC: d"}}, ["headers", "A"]),
        ({"urls": ["https://x.example"], "headers": {"A b": "c"}}, ["headers", "A b"]),
        ({"urls": ["https://x.example"], "headers": {"A": 1}}, ["headers", "A"]),
        ({"urls": ["https://x.example"], "headers": []}, ["headers"]),
        ({"urls": ["https://x.example"], "timeout": "1"}, ["timeout"]),
        ({"urls": ["https://x.example"], "method": "POST"}, ["method"]),
        ({"headers": {"A": "b"}}, ["put_urls"]),
        (7, ["put_urls"]),
    ],
)
def test_put_blocks_that_make_no_sense(block: Any, place: list[object]) -> None:
    """422 with the place; nothing that would break the request's own framing passes."""
    with pytest.raises(InvalidRequest) as caught:
        plan_put(block)
    assert loc_of(caught.value) == ["body", "input", "upload", *place]


def test_private_put_urls_are_refused_early() -> None:
    """Also our own session URL, which only webhooks may name."""
    guard = AddressGuard(own_urls=["http://localhost:3001/session/end", "http://127.0.0.1:3001/session/end"])
    for url in ("http://10.0.0.5/k", "http://127.0.0.1:3001/session/end"):
        with pytest.raises(UnsafeInput) as caught:
            plan_put([url], guard=guard)
        assert caught.value.details["field"] == "input.upload.put_urls.0"


def test_conversion() -> None:
    """A format alone, or with options; the spelling of JPEG is kept, since it becomes the extension."""
    assert plan_convert(None) is None
    assert plan_convert({}) is None
    assert (
        plan_convert("webp")
        == plan_convert({"format": "webp", "options": {}})
        == ConvertSpec(format="webp", options={"Q": 80})
    )
    spec = plan_convert({"format": "jpg", "options": {"quality": 70, "force": True}})
    assert spec is not None
    assert (spec.format, spec.options["Q"], len(spec.warnings)) == ("jpg", 70, 1)


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"format": "gif"}, ["format"]),
        ({"format": ["webp"]}, ["format"]),
        ({"options": {"quality": 1}}, ["format"]),
        ({"format": "webp", "quality": 1}, ["quality"]),
        ({"format": "webp", "options": [1]}, ["options"]),
        ({"format": "webp", "options": {"quality": 0}}, ["options", "quality"]),
        (["webp"], []),
    ],
)
def test_conversions_that_can_not_be(block: Any, place: list[object]) -> None:
    """422 with the place."""
    with pytest.raises(InvalidRequest) as caught:
        plan_convert(block)
    assert loc_of(caught.value) == ["body", "input", "convert_output", *place]


def test_thumbnail_plans() -> None:
    """Off, on, one number, or in full."""
    assert plan_thumbnail(None) is None
    assert plan_thumbnail(False) is None
    assert plan_thumbnail(True) == plan_thumbnail({}) == ThumbnailSpec(width=256, height=256)
    assert plan_thumbnail(64) == plan_thumbnail({"width": 64}) == plan_thumbnail({"height": 64})
    assert plan_thumbnail({"width": 64, "height": 32, "format": "jpeg"}) == ThumbnailSpec(
        width=64, height=32, format="jpeg"
    )
    for block, name in (
        ({"width": 0}, "width"),
        ({"width": 2049}, "width"),
        ({"width": 1, "height": 1.5}, "height"),
        ({"width": True}, "width"),
        ({"format": "png"}, "format"),
        ({"size": 3}, "size"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            plan_thumbnail(block)
        assert loc_of(caught.value)[-1] == name
