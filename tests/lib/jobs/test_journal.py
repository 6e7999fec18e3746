"""lib.jobs.journal: what is written of a job, and what is not."""

import threading
from dataclasses import replace

from lib.jobs.journal import BIG_BYTES, Journal
from lib.jobs.live import LiveJob, first_version
from lib.jobs.model import (
    Credential,
    DeliverySpec,
    Estimate,
    Job,
    JobEvent,
    JobStatus,
    OutboxItem,
    Output,
    OutputKind,
    PutTarget,
    S3Target,
    Timings,
    WebhookTarget,
)
from tests.fakes.clock import START, FakeClock
from tests.fakes.jobs import FakeAnnouncer, SlowStore, spec

SECRETS = ("their-key", "their-secret", "their-token", "hook-secret", "put-signature", "input-secret")
DELIVERY = DeliverySpec(
    s3=S3Target(
        bucket_name="bucket", access_key_id="their-key", secret_access_key="their-secret", session_token="their-token"
    ),
    put=PutTarget(urls=("https://put.example/?put-signature",)),
    webhooks=(WebhookTarget(url="https://hook.example/", secret="hook-secret"),),
    inline_base64=True,
)
FILE = Output(
    node_id="9", kind=OutputKind.IMAGE, source_key="images", filename="a.png", local_path="/a.png", data_base64="AAAA"
)


def ended() -> Job:
    credential = Credential(kind="s3", pattern="s3://*", values={"secret_access_key": "input-secret"})
    return Job(
        job_id="j",
        spec=spec(delivery=DELIVERY, credentials=(credential,), workflow=b'{"1": {}}'),
        sequence=1,
        cost=1.0,
        timings=Timings(accepted_at=START),
        status=JobStatus.COMPLETED,
        outputs=(FILE,),
        response={"p": {"outputs": {}}},
    )


def journal() -> tuple[Journal, SlowStore, FakeAnnouncer]:
    clock = FakeClock()
    store, announcer = SlowStore(clock=clock), FakeAnnouncer(clock)
    return Journal(store=store, announcer=announcer), store, announcer


def alive(job: Job) -> LiveJob:
    return LiveJob(job, lambda live: None, size=Estimate(units=1, shape=""), version=first_version(START))


async def test_what_is_kept_of_a_finished_job() -> None:
    """Outputs and response, how it was delivered; no request bytes, no inlined file, none of the caller's secrets."""
    books, store, announcer = journal()
    await books.finish(ended())
    kept = await store.get("j")
    assert kept is not None
    assert kept.response == {"p": {"outputs": {}}}
    assert [(output.filename, output.local_path, output.data_base64) for output in kept.outputs] == [
        ("a.png", "/a.png", None)
    ]
    assert (kept.spec.workflow, kept.spec.credentials) == (b"", ())
    delivery = kept.spec.delivery
    assert delivery.s3 is not None
    assert (delivery.s3.bucket_name, delivery.inline_base64) == ("bucket", True)
    shown = repr((delivery.s3.access_key_id, delivery.s3.secret_access_key, delivery.s3.session_token, delivery))
    assert not [secret for secret in SECRETS if secret in shown]
    assert announcer.told == [("r", JobEvent.COMPLETED)]


async def test_a_running_job_is_written_with_all_that_is_needed_to_go_on() -> None:
    """Its request, its secrets and outputs, but no inlined file: those are on disk."""
    books, store, _ = journal()
    job = replace(ended(), status=JobStatus.RUNNING)
    books.update(alive(job))
    (written,) = store.updates
    assert (written.spec, written.outputs[0].data_base64) == (job.spec, None)


async def test_only_a_first_start_is_told() -> None:
    """And only to webhooks that asked for it."""
    books, _, announcer = journal()
    asks = replace(DELIVERY, webhooks=(WebhookTarget(url="https://hook.example/", events=frozenset(JobEvent)),))
    for delivery, attempts in ((DELIVERY, 1), (asks, 1), (asks, 2)):
        job = ended().with_(status=JobStatus.RUNNING, attempts=attempts, spec=spec(delivery=delivery))
        books.started(alive(job))
    assert announcer.told == [("r", JobEvent.STARTED)]


async def test_messages_with_large_files_are_rendered_in_a_thread() -> None:
    """Megabytes of base64 would hold up everybody else; a small message is not worth a thread's turn."""
    threads: list[threading.Thread] = []

    class Watched(FakeAnnouncer):
        def messages(self, job: Job, event: JobEvent) -> tuple[OutboxItem, ...]:
            threads.append(threading.current_thread())
            return super().messages(job, event)

    clock = FakeClock()
    kept = Journal(store=SlowStore(clock=clock), announcer=Watched(clock))
    await kept.finish(ended())
    await kept.finish(ended().with_(outputs=(replace(FILE, data_base64="A" * BIG_BYTES * 2),)))
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
