"""Keys, parallel uploads, and what happens to a file whose upload fails."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import aiohttp
from hypothesis import given
from hypothesis import strategies as st

from lib.delivery.uploads import PARALLEL, Uploads, key_folder, output_names, s3_opener
from lib.jobs.model import Job, Output, OutputKind, S3Target
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.s3 import S3Stores
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.http_hosts import png
from tests.s3_fixture import S3Server

TARGET = S3Target(bucket_name="b", access_key_id="k", secret_access_key="s", prefix="pre/")


def named(*pairs: tuple[str, str]) -> list[Output]:
    return [
        Output(node_id=node, kind=OutputKind.IMAGE, source_key="images", filename=name, local_path="x")
        for node, name in pairs
    ]


def names(*pairs: tuple[str, str]) -> list[str]:
    return output_names(named(*pairs))


def test_names() -> None:
    """The file's own name, the node before names that come twice, a number where that is not enough."""
    assert names(("9", "a.png"), ("10:3", "a.png"), ("9", "b.png")) == ["9_a.png", "10-3_a.png", "b.png"]
    assert names(("9", "a.png"), ("9", "a.png"), ("9", "x"), ("9", "x")) == ["9_a.png", "9_a-2.png", "9_x", "9_x-2"]


def test_what_is_no_file_has_no_name() -> None:
    """Texts and files that are missing keep their place, and take no name from a real file."""
    (file,) = named(("9", "a.png"))
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    assert output_names([text, replace(file, local_path="", error="gone"), file]) == ["", "", "a.png"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "1:2", "1-2"]), st.sampled_from(["a.png", "1_a.png", "1_a-2.png", ".x"]))
    )
)
def test_names_never_collide(pairs: list[tuple[str, str]]) -> None:
    """No two outputs of a job share a name, whatever their nodes and names."""
    assert len(set(names(*pairs))) == len(pairs)


def test_key_folders(job: Callable[..., Job]) -> None:
    """Request id; the run from the second on; the tenant in the operator's bucket, not in a caller's own."""
    operators = replace(TARGET, operator=True)
    assert key_folder(job(), TARGET) == "pre/req-1/"
    assert key_folder(job(run=2), operators) == "pre/req-1/2/"
    tenants = job(run=2)
    tenants = tenants.with_(spec=replace(tenants.spec, owner="acme"))
    assert key_folder(tenants, operators) == "pre/acme/req-1/2/"
    assert key_folder(tenants, TARGET) == "pre/req-1/2/"


async def test_every_file_goes_up(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Files get URLs, in order; values that are no files pass through untouched."""
    blobs = MemoryBlobs()
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    uploads = Uploads(open_store=lambda target: blobs, expires_s=60)
    done = await uploads.upload(job(), (output("a.png"), text, output("b.png")), TARGET)
    assert [item.url for item in done] == [
        "memory:///pre/req-1/a.png?expires=60",
        None,
        "memory:///pre/req-1/b.png?expires=60",
    ]
    assert done[1] is text
    assert blobs.objects["pre/req-1/a.png"] == (png(), "image/png")


async def test_a_failing_file_fails_alone(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Its entry says why and keeps its local path; the others have URLs."""
    blobs = MemoryBlobs(failing=("b.png",))
    uploads = Uploads(open_store=lambda target: blobs, expires_s=60)
    good, bad = await uploads.upload(job(), (output("a.png"), output("b.png")), TARGET)
    assert (good.upload_error, bad.url) == (None, None)
    assert bad.upload_error == "S3 upload failed: NoSuchBucket: gone"
    assert bad.local_path


async def test_uploads_run_side_by_side_up_to_a_bound(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """A job with many files has several under way, never more than the bound."""
    blobs = MemoryBlobs(gate=asyncio.Event())
    uploads = Uploads(open_store=lambda target: blobs, expires_s=60)
    files = tuple(output(f"{number}.png") for number in range(3 * PARALLEL))
    task = asyncio.create_task(uploads.upload(job(), files, TARGET))
    while blobs.under_way < PARALLEL:
        await asyncio.sleep(0)
    assert blobs.gate is not None
    blobs.gate.set()
    assert all(item.url for item in await task)
    assert blobs.most_under_way == PARALLEL


async def test_on_a_real_server(job: Callable[..., Job], output: Callable[..., Output], nanio_server: S3Server) -> None:
    """From target to plain download: the operator's place is trusted, a wrong secret is told on the entry."""
    target = S3Target(
        bucket_name="outputs",
        access_key_id=nanio_server.access_key_id,
        secret_access_key=nanio_server.secret_access_key,
        endpoint_url=nanio_server.endpoint_url,
        connect_attempts=1,
        operator=True,
    )
    wrong = S3Target(
        bucket_name="outputs",
        access_key_id=nanio_server.access_key_id,
        secret_access_key="wrong",
        endpoint_url=nanio_server.endpoint_url,
        connect_attempts=1,
        operator=True,
    )
    settings = DeliverySettings.model_validate({})
    async with S3Stores(guard=AddressGuard()) as stores, aiohttp.ClientSession() as session:
        uploads = Uploads(open_store=s3_opener(stores, settings), expires_s=settings.s3_url_expires_s)
        (done,) = await uploads.upload(job(run=2), (output(),), target)
        (failed,) = await uploads.upload(job(), (output(),), wrong)
        assert done.url is not None
        assert "/req-1/2/a.png?" in done.url
        assert "X-Amz-Expires=604800" in done.url
        async with session.get(done.url) as response:
            assert await response.read() == png()
    assert "SignatureDoesNotMatch" in (failed.upload_error or "")
    assert "wrong" not in (failed.upload_error or "")


async def test_a_callers_private_endpoint_is_refused(
    job: Callable[..., Job], output: Callable[..., Output], nanio_server: S3Server
) -> None:
    """The guard stands before a caller's endpoint, not before the operator's."""
    target = S3Target(
        bucket_name="outputs",
        access_key_id=nanio_server.access_key_id,
        secret_access_key=nanio_server.secret_access_key,
        endpoint_url=nanio_server.endpoint_url,
    )
    async with S3Stores(guard=AddressGuard()) as stores:
        uploads = Uploads(open_store=s3_opener(stores, DeliverySettings.model_validate({})), expires_s=60)
        (refused,) = await uploads.upload(job(), (output(),), target)
    assert "UnsafeEndpoint" in (refused.upload_error or "")
