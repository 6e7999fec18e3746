"""Keys, parallel uploads, and what happens to a file whose upload fails."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.clock import SystemClock
from lib.delivery.buckets import effective
from lib.delivery.places import opener
from lib.delivery.plan import plan_s3
from lib.delivery.retry import Patience
from lib.delivery.uploads import PARALLEL, Uploads, key_folder, named_files, output_names, thumbnails
from lib.jobs.model import Job, Output, OutputKind, S3Target
from lib.settings import DeliverySettings, RunPodSettings
from lib.storage.guard import AddressGuard
from lib.storage.s3 import S3Bucket, S3Place, S3Stores
from lib.storage.s3_client import S3Clients
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.clock import START, FakeClock
from tests.fakes.http_hosts import png
from tests.s3_fixture import S3Server

AWS_WEST = "https://s3.us-west-2.amazonaws.com"
ACCOUNT = "0123456789abcdef0123456789abcdef"
TARGET = S3Target(bucket_name="b", access_key_id="k", secret_access_key="s", prefix="pre/")


QUICK = Patience(first_wait_s=0.0)


def uploads_to(blobs: MemoryBlobs) -> Uploads:
    return Uploads(open_store=lambda target: blobs, expires_s=60, clock=FakeClock(), patience=QUICK)


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
    """Request id; the run from the second on; the tenant, which no request id is like, in the operator's bucket."""
    operators = replace(TARGET, operator=True)
    assert key_folder(job(), TARGET) == "pre/req-1/"
    assert key_folder(job(run=2), operators) == "pre/req-1/2/"
    tenants = job(run=2)
    tenants = tenants.with_(spec=replace(tenants.spec, owner="acme"))
    assert key_folder(tenants, operators) == "pre/_acme/req-1/2/"
    assert key_folder(tenants, TARGET) == "pre/req-1/2/"
    assert key_folder(tenants, replace(operators, folder="a/b/")) == "pre/_acme/a/b/req-1/2/"


async def test_every_file_goes_up(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Files get URLs, in order; values that are no files pass through untouched."""
    blobs = MemoryBlobs()
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    uploads = uploads_to(blobs)
    done = await uploads.upload(job(), (output("a.png"), text, output("b.png")), TARGET)
    assert [item.url for item in done] == [
        "memory:///pre/req-1/a.png?expires=60",
        None,
        "memory:///pre/req-1/b.png?expires=60",
    ]
    assert done[0].url_expires_at == START + timedelta(seconds=60)
    assert done[1] is text
    assert blobs.objects["pre/req-1/a.png"] == (png(), "image/png")


async def test_a_failing_file_fails_alone(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Its entry says why and keeps its local path; the others have URLs."""
    blobs = MemoryBlobs(failing=("b.png",))
    uploads = uploads_to(blobs)
    good, bad = await uploads.upload(job(), (output("a.png"), output("b.png")), TARGET)
    assert (good.upload_error, bad.url) == (None, None)
    assert bad.upload_error == "S3 upload failed: NoSuchBucket: gone"
    assert bad.local_path


async def test_what_the_operators_own_store_says_stays_here(
    job: Callable[..., Job], output: Callable[..., Output], caplog: pytest.LogCaptureFixture
) -> None:
    """A caller is told that it refused, and S3's code; its sentence, which may quote names and rules, is logged."""
    blobs = MemoryBlobs(failing=("a.png",))
    (failed,) = await uploads_to(blobs).upload(job(), (output("a.png"),), replace(TARGET, operator=True))
    assert failed.upload_error == "S3 upload failed: NoSuchBucket: the worker's own storage did not take the file"
    (record,) = caplog.records
    assert record.__dict__["cause"] == "S3 upload failed: NoSuchBucket: gone"


async def test_a_store_in_trouble_is_asked_again(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """What may pass is tried three times; the third time well is well."""
    blobs = MemoryBlobs(down=2)
    (done,) = await uploads_to(blobs).upload(job(), (output("a.png"),), TARGET)
    assert (bool(done.url), done.upload_error, len(blobs.asked)) == (True, None, 3)


async def test_a_refusal_is_not_repeated(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """What another attempt can't change is told after the first."""
    blobs = MemoryBlobs(failing=("a.png",))
    (failed,) = await uploads_to(blobs).upload(job(), (output("a.png"),), TARGET)
    assert (bool(failed.upload_error), len(blobs.asked)) == (True, 1)


async def test_a_dead_store_is_not_asked_for_each_file(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Once all patience was in vain, the files that wait fail with the same cause, at once."""
    blobs = MemoryBlobs(down=1000)
    files = tuple(output(f"{number}.png") for number in range(10 * PARALLEL))
    done = await uploads_to(blobs).upload(job(), files, TARGET)
    assert {item.upload_error for item in done} == {"S3 upload failed: SlowDown: later"}
    assert len(blobs.asked) <= 3 * PARALLEL


async def test_thumbnails_go_beside_their_files(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """Under names that no file has; one that fails is only missing."""
    blobs = MemoryBlobs(failing=("thumb_b",))
    small = output("s.webp", data=b"small")
    files = [replace(output(name), thumbnail_path=small.local_path) for name in ("a.png", "b.png")]
    one, two = await uploads_to(blobs).upload(job(), files, TARGET)
    assert one.thumbnail_url == "memory:///pre/req-1/thumb_a.webp?expires=60"
    assert blobs.objects["pre/req-1/thumb_a.webp"] == (b"small", "image/webp")
    assert (two.thumbnail_url, bool(two.url), two.upload_error) == (None, True, None)


def test_every_file_of_a_job_has_its_own_name() -> None:
    """Thumbnails, and outputs that are called like one, stay apart."""
    files = named(("9", "a.png"), ("9", "a.jpg"), ("9", "thumb_a.webp"), ("9", "b.png"))
    files[:2] = [replace(file, thumbnail_path="/t/x.webp") for file in files[:2]]
    files[3] = replace(files[3], thumbnail_path="/t/x.jpg")
    assert [small and small.name for small in thumbnails(files)] == [
        "thumb_a-2.webp",
        "thumb_a-3.webp",
        None,
        "thumb_b.jpg",
    ]
    found = named_files(files)
    assert len(found) == 7
    assert (found["thumb_b.jpg"].mime_type, str(found["thumb_b.jpg"].path)) == ("image/jpeg", "/t/x.jpg")


def recorded(settings: DeliverySettings, *targets: S3Target) -> list[S3Place]:
    """Open a store for each target and return the places."""
    opened: list[S3Place] = []

    class Recording(S3Stores):
        def at(self, place: S3Place) -> S3Bucket:
            opened.append(place)
            return super().at(place)

    open_store = opener(Recording(guard=AddressGuard()), settings)
    for target in targets:
        open_store(target)
    return opened


def test_the_public_url_is_of_the_operators_own_bucket() -> None:
    """Another bucket on the allow-list, or a caller's, is not behind it."""
    settings = DeliverySettings.model_validate({"s3_bucket_name": "own", "s3_public_base_url": "https://cdn.example"})
    given = (("own", True), ("shared", True), ("own", False))
    places = recorded(settings, *(replace(TARGET, bucket_name=bucket, operator=operator) for bucket, operator in given))
    assert [place.public_base_url for place in places] == ["https://cdn.example", None, None]


def test_how_long_a_silent_server_is_waited_for() -> None:
    """As the operator says, for everybody's places."""
    settings = DeliverySettings.model_validate({"S3_READ_TIMEOUT": "300"})
    places = recorded(settings, TARGET, replace(TARGET, operator=True))
    assert [place.read_timeout_s for place in places] == [300, 300]


async def test_uploads_run_side_by_side_up_to_a_bound(job: Callable[..., Job], output: Callable[..., Output]) -> None:
    """A job with many files has several under way, never more than the bound."""
    blobs = MemoryBlobs(gate=asyncio.Event())
    uploads = uploads_to(blobs)
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
        uploads = Uploads(open_store=opener(stores, settings), expires_s=settings.s3_url_expires_s, clock=SystemClock())
        (done,) = await uploads.upload(job(run=2), (output(),), target)
        (failed,) = await uploads.upload(job(), (output(),), wrong)
        assert done.url is not None
        assert "/req-1/2/a.png?" in done.url
        assert "X-Amz-Expires=604800" in done.url
        async with session.get(done.url) as response:
            assert await response.read() == png()
    assert "SignatureDoesNotMatch" in (failed.upload_error or "")
    assert "wrong" not in (failed.upload_error or "")


async def test_a_runpod_bucket_on_a_real_server(
    job: Callable[..., Job], output: Callable[..., Output], nanio_server: S3Server
) -> None:
    """``BUCKET_*`` from the variables to a plain download: bucket, folder of the URL, month, prefix, job id and file
    name are found in the URL, and the file has its own type."""
    runpod = RunPodSettings.model_validate(
        {
            "BUCKET_ENDPOINT_URL": f"{nanio_server.endpoint_url}/outputs/renders",
            "BUCKET_ACCESS_KEY_ID": nanio_server.access_key_id,
            "BUCKET_SECRET_ACCESS_KEY": nanio_server.secret_access_key,
            "BUCKET_PREFIX": "mine",
            "BUCKET_LAYOUT": "month",
        }
    )
    settings = DeliverySettings.model_validate({})
    target = plan_s3(None, effective(settings, runpod, now=START))
    assert target is not None
    clip = replace(output("clip.mp4", data=b"\0\0\0\x18ftypmp42"), kind=OutputKind.VIDEO, mime_type="video/mp4")
    async with S3Stores(guard=AddressGuard()) as stores, aiohttp.ClientSession() as session:
        uploads = Uploads(open_store=opener(stores, settings), expires_s=60, clock=SystemClock())
        (done,) = await uploads.upload(job(), (clip,), target)
        assert done.url is not None, done.upload_error
        assert f"/outputs/renders/{START:%m-%y}/mine/req-1/clip.mp4?" in done.url
        async with session.get(done.url) as response:
            assert (response.status, response.content_type) == (200, "video/mp4")


@pytest.mark.parametrize(
    ("endpoint", "at", "region"),
    [
        ("https://bkt.s3.us-west-2.amazonaws.com", "bkt.s3.us-west-2.amazonaws.com/", "us-west-2"),
        (f"{AWS_WEST}/bkt", "bkt.s3.us-west-2.amazonaws.com/", "us-west-2"),
        ("https://bkt.s3.amazonaws.com", "bkt.s3.amazonaws.com/", "us-east-1"),
        ("https://bkt.s3.dualstack.eu-west-1.amazonaws.com", "bkt.s3.dualstack.eu-west-1.amazonaws.com/", "eu-west-1"),
        ("https://bkt.s3.cn-north-1.amazonaws.com.cn", "bkt.s3.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
        ("https://bkt.fra1.digitaloceanspaces.com", "fra1.digitaloceanspaces.com/bkt/", "fra1"),
        (f"https://{ACCOUNT}.r2.cloudflarestorage.com/bkt/in", f"{ACCOUNT}.r2.cloudflarestorage.com/bkt/in/", "auto"),
        ("https://storage.googleapis.com/bkt", "storage.googleapis.com/bkt/", "auto"),
        ("http://minio:9000/bkt", "minio:9000/bkt/", "us-east-1"),
        (f"{AWS_WEST}/my.bkt", "s3.us-west-2.amazonaws.com/my.bkt/", "us-west-2"),
    ],
)
def test_where_a_runpod_bucket_is_reached(endpoint: str, at: str, region: str) -> None:
    """The bucket is named once, the signature is for the region of its server (worker-comfyui signs for ``amazonaws``
    and ``us-east-1``), and no month is invented."""
    variables = {"BUCKET_ENDPOINT_URL": endpoint, "BUCKET_ACCESS_KEY_ID": "k", "BUCKET_SECRET_ACCESS_KEY": "s"}
    settings = DeliverySettings.model_validate({})
    target = plan_s3(None, effective(settings, RunPodSettings.model_validate(variables), now=START))
    assert target is not None
    (place,) = recorded(settings, target)
    url = urlsplit(S3Clients(AddressGuard()).make(place).presign(f"{target.prefix}id/a.png", expires_s=60))
    assert f"{url.netloc}{url.path}" == f"{at}id/a.png"
    assert parse_qs(url.query)["X-Amz-Credential"][0].split("/")[2] == region


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
        open_store = opener(stores, DeliverySettings.model_validate({}))
        uploads = Uploads(open_store=open_store, expires_s=60, clock=SystemClock())
        (refused,) = await uploads.upload(job(), (output(),), target)
    assert "UnsafeEndpoint" in (refused.upload_error or "")
