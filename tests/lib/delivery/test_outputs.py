"""Delivery as the core sees it."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import pyvips

from lib.delivery.finish import Finisher
from lib.delivery.inline import InlineCaps
from lib.delivery.outputs import OutputDelivery
from lib.delivery.put import Puts
from lib.delivery.retry import Patience
from lib.delivery.uploads import Uploads
from lib.jobs.model import ConvertSpec, Job, Output, OutputKind, PutTarget, S3Target, ThumbnailSpec
from lib.jobs.ports import Delivery
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.clock import START, FakeClock
from tests.fakes.http_hosts import png
from tests.fakes.put_store import S3Stub

TARGET = S3Target(bucket_name="b", access_key_id="k", secret_access_key="s")
BASE = "https://worker.example"
CAPS = InlineCaps(file_bytes=10_000, total_bytes=20_000)
Make = Callable[[MemoryBlobs], Delivery]


def sign(job_id: str, name: str, base_url: str) -> tuple[str, datetime]:
    return f"{base_url}/outputs/{job_id}/{name}?signed", START


@pytest.fixture
async def delivery(tmp_path: Path) -> AsyncIterator[Make]:
    settings = DeliverySettings.model_validate({})
    guard = AddressGuard(allow=["127.0.0.1"])
    async with GuardedHttp(guard) as http, Finisher(settings=settings, folder=tmp_path / "own") as finisher:

        def make(blobs: MemoryBlobs) -> Delivery:
            patience = Patience(first_wait_s=0.0)
            return OutputDelivery(
                finisher=finisher,
                uploads=Uploads(open_store=lambda target: blobs, expires_s=60, clock=FakeClock(), patience=patience),
                puts=Puts(http=http, patience=patience),
                caps=CAPS,
                sign=sign,
            )

        yield make


async def test_nothing_asked_nothing_done(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Without S3 and base64 the outputs stay as they are, with their local path."""
    outputs = (output(),)
    assert await delivery(MemoryBlobs()).deliver(job(), outputs) is outputs


async def test_url_and_base64_together(delivery: Make, job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Both may be asked for."""
    (done,) = await delivery(MemoryBlobs()).deliver(job(s3=TARGET, inline_base64=True), (output(),))
    assert done.url
    assert done.data_base64


async def test_a_url_alone_is_enough(delivery: Make, job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """A file that was uploaded is not inlined unasked."""
    (done,) = await delivery(MemoryBlobs()).deliver(job(s3=TARGET), (output(),))
    assert (done.data_base64, bool(done.url)) == (None, True)


async def test_a_failed_upload_arrives_another_way(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """The failing file is inlined, the other one only linked."""
    blobs = MemoryBlobs(failing=("b.png",))
    good, bad = await delivery(blobs).deliver(job(s3=TARGET), (output("a.png"), output("b.png")))
    assert (bool(good.url), good.data_base64) == (True, None)
    assert (bool(bad.upload_error), bool(bad.data_base64), bool(bad.local_path)) == (True, True, True)


async def test_what_came_with_its_content_is_not_read_again(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Small files are inlined while they are collected; delivery leaves them as they are."""
    outputs = (replace(output(), data_base64="AAAA"), Output(node_id="1", kind=OutputKind.TEXT, source_key="text"))
    assert await delivery(MemoryBlobs()).deliver(job(inline_base64=True), outputs) is outputs


async def test_without_a_target_there_are_urls_of_our_own(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Where we know how the caller reaches us; each file has its own, with its end; texts have none."""
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    done = await delivery(MemoryBlobs()).deliver(job(base_url=BASE), (output("a.png"), text, output("b.png")))
    assert [item.url for item in done] == [
        f"{BASE}/outputs/job-1/a.png?signed",
        None,
        f"{BASE}/outputs/job-1/b.png?signed",
    ]
    assert [item.url_expires_at for item in done] == [START, None, START]


async def test_the_bucket_comes_before_our_own_urls(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """What went up has the bucket's URL; what failed has ours, and its content as well."""
    blobs = MemoryBlobs(failing=("b.png",))
    outputs = (output("a.png"), output("b.png"))
    good, bad = await delivery(blobs).deliver(job(s3=TARGET, base_url=BASE), outputs)
    assert (good.url or "").startswith("memory:")
    assert (bad.url, bool(bad.upload_error), bool(bad.data_base64)) == (
        f"{BASE}/outputs/job-1/b.png?signed",
        True,
        True,
    )


async def test_what_is_too_large_for_base64_is_linked(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Over the file's limit, or over what is left for the job: a URL in its place, and why. Where we don't know how the
    caller reaches us it says what the operator may do."""
    files = [output(f"{number}.bin", data=bytes(size)) for number, size in enumerate((10_001, 9000, 9000, 9000))]
    outputs = tuple(files)
    linked = await delivery(MemoryBlobs()).deliver(job(inline_base64=True, base_url=BASE), outputs)
    assert [bool(item.data_base64) for item in linked] == [False, True, True, False]
    assert all(item.url for item in linked)
    alone = await delivery(MemoryBlobs()).deliver(job(inline_base64=True), outputs)
    assert await delivery(MemoryBlobs()).deliver(job(inline_base64=True), alone) == alone  # as a stored result is
    for item, other in zip(linked, alone, strict=True):
        assert bool(item.error) is not bool(item.data_base64)
        assert "BUCKET_ENDPOINT_URL" not in (item.error or "")
        assert ("S3_BUCKET_NAME or BUCKET_ENDPOINT_URL" in (other.error or "")) is not bool(other.data_base64)
        assert other.url is None


async def test_a_refused_file_that_is_too_large_says_both(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """The bucket's refusal, and that nothing else was left."""
    blobs = MemoryBlobs(failing=("a.bin",))
    (done,) = await delivery(blobs).deliver(job(s3=TARGET), (output("a.bin", data=bytes(10_001)),))
    assert "NoSuchBucket" in (done.upload_error or "")
    assert "it stays on the worker" in (done.error or "")


async def test_a_callers_put_url_wins(delivery: Make, job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """With presigned PUT URLs nothing goes to the bucket."""
    blobs = MemoryBlobs()
    async with S3Stub() as stub:
        asked = job(s3=TARGET, put=PutTarget(urls=(f"{stub.url}/k?s",)), inline_base64=True, base_url=BASE)
        (done,) = await delivery(blobs).deliver(asked, (output(),))
    assert (done.url, bool(done.data_base64), blobs.asked) == (f"{stub.url}/k", True, [])
    assert stub.stored["/k"][0] == png()


async def test_what_is_delivered_is_what_was_asked_for(
    delivery: Make, job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Converted before it is named, uploaded and inlined; content that came along is replaced, not delivered."""
    blobs = MemoryBlobs()
    asked = job(s3=TARGET, inline_base64=True, convert=ConvertSpec(format="webp"))
    (done,) = await delivery(blobs).deliver(asked, (replace(output(), data_base64="AAAA"),))
    content, mime_type = blobs.objects["req-1/a.webp"]
    assert base64.b64decode(done.data_base64 or "") == content
    assert pyvips.Image.new_from_buffer(content, "").get("vips-loader") == "webpload_buffer"
    assert (done.filename, done.mime_type, mime_type) == ("a.webp", "image/webp", "image/webp")


async def test_where_thumbnails_go(delivery: Make, job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Beside the file in the bucket, by a URL of our own, or inside the answer where there is nothing else, or where
    base64 is asked for."""
    small = ThumbnailSpec(width=8, height=8)
    blobs = MemoryBlobs()
    (stored,) = await delivery(blobs).deliver(job(s3=TARGET, thumbnail=small), (output(),))
    (linked,) = await delivery(blobs).deliver(job(base_url=BASE, thumbnail=small), (output(),))
    (inside,) = await delivery(blobs).deliver(job(thumbnail=small), (output(),))
    (both,) = await delivery(blobs).deliver(job(s3=TARGET, inline_base64=True, thumbnail=small), (output(),))
    assert (stored.thumbnail_url, stored.thumbnail_base64) == ("memory:///req-1/thumb_a.webp?expires=60", None)
    assert linked.thumbnail_url == f"{BASE}/outputs/job-1/thumb_a.webp?signed"
    assert linked.thumbnail_base64 is None
    assert inside.thumbnail_url is None
    assert base64.b64decode(inside.thumbnail_base64 or "") == Path(inside.thumbnail_path).read_bytes()
    assert both.thumbnail_url
    assert both.thumbnail_base64
