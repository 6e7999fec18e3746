"""A whole run's log, at its chattiest, holds none of the secrets that the run had in hand."""

import base64
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import stamina

from lib.clock import SystemClock
from lib.delivery.announcements import Announcements
from lib.delivery.outbox import WebhookSender
from lib.delivery.places import opener
from lib.delivery.posting import Posts
from lib.delivery.put import Puts
from lib.delivery.schedules import schedules
from lib.delivery.uploads import Uploads
from lib.errors import ExecutionFailed, InputFetchFailed, ServiceError
from lib.jobs.model import (
    Credential,
    DeliverySpec,
    JobEvent,
    JobSpec,
    Output,
    OutputKind,
    PutTarget,
    S3Target,
    WebhookScheme,
    WebhookTarget,
)
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.s3 import S3Stores
from lib.storage.sources import Source
from lib.telemetry.logs import configure_logging
from tests.fakes.clock import settle
from tests.fakes.http_hosts import WebHost
from tests.fakes.jobs import build_jobs, finished

SIGNING = base64.b64encode(b"planted-secret-for-webhooks").decode()
PLANTED = re.compile(f"planted|{re.escape(SIGNING)}")


@pytest.fixture(autouse=True, scope="module")
def quiet_stamina() -> None:
    """As ``lib.app`` does: stamina's own metrics, made at the first retry inside the event loop, are not wanted."""
    stamina.instrumentation.set_on_retry_hooks(())


@pytest.fixture(params=["json", "text"])
def logged(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    log_format: Literal["json", "text"] = request.param
    configure_logging(level="debug", log_format=log_format, stream=(stream := io.StringIO()))
    yield stream
    root.handlers[:], root.level = before


def webhook(host: WebHost, scheme: WebhookScheme) -> WebhookTarget:
    return WebhookTarget(url=host.url("/status/500?token=planted"), scheme=scheme, secret=f"whsec_{SIGNING}")


def secretive(host: WebHost) -> JobSpec:
    """A request with a secret in every place that may hold one."""
    return JobSpec(
        request_id="req-1",
        dialect="test",
        workflow=b'{"1": {"class_type": "X", "inputs": {"text": "planted"}}}',
        credentials=(Credential(kind="http", pattern=host.url("/**"), values={"Authorization": "Bearer planted-0"}),),
        delivery=DeliverySpec(
            s3=S3Target(
                bucket_name="bucket",
                access_key_id="plantedkey",
                secret_access_key="planted/secret",
                session_token="planted-token",
                endpoint_url=host.url("/status/403"),
                region="us-east-1",
            ),
            put=PutTarget(urls=(host.url("/status/403?X-Amz-Signature=planted"),), headers={"X-Token": "planted"}),
            webhooks=tuple(webhook(host, scheme) for scheme in WebhookScheme),
        ),
    )


async def test_no_secret_reaches_the_log(logged: io.StringIO, tmp_path: Path) -> None:
    """Fetching, executing, uploading and telling fail one after the other, with the caller's secrets in hand."""
    guard, clock = AddressGuard(allow=["127.0.0.1"]), SystemClock()
    delivery, when = DeliverySettings(), schedules(DeliverySettings())
    async with (
        WebHost() as host,
        GuardedHttp(guard) as http,
        S3Stores(guard=guard) as stores,
        Tasks() as tasks,
    ):
        asked = secretive(host)
        # inputs
        downloads = Downloads(
            store=ContentStore(tmp_path / "cache", quota_bytes=1 << 20),
            http=http,
            settings=StorageSettings(),
            tasks=tasks,
            retry_wait_s=0.0,
        )
        for path in ("/status/401?sig=planted", "/cut?sig=planted", "/to?" + host.url("/status/500?sig=planted")):
            source = Source(url=host.url(path), headers=(("Authorization", "Bearer planted-0"),))
            with pytest.raises(InputFetchFailed) as refused:
                await downloads.fetch(source, field="1.image")
            logging.getLogger("lib").warning("as a defect would be logged", exc_info=refused.value)
        # the job itself
        world = build_jobs()
        job = await world.service.submit(asked)
        await settle()
        world.engine.finish(ExecutionFailed("node 1 failed", details={"node_id": "1"}))
        failed = await finished(world, job)
        # outputs
        (tmp_path / "a.png").write_bytes(b"x")
        output = Output(
            node_id="9",
            kind=OutputKind.IMAGE,
            source_key="images",
            filename="a.png",
            local_path=str(tmp_path / "a.png"),
            size_bytes=1,
        )
        assert asked.delivery.s3 is not None
        assert asked.delivery.put is not None
        uploads = Uploads(open_store=opener(stores, delivery), expires_s=60, clock=clock)
        for sent in (
            await uploads.upload(failed, [output], asked.delivery.s3),
            await Puts(http=http).put([output], asked.delivery.put),
        ):
            assert sent[0].upload_error
        # webhooks
        done = replace(failed, spec=asked)
        posts = Posts(http=http, schedules=when, clock=clock)
        sender = WebhookSender(outbox=world.store, posts=posts, schedules=when, tasks=tasks, clock=clock)
        announcements = Announcements(
            renders={"test": lambda job, target: b'{"planted": 1}'}, send=sender.send, clock=clock
        )
        async with sender:
            items = announcements.messages(done, JobEvent.FAILED)
            await world.store.finish(done, items)
            announcements.stored(items)
        logging.getLogger("lib").error("values of ours", extra={"job": done, "item": items[0], "source": source})
        assert isinstance(done.error, ServiceError)
        await world.tasks.cancel()
    text = logged.getvalue()
    for event in ("webhook.postponed", "upload.failed", "values of ours"):
        assert event in text
    assert PLANTED.findall(text) == []
