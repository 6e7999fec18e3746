"""Whose credentials go where."""

import itertools
from typing import Any

import pytest

from lib.delivery.plan import plan_s3, plan_webhook
from lib.errors import InvalidRequest, UnsafeInput
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
    "webhook_url": "https://hooks.op.example/x",
    "webhook_secret": "OPHOOK",
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
        (OWN | {"endpoint_url": "minio:9000"}, "endpoint_url"),
    ],
)
def test_half_a_block_is_refused(block: dict[str, Any], field: str) -> None:
    """Missing halves, foreign endpoints and buckets without keys: 422, with the place in the request."""
    with pytest.raises(InvalidRequest) as caught:
        plan_s3(block, settings(**OPERATOR))
    assert caught.value.details["errors"][0]["loc"] == ["body", "input", "s3", field]  # type: ignore[index]


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


def test_a_callers_webhook_never_gets_the_operators_secret() -> None:
    """Only the default target is signed with the operator's secret; a caller's secret is for the caller's own."""
    own = plan_webhook({"url": "https://me.example/h", "secret": "", "extra_params": {"a": 1}}, settings(**OPERATOR))
    assert own is not None
    assert (own.secret, own.operator, dict(own.extra_params)) == (None, False, {"a": 1})
    signed = plan_webhook({"url": OPERATOR["webhook_url"], "secret": "mine", "timeout": 5}, settings(**OPERATOR))
    assert signed is not None
    assert (signed.secret, signed.timeout_s) == ("mine", 5.0)


@pytest.mark.parametrize("block", [None, {}, {"url": "", "extra_params": {}, "timeout": 30, "secret": ""}])
def test_the_default_webhook(block: dict[str, Any] | None) -> None:
    """Without a URL it is WEBHOOK_URL with WEBHOOK_SECRET, or none."""
    assert plan_webhook(block, settings()) is None
    target = plan_webhook(block, settings(**OPERATOR))
    assert target is not None
    assert (target.url, target.secret, target.operator) == (OPERATOR["webhook_url"], "OPHOOK", True)


@pytest.mark.parametrize("url", ["nowhere", "ftp://h/x", "http://", "http://[", "//h/x"])
def test_a_bad_webhook_url_is_refused(url: str) -> None:
    """A URL that can't be posted to is the caller's mistake, not a reason to tell somebody else."""
    with pytest.raises(InvalidRequest) as caught:
        plan_webhook({"url": url}, settings(**OPERATOR))
    assert caught.value.details["errors"][0]["loc"] == ["body", "input", "webhook", "url"]  # type: ignore[index]


def test_our_own_session_end_may_be_told() -> None:
    """Vast's session pattern posts to our own loopback listener; its neighbours stay closed."""
    guard = AddressGuard(own_urls=["http://localhost:3001/session/end", "http://127.0.0.1:3001/session/end"])
    assert plan_webhook({"url": "http://127.0.0.1:3001/session/end"}, settings(), guard=guard)
    with pytest.raises(UnsafeInput):
        plan_webhook({"url": "http://127.0.0.1:3001/session/create"}, settings(), guard=guard)
