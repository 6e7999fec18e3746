"""Files of Salad's jobs to each of its storages, on real servers: from the request's block to the URL in the answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.clock import SystemClock
from lib.delivery.finish import Finisher
from lib.delivery.inline import InlineCaps
from lib.delivery.outputs import OutputDelivery
from lib.delivery.places import Accounts, opener
from lib.delivery.put import Puts
from lib.delivery.retry import Patience
from lib.delivery.storages import plan_salad_s3, plan_store
from lib.delivery.uploads import Uploads
from lib.errors import StorageFailed
from lib.jobs.model import ConvertSpec, Job, Output, S3Target, StoreKind, StoreTarget
from lib.settings import DeliverySettings, SaladSettings
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.hugging_face import HubAccount, HubStores
from lib.storage.operator_header import OperatorHeader
from lib.storage.s3 import S3Stores
from tests.fakes.clock import START
from tests.fakes.http_hosts import png
from tests.fakes.hub import TOKEN, FakeHub
from tests.fakes.put_store import S3Stub
from tests.peers.azure.azurite import CONTAINER, AzureServer
from tests.s3_fixture import S3Server

NAME = "id-1_ä #?%_00001_.png"
QUOTED = "id-1_%C3%A4%20%23%3F%25_00001_.png"
MakeJob = Callable[..., Job]
MakeOutput = Callable[..., Output]
pytestmark = [
    pytest.mark.usefixtures("no_xet"),
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning"),  # the hub client's own
]


@asynccontextmanager
async def delivering(folder: Path, **settings: Any) -> AsyncIterator[tuple[OutputDelivery, SaladSettings]]:
    """As the worker has it with these settings of Salad's."""
    salad, delivery = SaladSettings.model_validate(settings), DeliverySettings.model_validate({})
    guard = AddressGuard(allow=["127.0.0.1"])
    patience = Patience(first_wait_s=0.0)
    async with AsyncExitStack() as stack:
        account = AzureAccount.from_settings(salad)
        http = await stack.enter_async_context(GuardedHttp(guard))
        accounts = Accounts(
            http=http,
            header=OperatorHeader.from_settings(salad),
            azure=await stack.enter_async_context(AzureStores(account)) if account else None,
            hub=await stack.enter_async_context(HubStores(HubAccount.from_settings(salad))),
        )
        stores = await stack.enter_async_context(S3Stores(guard=guard))
        open_store = opener(stores, delivery, accounts)
        yield (
            OutputDelivery(
                finisher=await stack.enter_async_context(Finisher(settings=delivery, folder=folder / "own")),
                uploads=Uploads(open_store=open_store, expires_s=60, clock=SystemClock(), patience=patience),
                puts=Puts(http=http, patience=patience),
                caps=InlineCaps(file_bytes=10_000, total_bytes=20_000),
                sign=lambda job_id, name, base_url: (base_url, START),
            ),
            salad,
        )


def to_s3(block: Mapping[str, Any], salad: SaladSettings) -> dict[str, Any]:
    return {"s3": plan_salad_s3(block, salad, DeliverySettings.model_validate({})), "must_arrive": True}


def to_store(kind: StoreKind, block: Mapping[str, Any], salad: SaladSettings) -> dict[str, Any]:
    return {"store": plan_store(kind, block, salad), "must_arrive": True}


def on_nanio(server: S3Server, **changes: str) -> dict[str, str]:
    return {
        "aws_region": "us-east-1",
        "aws_access_key_id": server.access_key_id,
        "aws_secret_access_key": server.secret_access_key,
        "aws_endpoint_url": server.endpoint_url,
    } | changes


async def test_s3(job: MakeJob, output: MakeOutput, nanio_server: S3Server, tmp_path: Path) -> None:
    """The key is prefix and name, whatever letters these have; the URL has the key as it is; order stays."""
    async with delivering(tmp_path, **on_nanio(nanio_server)) as (delivery, salad):
        asked = to_s3({"bucket": "outputs", "prefix": "my folder/ä#?+"}, salad)
        files = (output(NAME.replace("%", "&")), output("id-1_b.png", node_id="10"))
        done = await delivery.deliver(job(run=3, **asked), files)
    keys = [f"my folder/ä#?+{file.filename}" for file in files]
    assert [one.url for one in done] == [f"s3://outputs/{key}" for key in keys]
    assert all(one.url_expires_at is None for one in done)

    def stored(key: str) -> tuple[bytes, str]:
        found = nanio_server.client().get_object(Bucket="outputs", Key=key)
        return found["Body"].read(), found["ContentType"]

    assert [await asyncio.to_thread(stored, key) for key in keys] == [(png(), "image/png")] * 2


async def test_s3_by_the_machines_own_keys(
    job: MakeJob, output: MakeOutput, nanio_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS's programs find them, here in a file; without any it is said."""
    file = tmp_path / "credentials"
    keys = f"aws_access_key_id={nanio_server.access_key_id}\naws_secret_access_key={nanio_server.secret_access_key}"
    file.write_text(f"[default]\n{keys}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    own = {"aws_region": "us-east-1", "aws_endpoint_url": nanio_server.endpoint_url}
    async with delivering(tmp_path, **own) as (delivery, salad):
        asked = to_s3({"bucket": "outputs", "prefix": "own/"}, salad)
        (done,) = await delivery.deliver(job(**asked), (output("a.png"),))
        assert done.url == "s3://outputs/own/a.png"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    async with delivering(tmp_path, **own) as (delivery, salad):
        error = await failure(delivery, job(**asked), output("a.png"))
    assert "NoCredentials" in error.message


async def test_azure(job: MakeJob, output: MakeOutput, azurite_server: AzureServer, tmp_path: Path) -> None:
    """Container, prefix and name, in a URL of the account."""
    async with delivering(tmp_path, azure_connection_string=azurite_server.connection_string) as (delivery, salad):
        asked = to_store(StoreKind.AZURE, {"container": CONTAINER, "blob_prefix": "/in a/"}, salad)
        (done,) = await delivery.deliver(job(**asked), (output(NAME),))
    assert done.url == f"{azurite_server.endpoint}/{CONTAINER}/in%20a/{QUOTED}"

    def stored() -> bytes:
        with azurite_server.client() as client:
            return client.get_blob_client(CONTAINER, f"in a/{NAME}").download_blob().readall()

    assert await asyncio.to_thread(stored) == png()


async def test_hugging_face(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """One commit for all files of a job; values that are no files stay what they are."""
    async with (
        FakeHub() as hub,
        delivering(tmp_path, hf_token=TOKEN, hf_endpoint=hub.endpoint) as (delivery, salad),
    ):
        content = hub.repo("u/r", kind="dataset")
        asked = to_store(StoreKind.HUGGING_FACE, {"repo": "u/r", "repo_type": "dataset", "directory": "/x y"}, salad)
        text = replace(output("none"), local_path="", text="hello")
        files = (output(NAME), text, output("id-1_model.bin", node_id="10"))
        done = await delivery.deliver(job(**asked), files)
        assert len(hub.commits) == 1
    assert content == {f"x y/{NAME}": png(), "x y/id-1_model.bin": png()}
    above = f"{hub.endpoint}/datasets/u/r/resolve/main/x%20y"
    assert [one.url for one in done] == [f"{above}/{QUOTED}", None, f"{above}/id-1_model.bin"]


async def test_a_commit_that_others_came_before_is_made_again(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """As with any store, after a while."""
    async with (
        FakeHub(failures=[412]) as hub,
        delivering(tmp_path, hf_token=TOKEN, hf_endpoint=hub.endpoint) as (delivery, salad),
    ):
        hub.repo("u/r")
        asked = to_store(StoreKind.HUGGING_FACE, {"repo": "u/r"}, salad)
        (done,) = await delivery.deliver(job(**asked), (output("a.png"),))
    assert done.url == f"{hub.endpoint}/u/r/resolve/main/a.png"


async def test_a_web_server(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """The operator's header goes to hosts on its list, and to no other."""
    header = {"http_header_name": "X-Own", "http_header_value": "hush"}
    async with S3Stub() as listed, S3Stub() as other:
        allowed = (listed.url.removeprefix("http://"),)
        async with delivering(tmp_path, http_header_hosts=allowed, **header) as (delivery, salad):
            for stub in (listed, other):
                asked = to_store(StoreKind.HTTP, {"url_prefix": f"{stub.url}/p//"}, salad)
                (done,) = await delivery.deliver(job(**asked), (output(NAME),))
                assert done.url == f"{stub.url}/p/{QUOTED}"
                assert stub.stored == {f"/p/{NAME}": (png(), "image/png")}
    assert listed.headers[0]["X-Own"] == "hush"
    assert "X-Own" not in other.headers[0]


async def test_what_is_converted_arrives_converted(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """Name and type are the new ones."""
    async with S3Stub() as stub, delivering(tmp_path) as (delivery, salad):
        asked = to_store(StoreKind.HTTP, {"url_prefix": stub.url}, salad)
        await delivery.deliver(job(convert=ConvertSpec(format="jpeg"), **asked), (output("a.png"),))
        ((path, (content, mime_type)),) = stub.stored.items()
    assert (path, content[:3], mime_type) == ("/a.jpeg", b"\xff\xd8\xff", "image/jpeg")


async def failure(delivery: OutputDelivery, job: Job, *outputs: Output) -> StorageFailed:
    with pytest.raises(StorageFailed) as caught:
        await delivery.deliver(job, outputs)
    assert all(Path(one.local_path).is_file() for one in outputs)
    return caught.value


async def test_a_failed_upload_fails_the_job(
    job: MakeJob, output: MakeOutput, nanio_server: S3Server, tmp_path: Path
) -> None:
    """Salad's API says 200 with a dead URL. Storage and reason are named, the operator's endpoint and keys are not;
    the file stays where it is."""
    async with delivering(tmp_path, **on_nanio(nanio_server)) as (delivery, salad):
        error = await failure(delivery, job(**to_s3({"bucket": "nowhere"}, salad)), output("a.png"))
    assert error.message == (
        "1 of 1 files did not arrive: S3 upload failed: NoSuchBucket: the worker's own storage did not take the file"
    )
    assert error.details["files"] == ["a.png"]
    assert not error.retryable
    wrong = on_nanio(nanio_server, aws_secret_access_key="hush")
    async with delivering(tmp_path, **wrong) as (delivery, salad):
        error = await failure(delivery, job(**to_s3({"bucket": "outputs"}, salad)), output("a.png"))
    assert "SignatureDoesNotMatch" in error.message and "hush" not in error.message


async def test_each_storage_is_named(
    job: MakeJob, output: MakeOutput, azurite_server: AzureServer, tmp_path: Path
) -> None:
    """With the reason in its own words."""
    async with (
        FakeHub() as hub,
        S3Stub([403]) as stub,
        delivering(
            tmp_path,
            azure_connection_string=azurite_server.connection_string,
            hf_token=TOKEN,
            hf_endpoint=hub.endpoint,
        ) as (delivery, salad),
    ):
        for kind, block, told in (
            (StoreKind.AZURE, {"container": "nowhere"}, "Azure upload failed: ContainerNotFound"),
            (StoreKind.HUGGING_FACE, {"repo": "u/none"}, "Hugging Face upload failed: Status404"),
            (StoreKind.HTTP, {"url_prefix": f"{stub.url}/p"}, "PUT to '127.0.0.1' failed: status 403"),
        ):
            error = await failure(delivery, job(**to_store(kind, block, salad)), output("a.png"), output("b.png"))
            assert told in error.message
            assert error.message.startswith("1 of 2" if kind is StoreKind.HTTP else "2 of 2")
            assert TOKEN not in error.message and "sig=" not in error.message


async def test_where_files_need_not_arrive_the_entry_says_it(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """And the file is not lost: it comes inside the answer."""
    async with S3Stub([403]) as stub, delivering(tmp_path) as (delivery, salad):
        asked = to_store(StoreKind.HTTP, {"url_prefix": stub.url}, salad) | {"must_arrive": False}
        (done,) = await delivery.deliver(job(**asked), (output("a.png"),))
    assert "status 403" in (done.upload_error or "") and done.data_base64


async def test_an_account_that_is_no_more(job: MakeJob, output: MakeOutput, tmp_path: Path) -> None:
    """A job of an earlier life, whose settings had one: it fails with a reason."""
    async with delivering(tmp_path) as (delivery, _):
        target = StoreTarget(kind=StoreKind.AZURE, place={"container": "outputs", "prefix": ""})
        error = await failure(delivery, job(store=target, must_arrive=True), output("a.png"))
    assert "Azure upload failed: NotConfigured" in error.message
    async with S3Stores(guard=AddressGuard()) as stores:
        with pytest.raises(StorageFailed):
            opener(stores, DeliverySettings.model_validate({}))(target)


def test_settings_of_other_places_stay_there() -> None:
    """``S3_ADDRESSING_STYLE``, ``S3_PUBLIC_BASE_URL`` and the like are for the ``S3_*`` bucket, not for ``AWS_*``."""
    settings = DeliverySettings.model_validate(
        {
            "s3_bucket_name": "outputs",
            "s3_addressing": "virtual",
            "s3_checksums": "when_supported",
            "s3_public_base_url": "https://cdn.example",
        }
    )
    target = S3Target(bucket_name="outputs", access_key_id="k", secret_access_key="s", operator=True)
    stores = S3Stores(guard=AddressGuard())
    own = opener(stores, settings)(target)._place  # type: ignore[union-attr]
    plain = opener(stores, settings)(replace(target, plain=True))._place  # type: ignore[union-attr]
    assert (own.addressing, own.checksums, own.public_base_url) == ("virtual", "when_supported", "https://cdn.example")
    assert (plain.addressing, plain.checksums, plain.public_base_url) == ("auto", "when_required", None)
    assert plain.plain and plain.trusted
