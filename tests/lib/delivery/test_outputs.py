"""Delivery as the core sees it."""

from collections.abc import Callable
from dataclasses import replace

from lib.delivery.inline import InlineCaps
from lib.delivery.outputs import OutputDelivery
from lib.delivery.uploads import Uploads
from lib.jobs.model import Job, Output, OutputKind, S3Target
from lib.jobs.ports import Delivery
from tests.fakes.blobs import MemoryBlobs

TARGET = S3Target(bucket_name="b", access_key_id="k", secret_access_key="s")


def delivery(blobs: MemoryBlobs) -> Delivery:
    uploads = Uploads(open_store=lambda target: blobs, expires_s=60)
    return OutputDelivery(uploads=uploads, caps=InlineCaps(file_bytes=10_000, total_bytes=20_000))


async def test_nothing_asked_nothing_done(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Without S3 and base64 the outputs stay as they are, with their local path."""
    outputs = (output(),)
    assert await delivery(MemoryBlobs()).deliver(job(), outputs) is outputs


async def test_url_and_base64_together(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Both may be asked for."""
    (done,) = await delivery(MemoryBlobs()).deliver(job(s3=TARGET, inline_base64=True), (output(),))
    assert done.url
    assert done.data_base64


async def test_a_url_alone_is_enough(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """A file that was uploaded is not inlined unasked."""
    (done,) = await delivery(MemoryBlobs()).deliver(job(s3=TARGET), (output(),))
    assert (done.data_base64, bool(done.url)) == (None, True)


async def test_a_failed_upload_arrives_another_way(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """The failing file is inlined, the other one only linked."""
    blobs = MemoryBlobs(failing=("b.png",))
    good, bad = await delivery(blobs).deliver(job(s3=TARGET), (output("a.png"), output("b.png")))
    assert (bool(good.url), good.data_base64) == (True, None)
    assert (bool(bad.upload_error), bool(bad.data_base64), bool(bad.local_path)) == (True, True, True)


async def test_what_came_with_its_content_is_not_read_again(
    job: Callable[..., Job], output: Callable[..., Output]
) -> None:
    """Small files are inlined while they are collected; delivery leaves them as they are."""
    outputs = (replace(output(), data_base64="AAAA"), Output(node_id="1", kind=OutputKind.TEXT, source_key="text"))
    assert await delivery(MemoryBlobs()).deliver(job(inline_base64=True), outputs) is outputs
