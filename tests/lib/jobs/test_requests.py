"""What a request weighs, and that one which failed can be submitted again, over both stores."""

import gc
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from lib.errors import ExecutionFailed, InvalidWorkflow, JobTimeout, ServiceError
from lib.jobs.model import Credential, DeliverySpec, JobSpec, JobStatus, NamedInput, WebhookTarget
from lib.jobs.requests import is_repeatable, lightened, remains, request_size, spent
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import JobWorld, build_jobs, finish_all, finished, spec
from tests.lib.jobs.store_values import TO_S3, ended, job

FILES = (NamedInput(name="a.png", value="A" * 1000), NamedInput(name="b.png", value="https://x/b"))
ASKED: dict[str, Any] = {
    "repeatable": True,
    "files": FILES,
    "workflow": b'{"1": {}}',
    "credentials": (Credential(kind="comfy_org", values={"api_key": "hidden"}),),
    "delivery": replace(TO_S3, webhooks=(WebhookTarget(url="https://hooks.example/1", secret="whsec"),)),
}


def test_the_size_of_a_request() -> None:
    """Its workflow, and what is in its files."""
    assert request_size(spec(workflow=b"12345")) == 5
    assert request_size(spec(workflow=b"12345", files=FILES)) == 5 + 1000 + 11


def test_files_can_be_let_go_of() -> None:
    """Their names and places stay; a request without files is the same object."""
    light = lightened(spec(files=FILES))
    assert [(file.name, file.value, file.field) for file in light.files] == [
        ("a.png", "", "images"),
        ("b.png", "", "images"),
    ]
    plain = spec()
    assert lightened(plain) is plain


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_only_what_failed_and_may_be_repeated_keeps_its_request(status: JobStatus, repeatable: bool) -> None:
    """Whole or not at all."""
    over = ended(job(1, **{**ASKED, "repeatable": repeatable}), status)
    whole = repeatable and status is JobStatus.FAILED
    assert is_repeatable(over) is whole
    assert remains(over).spec.files == (FILES if whole else ())
    kept = spent(over).spec
    if whole:
        assert kept == over.spec
    else:
        assert (kept.workflow, kept.files, kept.credentials, kept.delivery.webhooks) == (b"", (), (), ())
        assert kept.delivery.s3 is not None and kept.delivery.s3.secret_access_key == ""


async def failed(world: JobWorld, error: ServiceError) -> None:
    """Run the job named ``r`` and have it fail on the engine."""
    job = await world.service.submit(spec(**ASKED))
    async with aclosing(world.service.watch(job.job_id)) as views:
        await anext(view async for view in views if view.job.status is JobStatus.RUNNING)
    world.engine.finish(error)
    assert (await finished(world, job)).error is error


@pytest.mark.parametrize("how", ["failed", "too slow", "refused"])
async def test_a_job_that_failed_is_submitted_again(any_store: Any, clock: FakeClock, how: str) -> None:
    """The same request, found by its name: the next run, with all that the first one had."""
    world = build_jobs(clock=clock, store=any_store)
    if how == "refused":
        await world.service.refuse(spec(**ASKED), InvalidWorkflow("no"))
    else:
        await failed(world, JobTimeout("Too long.") if how == "too slow" else ExecutionFailed("boom"))
    world.engine.automatic = True
    found = await world.service.find("r", owner="")
    assert (found.status, found.spec) == (JobStatus.FAILED, spec(**ASKED))
    again = await world.service.submit(found.spec)
    assert (again.job_id != found.job_id, again.run, again.spec.repeatable) == (True, 2, True)
    await finished(world, again)
    done = await world.service.find("r", owner="")
    assert (done.job_id, done.status, done.spec.workflow) == (again.job_id, JobStatus.COMPLETED, b"")
    assert (done.spec.files, done.spec.credentials, done.spec.delivery.webhooks) == ((), (), ())
    await world.tasks.cancel()


async def test_files_do_not_outlive_their_job() -> None:
    """Neither who waited for it nor its number at a router holds megabytes; nor does a running job."""
    world = build_jobs()
    mark = "B" * 5000
    job = await world.service.submit(spec(tag=9, files=(NamedInput(name="a", value=mark),), delivery=DeliverySpec()))
    await finish_all(world, lambda: bool(world.engine.ran))
    assert [live.spec.files[0].value for live in world.service.live_jobs] == [""]
    world.engine.finish()
    done = await finished(world, job)
    assert [file.value for file in done.spec.files] == [""]
    del job
    gc.collect()
    assert not [
        found
        for found in gc.get_objects()
        if isinstance(found, JobSpec) and any(file.value == mark for file in found.files)
    ]
    await world.tasks.cancel()
