"""With which rights a URL is read: nobody's, the caller's where the pattern fits, or the operator's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from lib.errors import InputFetchFailed, UnsafeInput
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.sources import Source, Sources

FIELD = "workflow.1.inputs.image"


@dataclass(frozen=True)
class Given:
    kind: str
    pattern: str
    values: Mapping[str, str]
    salad_pattern: bool = False


OPERATOR = {
    "s3_access_key_id": "op-id",
    "s3_secret_access_key": "op-secret",
    "s3_bucket_name": "outputs",
    "s3_prefix": "made/",
    "s3_allow_buckets": ("shared",),
    "s3_endpoint_url": "http://minio.internal:9000",
}
KEYS = {"access_key_id": "my-id", "secret_access_key": "my-secret"}


def find(url: str, *credentials: Given, owner: str | None = "", **settings: Any) -> Source:
    sources = Sources(settings=DeliverySettings.model_validate(settings), guard=AddressGuard())
    return sources.find(url, field=FIELD, credentials=credentials, owner=owner)


def refused(url: str, *credentials: Given, owner: str | None = "", **settings: Any) -> str:
    with pytest.raises(InputFetchFailed) as caught:
        find(url, *credentials, owner=owner, **settings)
    assert caught.value.details["field"] == FIELD
    assert "secret" not in caught.value.message.lower().replace("secret_access_key", "")
    return str(caught.value.details["reason"])


def test_headers_go_with_urls_that_their_pattern_matches() -> None:
    """The first match counts; others are read as by anybody."""
    bearer = Given("http", "https://files.example.com/**", {"Authorization": "Bearer hush"})
    later = Given("http", "https://*.example.com/**", {"X-Key": "other"})
    assert find("https://files.example.com/a/b.png", bearer, later).headers == (("Authorization", "Bearer hush"),)
    assert find("https://x.example.com/a.png", bearer, later).headers == (("X-Key", "other"),)
    assert find("https://evil.com/a.png", bearer, later).headers == ()
    assert "hush" not in repr(find("https://files.example.com/a/b.png", bearer))


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/.example.com/x",
        "https://evil.com?.example.com/x",
        "https://evil.com#.example.com/x",
        "https://evil.com\\.example.com/x",
    ],
)
def test_a_star_in_the_host_stays_in_the_host(url: str) -> None:
    """No URL of another host gets the headers by looking alike."""
    assert find(url, Given("http", "https://*.example.com/**", {"X-Key": "k"})).headers == ()


def test_credentials_are_sent_over_https_only() -> None:
    """Said, rather than fetched without them and refused by the host."""
    assert refused("http://a.example/x", Given("http", "http://a.example/*", {"X-Key": "k"})) == "credentials_over_http"


@pytest.mark.parametrize(
    "header", [{"Host": "x"}, {"content-length": "1"}, {"X": "a\r\nB: c"}, {"a b": "c"}, {"": "c"}]
)
def test_headers_that_would_break_the_transfer_are_refused(header: dict[str, str]) -> None:
    """They could smuggle a second request, or ask another host."""
    assert refused("https://a.example/x", Given("http", "**", header)) == "bad_credentials"


def test_s3_is_read_with_the_callers_keys() -> None:
    """They stand alone: no endpoint or region of the operator's comes in."""
    source = find("s3://mine/a b/c.png", Given("s3", "s3://mine/*", {**KEYS, "region": "eu-west-1"}), **OPERATOR)
    assert source.place is not None and source.key == "a b/c.png"
    assert (source.place.bucket_name, source.place.access_key_id) == ("mine", "my-id")
    assert (source.place.region, source.place.endpoint_url, source.place.trusted) == ("eu-west-1", None, False)
    assert "my-secret" not in repr(source)


def test_the_operators_keys_open_allowed_buckets_only() -> None:
    """Any other bucket gets a message that says how to give keys."""
    place = find("s3://shared/x.png", **OPERATOR).place
    assert place is not None and place.trusted and place.access_key_id == "op-id"
    assert refused("s3://else/x.png", **OPERATOR) == "no_credentials"
    assert refused("s3://shared/x.png", s3_allow_buckets=("shared",)) == "no_credentials"
    assert refused("s3://else/x.png", Given("http", "**", {"A": "b"}), **OPERATOR) == "no_credentials"
    with pytest.raises(InputFetchFailed, match="give credentials of kind s3"):
        find("s3://else/x.png", **OPERATOR)


def test_in_the_operators_bucket_a_tenant_reads_its_own_folder() -> None:
    """The outputs of others lie there, too."""
    assert find("s3://outputs/made/_ann/r/x.png", owner="ann", **OPERATOR).place is not None
    for key in ("made/_bob/r/x.png", "made/_ann/../_bob/x.png", "else/x.png", "made/_annex/x", "made/ann/2/x"):
        assert refused(f"s3://outputs/{key}", owner="ann", **OPERATOR) in ("no_credentials", "invalid_url")
    assert find("s3://shared/any.png", owner="ann", **OPERATOR).place is not None


def test_in_the_operators_bucket_a_caller_whom_nobody_knows_reads_nothing() -> None:
    """Of Vast's callers each is a stranger to the others; buckets on the allow-list are for all."""
    assert refused("s3://outputs/made/r/x.png", owner=None, **OPERATOR) == "no_credentials"
    assert find("s3://shared/any.png", owner=None, **OPERATOR).place is not None


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bkt", "s3://bkt/", "s3:///k", "s3://a@bkt/k", "s3://bkt/a\nb", "s3://bkt/../k"]
)
def test_s3_urls_that_are_none_are_refused(url: str) -> None:
    """Before anything is signed."""
    assert refused(url, Given("s3", "**", KEYS)) == "invalid_url"


@pytest.mark.parametrize("values", [{}, {"access_key_id": "x"}, {**KEYS, "region": "x/../evil.com"}])
def test_half_of_the_keys_are_none(values: dict[str, str]) -> None:
    """And a region is a word: it becomes part of a host's name."""
    assert refused("s3://mine/k", Given("s3", "s3://mine/*", values), **OPERATOR) == "bad_credentials"


def test_a_private_endpoint_is_refused() -> None:
    """The guard's rule, at once."""
    with pytest.raises(UnsafeInput) as caught:
        find("s3://mine/k", Given("s3", "**", {**KEYS, "endpoint_url": "http://169.254.169.254"}))
    assert caught.value.details["field"] == FIELD


def test_the_same_url_with_other_rights_is_another_source() -> None:
    """Nothing that is known of one is used for the other."""
    url = "https://a.example/x"
    sources = [
        find(url),
        find(url, Given("http", "**", {"X": "1"})),
        find(url, Given("http", "**", {"X": "2"})),
        find("s3://bkt/k", Given("s3", "**", KEYS)),
        find("s3://bkt/k", Given("s3", "**", KEYS | {"secret_access_key": "other"})),
        find("s3://bkt/k", Given("s3", "**", KEYS | {"session_token": "t"})),
    ]
    assert len({source.identity for source in sources}) == len(set(sources)) == 6
    assert find(url).identity == find(url).identity


def test_headers_go_over_http_to_hosts_that_the_operator_vouches_for() -> None:
    """A private network's own server, by name or by address; with a port only to that port."""
    key = Given("http", "**", {"X-Key": "k"})
    for entry, url in (("files.lan", "http://files.lan/x"), ("127.0.0.1:81", "http://127.0.0.1:81/x")):
        sources = Sources(settings=DeliverySettings(), guard=AddressGuard(allow=[entry]))
        assert sources.find(url, field=FIELD, credentials=[key]).headers == (("X-Key", "k"),)
        with pytest.raises(InputFetchFailed, match="over https only"):
            sources.find(
                url.replace("127.0.0.1:81", "127.0.0.1:82").replace(".lan", ".com"), field=FIELD, credentials=[key]
            )


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://a.example/x", "https://a.example/x?token=s%26c"),
        ("https://a.example/x?sig=a%2Fb&n=1", "https://a.example/x?sig=a%2Fb&n=1&token=s%26c"),
        ("https://a.example/x?token=old&n=1#part", "https://a.example/x?n=1&token=s%26c"),
    ],
)
def test_a_query_parameter_is_set_on_what_is_asked(url: str, asked: str) -> None:
    """It replaces one of its name, leaves the rest as it is written, and is told to nobody but the host."""
    source = find(url, Given("query", "https://a.example/**", {"query_param": "token", "query_value": "s&c"}))
    assert (source.asked_url, source.url) == (asked, url)
    assert "s&c" not in repr(source) and "s%26c" not in repr(source)
    assert source.identity != find(url).identity


def test_a_query_parameter_stays_off_plain_http() -> None:
    """As headers do; and it needs a name."""
    given = {"query_param": "token", "query_value": "x"}
    assert refused("http://a.example/x", Given("query", "**", given)) == "credentials_over_http"
    assert refused("https://a.example/x", Given("query", "**", {"query_value": "x"})) == "bad_credentials"
