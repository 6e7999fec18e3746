"""Inputs of Salad's jobs are read with the operator's keys, each account's for its own URLs, where no credential of the
request fits; nobody else's jobs get them."""

from typing import Any

import pytest

from lib.errors import InputFetchFailed
from lib.jobs.model import Credential
from lib.settings import DeliverySettings, SaladSettings
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.guard import AddressGuard
from lib.storage.hugging_face import HubAccount
from lib.storage.operator_header import OperatorHeader
from lib.storage.operator_keys import SALAD, OperatorKeys
from lib.storage.sources import Source, Sources

AZURE = "https://mine.blob.core.windows.net"
SETTINGS = {
    "aws_region": "eu-west-1",
    "aws_access_key_id": "aws-id",
    "aws_secret_access_key": "aws-secret",
    "aws_endpoint_url": "http://minio.lan:9000",
    "azure_account": "mine",
    "azure_key": "c2VjcmV0",
    "hf_token": "hf_hush",
    "http_header_name": "X-Own",
    "http_header_value": "own-hush",
    "http_header_hosts": ("files.example", "*.inner.example", "px.example:8443"),
}
HUGGING_FACE = "https://huggingface.co/u/r/resolve/main/a%20b/c.safetensors"
BEARER = (("Authorization", "Bearer hf_hush"),)
OWN = (("X-Own", "own-hush"),)


def find(
    url: str, *credentials: Credential, dialect: str = SALAD, delivery: Any = None, allow: str = "x.lan", **changes: Any
) -> Source:
    salad = SaladSettings.model_validate(SETTINGS | changes)
    settings = DeliverySettings.model_validate(delivery or {})
    account = AzureAccount.from_settings(salad)
    keys = OperatorKeys(
        settings=salad,
        header=OperatorHeader.from_settings(salad),
        hub=HubAccount.from_settings(salad),
        azure=AzureStores(account) if account else None,
        buckets=settings.s3_allow_buckets,
    )
    sources = Sources(settings=settings, guard=AddressGuard(allow=[allow]), keys=keys)
    return sources.find(url, field="f", credentials=credentials, dialect=dialect)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (HUGGING_FACE, BEARER),
        ("https://huggingface.co/datasets/u/r/resolve/main/x.png", BEARER),
        ("https://huggingface.co.evil.com/u/r/resolve/main/x.png", ()),
        ("https://huggingface.co@evil.com/u/r", (("Authorization", "Basic aHVnZ2luZ2ZhY2UuY286"),)),
        ("http://huggingface.co/u/r/resolve/main/x.png", ()),
        ("https://cdn-lfs.huggingface.co/x.png", ()),
        ("https://files.example/x.png", OWN),
        ("https://FILES.example/x.png", OWN),
        ("http://a.inner.example/x.png", OWN),
        ("https://inner.example/x.png", ()),
        ("https://px.example:8443/x.png", OWN),
        ("https://px.example/x.png", ()),
        ("https://files.example.evil.com/x.png", ()),
        ("https://evil.com/files.example", ()),
    ],
)
def test_a_key_goes_to_its_own_host(url: str, headers: tuple[tuple[str, str], ...]) -> None:
    """Whatever a URL looks like, and whoever wrote it."""
    assert find(url).headers == headers
    assert find(url, dialect="vast").headers == ()


def test_the_header_goes_everywhere_only_by_the_operators_word() -> None:
    """``*`` is comfyui-api's way; without the list nobody gets it, which is said at start."""
    assert find("https://evil.com/x", http_header_hosts=("*",)).headers == OWN
    assert find("https://files.example/x", http_header_hosts=()).headers == ()
    lone = SaladSettings.model_validate({"http_header_name": "X", "http_header_value": "y"})
    assert "HTTP_AUTH_HEADER_HOSTS" in (OperatorHeader.from_settings(lone).unused or "")
    assert OperatorHeader.from_settings(SaladSettings.model_validate(SETTINGS)).unused is None
    half = SaladSettings.model_validate({"http_header_name": "X"})
    assert OperatorHeader.from_settings(half) == OperatorHeader()
    assert "own-hush" not in repr(OperatorHeader.from_settings(SaladSettings.model_validate(SETTINGS)))


@pytest.mark.parametrize("kind", ["http", "query"])
def test_what_the_request_brings_stands_alone(kind: str) -> None:
    """The operator's token does not come on top of it."""
    values = {"X": "1"} if kind == "http" else {"query_param": "t", "query_value": "1"}
    found = find(HUGGING_FACE, Credential(kind=kind, pattern="https://huggingface.co/**", values=values))
    assert found.headers == (tuple(values.items()) if kind == "http" else ())
    blob = find(f"{AZURE}/c/k", Credential(kind=kind, pattern="**", values=values))
    assert blob.blob is None


def test_salads_patterns_are_read_by_its_rules() -> None:
    """The same text means something else to other dialects."""
    for salad, headers in ((True, BEARER), (False, (("X", "1"),))):
        given = Credential(kind="http", pattern="https://huggingface.co/*", values={"X": "1"}, salad_pattern=salad)
        assert find(HUGGING_FACE, given).headers == headers
    given = Credential(kind="http", pattern="https://x.com/f?sig=*", values={"X": "1"}, salad_pattern=True)
    assert find("https://x.com/f?sig=a%2Fb", given).headers == (("X", "1"),)


def test_name_and_password_in_a_url_go_as_a_header() -> None:
    """They leave the URL, so that no log and no message can have them."""
    found = find("https://ann:p%40ss@web.example/a%20b.png?x=1")
    assert found.url == "https://web.example/a%20b.png?x=1"
    assert found.headers == (("Authorization", "Basic YW5uOnBAc3M="),)
    with pytest.raises(InputFetchFailed, match="over https only"):
        find("http://ann:pass@web.example/x")
    assert find("http://ann:pass@x.lan/x").headers
    own = Credential(kind="http", pattern="https://web.example/**", values={"X": "1"})
    assert find("https://ann:pass@web.example/x", own).headers == (("X", "1"),)
    assert find("https://ann:pass@web.example/x", dialect="vast").url == "https://ann:pass@web.example/x"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"{AZURE}/c/a%20b/%C3%A9%23.png", "a b/é#.png"),
        (f"{AZURE}/c/k?x=1", "k"),
        (f"{AZURE}/c/k?sv=2021&sig=abc", None),
        (f"{AZURE}/c", None),
        ("https://other.blob.core.windows.net/c/k", None),
        ("http://mine.blob.core.windows.net/c/k", None),
        ("https://mine.blob.core.windows.net.evil.com/c/k", None),
    ],
)
def test_blobs_of_the_operators_account(url: str, key: str | None) -> None:
    """Its own URLs only; one that brings a signature is read as it is."""
    blob = find(url).blob
    assert (blob.key if blob else None) == key
    assert find(url, dialect="vast").blob is None
    assert find(url).identity == find(url).identity


def test_s3_urls_are_read_with_aws_keys() -> None:
    """The operator's endpoint, any bucket that the keys open; of those on the list, where there is one."""
    place = find("s3://any/a b.png").place
    assert place is not None and place.trusted
    assert (place.access_key_id, place.endpoint_url, place.region) == ("aws-id", "http://minio.lan:9000", "eu-west-1")
    listed = {"s3_allow_buckets": ("shared",), "s3_access_key_id": "s3-id", "s3_secret_access_key": "s"}
    ours = find("s3://shared/k", delivery=listed).place
    assert ours is not None and ours.access_key_id == "s3-id"
    for url, dialect, changes in (
        ("s3://any/k", "vast", {}),
        ("s3://any/k", SALAD, {"aws_region": None}),
        ("s3://any/k", SALAD, {"aws_secret_access_key": None}),
        ("s3://any/k", SALAD, {"delivery": listed}),
    ):
        with pytest.raises(InputFetchFailed) as caught:
            find(url, dialect=dialect, **changes)
        assert caught.value.details["reason"] == "no_credentials"
