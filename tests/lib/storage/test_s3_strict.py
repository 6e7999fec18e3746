"""Publishing against Swift's S3 API, which checks what quick stand-ins let pass: region, virtual hosts, expiry."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import StorageFailed
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.s3 import S3Place, S3Stores
from lib.storage.s3_client import MULTIPART_BYTES
from tests.fakes.http_hosts import Names, png
from tests.s3_fixture import S3Server

NAMES = {"s3_test": [["127.0.0.1"]], "outputs_s3_test": [["127.0.0.1"]]}


@pytest.fixture
async def guard() -> AddressGuard:
    return AddressGuard(allow=["127.0.0.1"], lookup=Names(**NAMES))


@pytest.fixture
async def stores(guard: AddressGuard) -> AsyncIterator[S3Stores]:
    async with S3Stores(guard=guard) as stores:
        yield stores


@pytest.fixture
def place(swift_server: S3Server) -> S3Place:
    """A caller's own place, so that everything here goes through the guard."""
    return S3Place(
        bucket_name="outputs",
        access_key_id=swift_server.access_key_id,
        secret_access_key=swift_server.secret_access_key,
        endpoint_url=f"http://s3.test:{swift_server.port}",
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    return path


async def download(guard: AddressGuard, url: str) -> tuple[int, bytes]:
    async with GuardedHttp(guard) as http, http.stream(url) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
@pytest.mark.parametrize("addressing", ["path", "virtual"])
async def test_both_addressings_and_checksum_modes(
    stores: S3Stores, guard: AddressGuard, place: S3Place, picture: Path, checksums: str, addressing: str
) -> None:
    """Bucket in the path or in the host name, checksums or not: uploaded, and downloaded by the URL alone."""
    there = replace(place, checksums=checksums, addressing=addressing)
    url = (
        await stores.at(there).publish(picture, key=f"{addressing}/a b.png", mime_type="image/png", expires_s=600)
    ).url
    assert url.startswith("http://outputs.s3.test:" if addressing == "virtual" else "http://s3.test:")
    assert await download(guard, url) == (200, png())


async def test_a_wrong_region_is_put_right(
    stores: S3Stores, guard: AddressGuard, place: S3Place, picture: Path
) -> None:
    """When the server names another region, upload and URL are signed for that one."""
    there = replace(place, region="eu-north-1")
    url = (await stores.at(there).publish(picture, key="region.png", mime_type="image/png", expires_s=600)).url
    assert await download(guard, url) == (200, png())


async def test_a_presigned_url_ends(stores: S3Stores, guard: AddressGuard, place: S3Place, picture: Path) -> None:
    """After its life the URL is refused; before, it works."""
    url = (await stores.at(place).publish(picture, key="short.png", mime_type="image/png", expires_s=1)).url
    await asyncio.sleep(3.2)
    assert (await download(guard, url))[0] == 403
    assert "X-Amz-Expires=1&" in url


async def test_parts_are_put_together(stores: S3Stores, guard: AddressGuard, place: S3Place, tmp_path: Path) -> None:
    """Multipart against a server that checks every part."""
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * (MULTIPART_BYTES // 256) + b"tail")
    url = (await stores.at(place).publish(path, key="large.bin", mime_type="video/mp4", expires_s=600)).url
    assert await download(guard, url) == (200, path.read_bytes())


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
async def test_over_tls(
    stores: S3Stores,
    place: S3Place,
    picture: Path,
    swift_server: S3Server,
    checksums: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The certificate is checked against the host's name although the address is pinned; the body goes unsigned,
    with checksums in the trailer where asked for."""
    there = replace(place, endpoint_url=f"https://s3.test:{swift_server.tls_port}", checksums=checksums, attempts=1)
    with pytest.raises(StorageFailed) as caught:
        await stores.at(replace(there, region="untrusted")).publish(picture, key="t", mime_type="a/b", expires_s=60)
    assert caught.value.details["reason"] == "TLSFailed"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(swift_server.certificate))
    await stores.at(there).publish(picture, key=f"tls-{checksums}", mime_type="image/png", expires_s=60)
    arrived = swift_server.client().get_object(Bucket="outputs", Key=f"tls-{checksums}")
    assert arrived["Body"].read() == png()


async def test_a_plain_url_names_the_key_as_it_is(
    stores: S3Stores, place: S3Place, picture: Path, swift_server: S3Server
) -> None:
    """Whatever letters it has: nothing in it is taken for an escape or an end."""
    key = "my folder/a%20b/ä #?&+%.png"
    published = await stores.at(replace(place, plain=True)).publish(
        picture, key=key, mime_type="image/png", expires_s=60
    )
    assert (published.url, published.expires_s) == (f"s3://outputs/{key}", None)

    def stored() -> bytes:
        return swift_server.client().get_object(Bucket="outputs", Key=key)["Body"].read()  # type: ignore[no-any-return]

    assert await asyncio.to_thread(stored) == png()
