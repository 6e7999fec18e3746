"""Presigned PUT URLs: streamed, guarded, tried again where that may help."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lib.delivery.put import PARALLEL, Puts
from lib.delivery.retry import Patience
from lib.jobs.model import Output, OutputKind, PutTarget
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.http_hosts import Names, png
from tests.fakes.put_store import S3Stub
from tests.s3_fixture import free_ports

QUICK = Patience(first_wait_s=0.0)


@pytest.fixture
async def puts() -> AsyncIterator[Puts]:
    async with GuardedHttp(AddressGuard(allow=["127.0.0.1"])) as http:
        yield Puts(http=http, patience=QUICK)


async def test_files_go_to_their_urls_in_order(puts: Puts, output: Callable[..., Output]) -> None:
    """Body, length and type arrive; the answer's URL has no query; what is no file takes no URL."""
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    async with S3Stub() as stub:
        urls = (f"{stub.url}/k/1?X-Sig=secret", f"{stub.url}/k/2?X-Sig=secret#x")
        target = PutTarget(urls=urls, headers={"x-amz-acl": "private"})
        one, same, two = await puts.put((output("a.png"), text, output("b.bin", data=b"")), target)
    assert (one.url, two.url) == (f"{stub.url}/k/1", f"{stub.url}/k/2")
    assert same is text
    assert stub.stored == {"/k/1": (png(), "image/png"), "/k/2": (b"", "image/png")}
    assert all("Transfer-Encoding" not in seen and seen["X-Amz-Acl"] == "private" for seen in stub.headers)
    assert {seen["Content-Length"] for seen in stub.headers} == {"0", str(len(png()))}


async def test_a_callers_content_type_wins(puts: Puts, output: Callable[..., Output]) -> None:
    """It may be part of what was signed; the spelling of its name does not matter."""
    async with S3Stub() as stub:
        await puts.put((output(),), PutTarget(urls=(f"{stub.url}/k",), headers={"content-type": "text/x"}))
    assert stub.stored == {"/k": (png(), "text/x")}


async def test_a_host_that_failed_with_all_patience_is_not_asked_for_each_file(
    puts: Puts, output: Callable[..., Output]
) -> None:
    """A thousand files would hold a seat for days; the other files of the job say what the first ones met."""
    files = tuple(output(f"{number}.png") for number in range(3 * PARALLEL))
    async with S3Stub(statuses=[503] * 1000) as stub:
        done = await puts.put(files, PutTarget(urls=tuple(f"{stub.url}/{number}" for number in range(len(files)))))
        assert stub.asked <= 3 * PARALLEL
    assert {"status 503" in (file.upload_error or "") for file in done} == {True}


async def test_fewer_urls_than_files(puts: Puts, output: Callable[..., Output]) -> None:
    """The first files get them; the others say that there was none."""
    async with S3Stub() as stub:
        one, two = await puts.put((output("a.png"), output("b.png")), PutTarget(urls=(f"{stub.url}/k",)))
    assert (bool(one.url), one.upload_error, two.url) == (True, None, None)
    assert two.upload_error == "no URL is left for this file: 1 were given, one a file"


@pytest.mark.parametrize(
    ("stub", "tries", "error"),
    [
        (S3Stub([500, 503]), 3, None),
        (S3Stub([429]), 2, None),
        (S3Stub(cuts=2), 3, None),
        (S3Stub([500, 500, 502]), 3, "status 502"),
        (S3Stub([403], body=b"<Error><Code>AccessDenied</Code></Error>"), 1, "status 403, AccessDenied"),
        (S3Stub([302]), 1, "redirects are not followed"),
    ],
)
async def test_what_may_pass_is_tried_again(
    puts: Puts, output: Callable[..., Output], stub: S3Stub, tries: int, error: str | None
) -> None:
    """A server's trouble and broken connections are, three times; a refusal and a redirect are not."""
    stub = S3Stub(list(stub.statuses), cuts=stub.cuts, body=stub.body)
    async with stub:
        (done,) = await puts.put((output(),), PutTarget(urls=(f"{stub.url}/k?sig=secret",)))
    assert stub.asked == tries
    assert (done.url is None) == (error is not None)
    assert (error or "") in (done.upload_error or "")
    assert "secret" not in (done.upload_error or "")


async def test_nobody_there(puts: Puts, output: Callable[..., Output]) -> None:
    """A closed port is said, without the URL."""
    (port,) = free_ports(1)
    (done,) = await puts.put((output(),), PutTarget(urls=(f"http://127.0.0.1:{port}/k?sig=secret",)))
    assert done.upload_error == "PUT to '127.0.0.1' failed: no connection, or it broke off"


async def test_a_place_that_hangs_ends_by_its_time(puts: Puts, output: Callable[..., Output]) -> None:
    """The caller's time-out bounds an attempt, while another file's goes on."""
    async with S3Stub(hanging=True) as slow, S3Stub() as stub:
        target = PutTarget(urls=(f"{slow.url}/k", f"{stub.url}/k"), timeout_s=1.0)
        hanging, well = await puts.put((output("a.png"), output("b.png")), target)
    assert "no answer within 1 s" in (hanging.upload_error or "")
    assert well.url


async def test_private_places_are_refused(output: Callable[..., Output]) -> None:
    """By address, and by a name that leads to one."""
    guard = AddressGuard(lookup=Names(inner_example=[["10.0.0.1"]]))
    async with GuardedHttp(guard) as http:
        urls = ("http://127.0.0.1:9/k", "http://inner.example/k")
        done = await Puts(http=http, patience=QUICK).put((output("a.png"), output("b.png")), PutTarget(urls=urls))
    assert all("private" in (item.upload_error or "") for item in done)


async def test_a_file_that_is_gone(puts: Puts, output: Callable[..., Output]) -> None:
    """That is not the store's fault, and it is not asked."""
    gone = output()
    Path(gone.local_path).unlink()
    async with S3Stub() as stub:
        (done,) = await puts.put((gone,), PutTarget(urls=(f"{stub.url}/k",)))
    assert ("the file can't be read" in (done.upload_error or ""), stub.asked) == (True, 0)


async def test_a_large_file_is_streamed(puts: Puts, tmp_path: Path, output: Callable[..., Output]) -> None:
    """It arrives whole, in portions."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (40 << 10))
    large = replace(output(), local_path=str(path))
    async with S3Stub() as stub:
        (done,) = await puts.put((large,), PutTarget(urls=(f"{stub.url}/k",)))
    assert done.url
    digest = await asyncio.to_thread(lambda: hashlib.sha256(path.read_bytes()).digest())
    assert stub.stored["/k"][0] == digest
