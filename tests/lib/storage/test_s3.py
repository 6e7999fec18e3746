"""Publishing to S3: against a real server that verifies signatures, and against hosts that are none."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from lib.errors import StorageFailed
from lib.storage.guard import AddressGuard
from lib.storage.s3 import S3Place, S3Stores
from lib.storage.s3_client import MULTIPART_BYTES, S3Clients
from tests.fakes.http_hosts import Names, WebHost, png
from tests.fakes.put_store import S3Stub
from tests.s3_fixture import S3Server, free_ports


@pytest.fixture
def place(nanio_server: S3Server) -> S3Place:
    return S3Place(
        bucket_name="outputs",
        access_key_id=nanio_server.access_key_id,
        secret_access_key=nanio_server.secret_access_key,
        endpoint_url=nanio_server.endpoint_url,
        trusted=True,
        attempts=1,
    )


@pytest.fixture
async def stores() -> AsyncIterator[S3Stores]:
    async with S3Stores(guard=AddressGuard(lookup=Names())) as stores:
        yield stores


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    return path


async def publish(stores: S3Stores, place: S3Place, path: Path, key: str = "r/a.png") -> str:
    return (await stores.at(place).publish(path, key=key, mime_type="image/png", expires_s=600)).url


async def download(url: str) -> tuple[int, bytes, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read(), response.content_type


async def test_the_url_downloads_the_file(stores: S3Stores, place: S3Place, picture: Path) -> None:
    """What was published comes back by the presigned URL alone, with its type; the signature is version 4."""
    url = await publish(stores, place, picture, key="pre/r1/Bild ä+1.png")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert "X-Amz-Expires=600" in url
    assert await download(url) == (200, png(), "image/png")
    status, _, _ = await download(url.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    assert status == 403


async def test_a_large_file_goes_in_parts(
    stores: S3Stores, place: S3Place, tmp_path: Path, nanio_server: S3Server
) -> None:
    """Over the threshold the upload is multipart; content and type arrive whole."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for number in range(20):
            file.write(bytes([number]) * (1 << 20))
    assert path.stat().st_size > MULTIPART_BYTES
    url = await publish(stores, place, path, key="large")
    status, content, mime_type = await download(url)
    assert (status, content == path.read_bytes(), mime_type) == (200, True, "image/png")
    assert "-" in nanio_server.client().head_object(Bucket="outputs", Key="large")["ETag"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key_id": "nobody"}, "InvalidAccessKeyId"),
        ({"bucket_name": "absent"}, "NoSuchBucket"),
        ({"bucket_name": "no/bucket name"}, "InvalidParameter"),
    ],
)
@pytest.mark.parametrize("size", [10, MULTIPART_BYTES + 1])
async def test_s3_says_why(
    stores: S3Stores, place: S3Place, tmp_path: Path, change: dict[str, str], reason: str, size: int
) -> None:
    """A refusal carries S3's own code, whole file or parts, and no secret."""
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(size))
    bad = replace(place, **change)
    with pytest.raises(StorageFailed) as caught:
        await publish(stores, bad, path)
    assert caught.value.details["reason"] == reason
    assert reason in caught.value.message
    assert bad.secret_access_key not in caught.value.message + repr(bad)


async def test_a_refusal_does_not_spoil_the_connection(stores: S3Stores, place: S3Place, picture: Path) -> None:
    """Each attempt hears S3's own reason, over the connection that is kept."""
    for _ in range(3):
        with pytest.raises(StorageFailed) as caught:
            await publish(stores, replace(place, secret_access_key="wrong"), picture)
        assert caught.value.details["reason"] == "SignatureDoesNotMatch"


async def test_a_missing_file_is_said_to_be_missing(stores: S3Stores, place: S3Place, tmp_path: Path) -> None:
    """The local file may be gone; that is not the store's fault."""
    with pytest.raises(StorageFailed) as caught:
        await publish(stores, place, tmp_path / "gone.png")
    assert caught.value.details["reason"] == "LocalFile"


async def test_an_endpoint_that_is_no_s3(stores: S3Stores, place: S3Place, picture: Path) -> None:
    """Nothing listening, a web page, or a 200 to everything: named as such, never taken for success."""
    (closed,) = free_ports(1)
    async with WebHost(files={"/outputs/r/a.png": (b"ok", "text/plain")}) as web:
        for endpoint, reason in ((f"http://127.0.0.1:{closed}", "ConnectionFailed"), (web.url(""), "NotS3")):
            with pytest.raises(StorageFailed) as caught:
                await publish(stores, replace(place, endpoint_url=endpoint), picture)
            assert caught.value.details["reason"] == reason
    with pytest.raises(StorageFailed):
        await publish(stores, replace(place, endpoint_url="not a url"), picture)


async def test_a_hanging_endpoint_is_given_up_and_delays_nobody(place: S3Place, picture: Path) -> None:
    """A caller's endpoint that never answers ends by its time-out, while the operator's uploads go on, and those of
    other callers."""
    guard = AddressGuard(allow=["127.0.0.1"])
    async with WebHost() as web, S3Stores(guard=guard, threads=1) as stores:
        web.files.clear()
        slow = replace(place, trusted=False, endpoint_url=web.url("/hang"), read_timeout_s=1.0)
        hanging = asyncio.create_task(publish(stores, slow, picture))
        await web.arrived.wait()
        assert await publish(stores, place, picture)
        assert await publish(stores, replace(place, trusted=False), picture)
        assert not hanging.done()
        with pytest.raises(StorageFailed) as caught:
            await hanging
    assert caught.value.details["reason"] == "ReadTimeout"


async def test_a_callers_endpoint_is_guarded(place: S3Place, picture: Path, nanio_server: S3Server) -> None:
    """A private endpoint is refused for a caller's place, by address and by name; the allow-list opens it."""
    names = Names(s3_example=[["127.0.0.1"]])
    foreign = replace(place, trusted=False)
    async with S3Stores(guard=AddressGuard(lookup=names)) as stores:
        for host in ("127.0.0.1", "s3.example"):
            with pytest.raises(StorageFailed) as caught:
                await publish(stores, replace(foreign, endpoint_url=f"http://{host}:{nanio_server.port}"), picture)
            assert caught.value.details["reason"] == "UnsafeEndpoint"
    async with S3Stores(guard=AddressGuard(allow=["s3.example"], lookup=names)) as stores:
        url = await publish(stores, replace(foreign, endpoint_url=f"http://s3.example:{nanio_server.port}"), picture)
    assert urlsplit(url).hostname == "s3.example"


async def test_the_connection_goes_to_the_vetted_address(place: S3Place, picture: Path, nanio_server: S3Server) -> None:
    """One look-up a connection, and boto3 connects to its answer: a name that only the guard knows works, and one
    that changes to a private address is refused at the next connection."""
    names = Names(rebind_example=[["127.0.0.1"], ["10.0.0.1"]])
    endpoint = f"http://rebind.example:{nanio_server.port}"
    foreign = replace(place, trusted=False, endpoint_url=endpoint)
    for expected in (None, "UnsafeEndpoint"):
        async with S3Stores(guard=AddressGuard(allow=["127.0.0.1"], lookup=names)) as stores:
            try:
                await publish(stores, foreign, picture)
                reason = None
            except StorageFailed as error:
                reason = error.details["reason"]
            assert reason == expected
    assert names.asked == ["rebind.example", "rebind.example"]


@pytest.mark.parametrize("trusted", [True, False])
async def test_s3_can_not_lead_elsewhere(place: S3Place, picture: Path, trusted: bool) -> None:
    """An answer that redirects is an error that says so (botocore alone would recurse), and is not followed."""
    async with WebHost() as web:
        trap = replace(place, trusted=trusted, endpoint_url=web.url("/to"))
        async with S3Stores(guard=AddressGuard(allow=["127.0.0.1"])) as stores:
            with pytest.raises(StorageFailed) as caught:
                await publish(stores, trap, picture)
        assert caught.value.details["reason"] == "Redirected"
        assert all(seen.path.startswith("/to") for seen in web.seen)


def test_places_hide_their_secrets(place: S3Place) -> None:
    """What is logged by accident shows no key."""
    assert place.secret_access_key not in repr(place)
    assert place.access_key_id not in repr(place)


async def test_a_public_bucket_needs_no_signature(stores: S3Stores, place: S3Place, picture: Path) -> None:
    """With a public base URL the file goes up as ever, and the URL is that base and the key: plain and without end."""
    public = replace(place, public_base_url="https://cdn.example/files/")
    published = await stores.at(public).publish(picture, key="r/Bild ä+1.png", mime_type="image/png", expires_s=600)
    assert published.url == "https://cdn.example/files/r/Bild%20%C3%A4%2B1.png"
    assert published.expires_s is None
    url = await publish(stores, place, picture, key="other")
    assert (await download(url.replace("other", "r/Bild%20%C3%A4%2B1.png")))[0] == 403  # it is another signature's


@pytest.mark.parametrize(
    ("statuses", "attempts", "reason"), [([500, 500], 3, None), ([503, 500], 2, "NotS3"), ([403], 3, "NotS3")]
)
async def test_a_server_in_trouble_is_asked_again(
    place: S3Place, picture: Path, statuses: list[int], attempts: int, reason: str | None
) -> None:
    """500 twice and then well is well, within the attempts; 403 is told at once. What may pass is marked."""
    async with S3Stub(list(statuses)) as stub, S3Stores(guard=AddressGuard()) as stores:
        there = replace(place, endpoint_url=stub.url, attempts=attempts)
        if reason is None:
            assert await publish(stores, there, picture)
            assert stub.asked == 3
            assert stub.stored == {"/outputs/r/a.png": (png(), "image/png")}
            return
        with pytest.raises(StorageFailed) as caught:
            await publish(stores, there, picture)
    assert caught.value.details["reason"] == reason
    assert caught.value.retryable == (statuses[0] >= 500)
    assert stub.asked == len(statuses)


async def test_what_may_pass_is_marked(stores: S3Stores, place: S3Place, tmp_path: Path, picture: Path) -> None:
    """No connection may pass; a wrong secret, a missing file and a refused address do not."""
    (closed,) = free_ports(1)
    private = replace(place, trusted=False)
    for there, path, passes in (
        (replace(place, endpoint_url=f"http://127.0.0.1:{closed}"), picture, True),
        (replace(place, secret_access_key="wrong"), picture, False),
        (place, tmp_path / "gone.png", False),
        (private, picture, False),
    ):
        with pytest.raises(StorageFailed) as caught:
            await publish(stores, there, path)
        assert caught.value.retryable == passes


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "bkt.s3.amazonaws.com"),
        ("us-east-1", "bkt.s3.amazonaws.com"),
        ("eu-west-1", "bkt.s3.eu-west-1.amazonaws.com"),
        ("cn-north-1", "bkt.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_urls_on_aws_lead_to_the_buckets_own_region(place: S3Place, region: str | None, host: str) -> None:
    """The host of no region sends its visitors on for hours after a bucket was made, and a signed URL does not survive
    that."""
    on_aws = replace(place, endpoint_url=None, region=region, bucket_name="bkt")
    url = urlsplit(S3Clients(AddressGuard()).make(on_aws).presign("k", expires_s=60))
    assert (url.netloc, url.path) == (host, "/k")
