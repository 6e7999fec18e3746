"""What people write as an S3 endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.delivery.endpoints import Endpoint, Unclear, read_endpoint

ACCOUNT = "0123456789abcdef0123456789abcdef"
R2 = f"https://{ACCOUNT}.r2.cloudflarestorage.com"


def aws(region: str, bucket_name: str | None = "b", folder: str = "") -> Endpoint:
    return at(f"https://s3.{region}.amazonaws.com", region, bucket_name, folder)


def at(url: str, region: str | None, bucket_name: str | None = "b", folder: str = "") -> Endpoint:
    return Endpoint(url=url, bucket_name=bucket_name, region=region, folder=folder)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://b.s3.us-west-2.amazonaws.com", aws("us-west-2")),
        ("https://b.s3-us-west-2.amazonaws.com/", at("https://s3-us-west-2.amazonaws.com", "us-west-2")),
        ("https://b.s3.amazonaws.com", Endpoint(url=None, bucket_name="b")),
        ("https://my.dotted.b.s3.eu-central-1.amazonaws.com", aws("eu-central-1", "my.dotted.b")),
        ("https://s3.us-gov-west-1.amazonaws.com/b", aws("us-gov-west-1")),
        ("https://b.s3.cn-north-1.amazonaws.com.cn", at("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1")),
        ("https://s3.us-west-2.amazonaws.com", aws("us-west-2", None)),
        ("https://b.s3.us-east-1.amazonaws.com/in/here%20it", aws("us-east-1", folder="in/here it/")),
        (
            "https://b.s3.dualstack.eu-west-3.amazonaws.com",
            at("https://s3.dualstack.eu-west-3.amazonaws.com", "eu-west-3"),
        ),
        ("https://b.s3-accelerate.amazonaws.com", at("https://s3-accelerate.amazonaws.com", None)),
        ("https://b.fra1.digitaloceanspaces.com", at("https://fra1.digitaloceanspaces.com", "fra1")),
        ("https://fra1.digitaloceanspaces.com", at("https://fra1.digitaloceanspaces.com", "fra1", None)),
        (R2, at(R2, "auto", None)),
        (f"{R2}/b", at(R2, "auto")),
        (f"https://b.{ACCOUNT}.eu.r2.cloudflarestorage.com", at(R2.replace(".r2", ".eu.r2"), "auto")),
        ("https://storage.googleapis.com/b", at("https://storage.googleapis.com", "auto")),
        ("https://b.storage.googleapis.com", at("https://storage.googleapis.com", "auto")),
        (
            "https://b.s3.eu-central-003.backblazeb2.com",
            at("https://s3.eu-central-003.backblazeb2.com", "eu-central-003"),
        ),
        ("https://s3.fr-par.scw.cloud/b", at("https://s3.fr-par.scw.cloud", "fr-par")),
        ("http://minio:9000/b", at("http://minio:9000", None)),
        ("http://minio:9000/b/in/here/", at("http://minio:9000", None, folder="in/here/")),
        ("http://[::1]:9000/b", at("http://[::1]:9000", None)),
        ("http://minio:9000", at("http://minio:9000", None, None)),
    ],
)
def test_every_form(url: str, expected: Endpoint) -> None:
    """Bucket in the host or in the path or nowhere; the region where the host tells it; what follows is a folder."""
    assert read_endpoint(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.us-west-2.amazonaws.com", aws("us-west-2")),
        ("https://b.s3.us-west-2.amazonaws.com", aws("us-west-2")),
        (f"{R2}/b/in", at(R2, "auto", folder="in/")),
        (R2, at(R2, "auto")),
        ("https://b.s3.fr-par.scw.cloud", at("https://s3.fr-par.scw.cloud", "fr-par")),
        ("https://s3.fr-par.scw.cloud", at("https://s3.fr-par.scw.cloud", "fr-par")),
        ("https://files.s3.corp.example.com", at("https://files.s3.corp.example.com", None)),
        ("https://p.supabase.co/storage/v1/s3", at("https://p.supabase.co/storage/v1/s3", None)),
        ("https://p.supabase.co/storage/v1/s3/b", at("https://p.supabase.co/storage/v1/s3", None)),
        ("http://b:9000", at("http://b:9000", None)),
    ],
)
def test_a_bucket_named_apart(url: str, expected: Endpoint) -> None:
    """It may be named twice; a path or a host of somebody's own server is the server's."""
    assert read_endpoint(url, bucket_name="b") == expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://other.s3.us-west-2.amazonaws.com", "names the bucket 'other', not 'b'"),
        (f"{R2}/other", "names the bucket 'other', not 'b'"),
        ("https://other.fra1.digitaloceanspaces.com", "names the bucket 'other', not 'b'"),
        ("ftp://minio/b", "http or https"),
        ("https://", "http or https"),
        ("https://minio:port/b", "http or https"),
        ("https://key:hush@minio/b", "no user name"),
        ("https://minio/b?versionId=hush", "no query"),
    ],
)
def test_what_is_no_endpoint(url: str, text: str) -> None:
    """What contradicts itself or can't be one is said, without the URL, which may hold a secret."""
    with pytest.raises(Unclear, match=text) as caught:
        read_endpoint(url, bucket_name="b")
    assert "hush" not in str(caught.value)


def test_a_path_that_is_no_bucket() -> None:
    """Told now rather than with each upload."""
    with pytest.raises(Unclear, match="can't be one: 'a%20b'"):
        read_endpoint("http://minio:9000/a%20b")


@given(
    st.sampled_from(["s3.eu-west-1.amazonaws.com", "nyc3.digitaloceanspaces.com", "storage.googleapis.com"]),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True),
)
def test_host_and_path_mean_the_same(host: str, bucket: str) -> None:
    """``https://<bucket>.<host>`` and ``https://<host>/<bucket>`` are one place."""
    assert read_endpoint(f"https://{bucket}.{host}") == read_endpoint(f"https://{host}/{bucket}")
