"""Web servers that take files by PUT, as a storage of a request's."""

from pathlib import Path

import pytest

from lib.errors import StorageFailed
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.web_store import WebFolder
from tests.fakes.put_store import S3Stub

GUARD = AddressGuard(allow=["127.0.0.1"])
HEADER = {"X-Own": "hush"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


async def publish(prefix: str, path: Path, key: str = "a b/ä#?%.png", hint: str = "") -> str:
    async with GuardedHttp(GUARD) as http:
        folder = WebFolder(http=http, url_prefix=prefix, headers=HEADER, timeout_s=5, hint=hint)
        return (await folder.publish(path, key=key, mime_type="audio/flac", expires_s=60)).url


async def test_a_file_is_put_below_the_prefix(path: Path) -> None:
    """Slashes at its end don't count; the name is one that a URL can have; header, type and content arrive."""
    async with S3Stub() as stub:
        assert await publish(f"{stub.url}/p//", path) == f"{stub.url}/p/a%20b/%C3%A4%23%3F%25.png"
        assert stub.stored == {"/p/a b/ä#?%.png": (b"content", "audio/flac")}
        assert stub.headers[0]["X-Own"] == "hush"
        assert stub.headers[0]["Content-Length"] == "7"


async def failed(prefix: str, path: Path, hint: str = "") -> StorageFailed:
    with pytest.raises(StorageFailed) as caught:
        await publish(prefix, path, hint=hint)
    assert "hush" not in caught.value.message and "/p" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (302, False), (503, True), (429, True)])
async def test_another_status_is_a_failure(path: Path, status: int, retryable: bool) -> None:
    """Named with its host; what may pass is said to."""
    async with S3Stub([status]) as stub:
        error = await failed(f"{stub.url}/p", path)
    assert (error.details["reason"], error.retryable) == (str(status), retryable)
    assert f"status {status}" in error.message


async def test_who_is_refused_learns_that_the_header_was_not_sent(path: Path) -> None:
    """Where it might have helped, and only there."""
    async with S3Stub([401, 404]) as stub:
        assert (await failed(f"{stub.url}/p", path, "no header")).message.endswith("; no header")
        assert "no header" not in (await failed(f"{stub.url}/p", path, "no header")).message


async def test_private_places_are_refused(path: Path) -> None:
    """The prefix is a caller's."""
    error = await failed("http://10.0.0.1/p", path)
    assert (error.details["reason"], error.retryable) == ("UnsafeEndpoint", False)
