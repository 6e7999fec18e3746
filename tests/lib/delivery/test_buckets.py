"""``BUCKET_*``: where RunPod jobs' files go."""

from datetime import UTC, datetime
from typing import Any

import pytest

from lib.delivery.buckets import S3_CONFIG, effective
from lib.delivery.plan import plan_s3
from lib.errors import InvalidRequest
from lib.jobs.model import S3Target
from lib.settings import DeliverySettings, RunPodSettings, SettingsError

NOVEMBER = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
AWS = "https://s3.eu-west-1.amazonaws.com"
R2 = "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com"
KEYS = {"BUCKET_ACCESS_KEY_ID": "RPKEY", "BUCKET_SECRET_ACCESS_KEY": "RPSECRET"}
S3 = {
    "S3_BUCKET_NAME": "native",
    "S3_ACCESS_KEY_ID": "OPKEY",
    "S3_SECRET_ACCESS_KEY": "OPSECRET",
    "S3_SESSION_TOKEN": "OPTOKEN",
    "S3_KEY_PREFIX": "native/",
    "S3_ALLOW_BUCKETS": "others",
}


def planned(variables: dict[str, str], now: datetime = NOVEMBER) -> S3Target | None:
    """Plan a job that brings no storage of its own, under these variables."""
    delivery, runpod = DeliverySettings.model_validate(variables), RunPodSettings.model_validate(variables)
    return plan_s3(None, effective(delivery, runpod, now=now))


def place(variables: dict[str, str], now: datetime = NOVEMBER) -> tuple[str | None, str | None, str, str]:
    """Server, region, bucket and prefix of such a job's files."""
    target = planned(KEYS | variables, now)
    assert target is not None
    assert (target.access_key_id, target.secret_access_key) == ("RPKEY", "RPSECRET")
    assert target.operator
    return target.endpoint_url, target.region, target.bucket_name, target.prefix


def test_nothing_configured() -> None:
    """Nothing is uploaded; keys without an endpoint, as RunPod's hub form leaves them, are no configuration."""
    assert planned({}) is None
    assert planned(KEYS) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BUCKET_ENDPOINT_URL": "https://b.s3.eu-west-1.amazonaws.com"}, (AWS, "eu-west-1", "b", "")),
        ({"BUCKET_ENDPOINT_URL": f"{R2}/b/renders"}, (R2, "auto", "b", "renders/")),
        ({"BUCKET_ENDPOINT_URL": R2, "BUCKET_NAME": "b", "BUCKET_PREFIX": "a/b"}, (R2, "auto", "b", "a/b/")),
        ({"BUCKET_ENDPOINT_URL": f"{R2}/b", "BUCKET_PREFIX": "/a/"}, (R2, "auto", "b", "a/")),
        (
            {"BUCKET_ENDPOINT_URL": "http://minio:9000", "BUCKET_NAME": "b", "BUCKET_REGION": "here"},
            ("http://minio:9000", "here", "b", ""),
        ),
        (
            {"BUCKET_ENDPOINT_URL": "https://b.s3.amazonaws.com", "BUCKET_REGION": "eu-west-3"},
            (None, "eu-west-3", "b", ""),
        ),
    ],
)
def test_the_place(variables: dict[str, str], expected: tuple[object, ...]) -> None:
    """Bucket, region and prefix as the variables say, keys of their own."""
    assert place(variables) == expected


def test_a_bucket_a_month() -> None:
    """As worker-comfyui: an endpoint without a bucket means the bucket of the month, which changes while the worker
    runs; otherwise the month is a folder."""
    monthly = {"BUCKET_LAYOUT": "month", "BUCKET_PREFIX": "p"}
    assert place({"BUCKET_ENDPOINT_URL": R2, **monthly}) == (R2, "auto", "11-26", "p/")
    assert place({"BUCKET_ENDPOINT_URL": R2, **monthly}, DECEMBER) == (R2, "auto", "12-26", "p/")
    assert place({"BUCKET_ENDPOINT_URL": f"{R2}/b", **monthly}) == (R2, "auto", "b", "11-26/p/")
    assert place({"BUCKET_ENDPOINT_URL": R2, "BUCKET_NAME": "b", **monthly}) == (R2, "auto", "b", "11-26/p/")
    assert place({"BUCKET_ENDPOINT_URL": f"{R2}/b/f", **monthly}) == (R2, "auto", "b", "f/11-26/p/")


def test_the_native_names_win() -> None:
    """With ``S3_BUCKET_NAME`` the settings are what they were; without it nothing of ``S3_*`` goes with the bucket."""
    delivery = DeliverySettings.model_validate(S3)
    runpod = RunPodSettings.model_validate({**KEYS, "BUCKET_ENDPOINT_URL": f"{R2}/b"})
    assert effective(delivery, runpod, now=NOVEMBER) is delivery
    rest = {name: value for name, value in S3.items() if name != "S3_BUCKET_NAME"}
    mixed = effective(DeliverySettings.model_validate(rest), runpod, now=NOVEMBER)
    assert (mixed.s3_session_token, mixed.s3_prefix, mixed.s3_allow_buckets) == (None, "", ())
    assert "RPSECRET" not in repr(mixed)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"BUCKET_ENDPOINT_URL": f"{R2}/b"}, "BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"),
        ({"BUCKET_ENDPOINT_URL": f"{R2}/b", "BUCKET_ACCESS_KEY_ID": "k"}, "^BUCKET_SECRET_ACCESS_KEY: not set"),
        ({"BUCKET_ENDPOINT_URL": R2, **KEYS}, "set BUCKET_NAME, or BUCKET_LAYOUT=month"),
        ({"BUCKET_NAME": "b", **KEYS}, "BUCKET_NAME='b': needs BUCKET_ENDPOINT_URL"),
        ({"BUCKET_ENDPOINT_URL": R2, "BUCKET_NAME": "b/c", **KEYS}, "BUCKET_NAME='b/c': .* BUCKET_PREFIX"),
        ({"BUCKET_ENDPOINT_URL": f"{R2}/b", "BUCKET_NAME": "c", **KEYS}, "BUCKET_ENDPOINT_URL: names the bucket 'b'"),
        ({"BUCKET_ENDPOINT_URL": "https://u:hush@h/b", **KEYS}, "BUCKET_ENDPOINT_URL: must be a plain URL"),
    ],
)
def test_half_a_configuration_stops_the_start(variables: dict[str, str], named: str) -> None:
    """It names the variable and what to set, and no secret."""
    with pytest.raises(SettingsError, match=named) as caught:
        planned(variables)
    assert "hush" not in str(caught.value)
    assert "RPSECRET" not in str(caught.value)


def test_a_requests_own_bucket() -> None:
    """``s3Config`` stands alone: nothing of the operator's, the region from its endpoint, ``objectPath`` as folders;
    its endpoint may name the bucket, too."""
    own = {"access_key_id": "k", "secret_access_key": "s", "prefix": "mine"}
    delivery = DeliverySettings.model_validate(S3)
    for block in (
        own | {"endpoint_url": "https://b.s3.eu-west-1.amazonaws.com"},
        own | {"endpoint_url": "https://b.s3.eu-west-1.amazonaws.com", "bucket_name": "b"},
        own | {"endpoint_url": "https://s3.eu-west-1.amazonaws.com", "bucket_name": "b"},
    ):
        target = plan_s3(block, delivery, fields=S3_CONFIG)
        assert target is not None
        assert (target.bucket_name, target.region, target.endpoint_url) == ("b", "eu-west-1", AWS)
        assert (target.prefix, target.folder, target.operator) == ("", "mine/", False)


@pytest.mark.parametrize(
    ("block", "name", "text"),
    [
        ({"access_key_id": "k"}, "accessSecret", "is needed together with accessId"),
        ({"secret_access_key": "s"}, "accessId", "is needed together with accessSecret"),
        ({"access_key_id": "k", "secret_access_key": "s"}, "bucketName", "is needed"),
        ({"bucket_name": "theirs"}, "bucketName", "needs accessId and accessSecret"),
        ({"endpoint_url": "https://h"}, "endpointUrl", "needs accessId and accessSecret of its own"),
        (
            {"access_key_id": "k", "secret_access_key": "s", "bucket_name": "b", "endpoint_url": f"{R2}/c"},
            "endpointUrl",
            "names the bucket 'c', not 'b'",
        ),
        ({"access_key_id": "k", "secret_access_key": "s", "bucket_name": "b", "prefix": ".."}, "objectPath", "must be"),
    ],
)
def test_mistakes_in_s3config_are_named_as_the_caller_names_them(block: dict[str, Any], name: str, text: str) -> None:
    """Place and text speak of ``s3Config`` and its fields."""
    with pytest.raises(InvalidRequest) as caught:
        plan_s3(block, DeliverySettings.model_validate(S3), fields=S3_CONFIG)
    assert caught.value.message.startswith(f"s3Config.{name} {text}")
    assert caught.value.details["errors"][0]["loc"] == ["body", "s3Config", name]  # type: ignore[index]
