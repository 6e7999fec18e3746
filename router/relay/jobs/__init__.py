"""Jobs that outlive their connections: accepted here, recorded first, done by workers, never lost.

A job is recorded before it is answered with 202. A router that holds its lease waits for a worker, submits it there and
follows it; every other router can take it over from there, as worker and name are in the record. ``doing`` is one job's
way, ``runner`` which jobs are held, ``accepting`` how they come in; ``wrapper`` and ``runpod`` are routes.
"""

from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any

from lib.lifecycle import every
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from router.parts import Ground
from router.relay.jobs.accepting import Accepting
from router.relay.jobs.counts import Counts
from router.relay.jobs.doing import Doing, Limits
from router.relay.jobs.endings import Endings
from router.relay.jobs.intake import Intake
from router.relay.jobs.live import Live
from router.relay.jobs.notices import Notices
from router.relay.jobs.releases import Releases
from router.relay.jobs.remote import Remote
from router.relay.jobs.rendering import render_error
from router.relay.jobs.runner import Runner
from router.relay.jobs.runpod import RunPodJobs
from router.relay.jobs.shelf import Shelf
from router.relay.jobs.telling import Telling
from router.relay.jobs.tools import Tools
from router.relay.jobs.wrapper import WrapperJobs
from router.relay.ports import JobsHalf, Sizing, Upstream

EXPIRE_S = 300.0
NOTICES_S = 30.0


async def build_jobs(ground: Ground, stack: AsyncExitStack, *, upstream: Upstream, sizing: Sizing) -> JobsHalf:
    """Build the half of the relay that keeps jobs."""
    settings, clock, jobs = ground.settings, ground.clock, ground.jobs
    guard = AddressGuard(allow=settings.webhook_allow_hosts, setting="ROUTER_WEBHOOK_ALLOW_HOSTS")
    http = await stack.enter_async_context(GuardedHttp(guard))
    endings, counts = Endings(jobs.get, clock=clock), Counts(jobs, dispatcher=ground.dispatcher)
    secret = settings.salad_webhook_secret.get_secret_value() if settings.salad_webhook_secret else ""
    notices = Notices(jobs, http=http, tasks=ground.tasks, clock=clock, salad_secret=secret)
    releases = Releases(ground.dispatcher, link=ground.core.link, replica=ground.replica)
    telling = Telling(ground, endings=endings, counts=counts, notices=notices, releases=releases)
    runner = telling.runner = _runner(ground, upstream=upstream, releases=releases, telling=telling)
    ground.core.newsroom.listen(telling.hear)
    ground.core.link.listen(telling.trouble)
    stack.callback(ground.dispatcher.changes.listen(telling.change))
    tools = Tools(
        accepting=Accepting(jobs, dispatcher=ground.dispatcher, clock=clock, announce=telling.announce),
        intake=Intake(sizing, max_body_bytes=settings.max_body_bytes),
        shelf=Shelf(
            jobs, endpoints=ground.endpoints, endings=endings, clock=clock, told=telling.changed, notice=notices.add
        ),
        live=Live(ground.dispatcher, upstream=upstream),
        counts=counts,
    )
    wrapper, runpod = WrapperJobs(tools, public_url=settings.public_url), RunPodJobs(tools, tasks=ground.tasks)
    return JobsHalf(
        keep=wrapper.keep,
        routes=[*wrapper.routes(), *runpod.routes()],
        render_error=render_error,
        loops=_loops(ground, runner=runner, notices=notices),
        health=lambda: {"held_jobs": len(runner), "ended_jobs": counts.totals()},
        stop=runner.stop,
    )


def _runner(ground: Ground, *, upstream: Upstream, releases: Releases, telling: Telling) -> Runner:
    settings, dispatcher, clock = ground.settings, ground.dispatcher, ground.clock
    doing = Doing(
        dispatcher=dispatcher,
        remote=Remote(upstream, max_result_bytes=settings.max_result_bytes),
        releases=releases,
        new_number=ground.core.direct.new_number,
        begun=telling.begun,
        clock=clock,
        limits=Limits(patience_s=settings.patience_s, counted_s=settings.lease_s),
    )
    return Runner(
        jobs=ground.jobs,
        doing=doing,
        tasks=ground.tasks,
        clock=clock,
        holder=ground.replica,
        lease_s=settings.lease_s,
        places=lambda endpoint: sum(worker.view.slots for worker in dispatcher.workers(endpoint)),
        count=dispatcher.keep,
        ended=telling.ended,
    )


def _loops(ground: Ground, *, runner: Runner, notices: Notices) -> Mapping[str, Coroutine[Any, Any, object]]:
    clock, life_s = ground.clock, ground.settings.result_ttl_s

    async def expire() -> int:
        return await ground.jobs.expire(older_than=clock.now().timestamp() - life_s)

    return {
        "jobs": runner.run(),
        "leases": runner.keep(),
        "expiry": every(EXPIRE_S, expire, name="relay: expiry", clock=clock),
        "notices": every(NOTICES_S, notices.look, name="relay: notices", clock=clock),
    }
