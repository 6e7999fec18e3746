"""Puts the deciding parts together, without HTTP: what the process, the tests and the benchmark start from."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from lib.clock import Clock
from lib.lifecycle import Tasks
from router.alarm import Alarm
from router.bulletin import Bulletin
from router.direct import DirectRequests
from router.dispatch import Dispatcher
from router.endpoints import Endpoints
from router.estimate import SizeRow
from router.experience import Experience
from router.fleet import Fleet, Probe
from router.learning import Learning
from router.metrics import RouterMetrics
from router.newsroom import Newsroom
from router.planner import Planner
from router.ports import SharedState
from router.registry import Epoch, Registry
from router.storelink import StoreLink

STALE_S, GONE_S, REPLAY_TIMEOUT_S = 25.0, 300.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The deciding parts of one replica."""

    dispatcher: Dispatcher
    newsroom: Newsroom
    link: StoreLink
    metrics: RouterMetrics
    learning: Learning
    direct: DirectRequests


def build_core(
    endpoints: Endpoints,
    *,
    state: SharedState,
    shared: bool,
    replica: str,
    clock: Clock,
    tasks: Tasks,
    chance: random.Random,
    probe: Probe,
    sizes: Iterable[SizeRow] = (),
    stale_s: float = STALE_S,
    gone_s: float = GONE_S,
    replay_timeout_s: float = REPLAY_TIMEOUT_S,
) -> Core:
    """Build them, and start their one loop of moments; ``newsroom`` is the caller's to run, or to let catch up."""
    metrics, learning, alarm = RouterMetrics(), Learning(sizes), Alarm(clock)
    link = StoreLink(state, clock=clock)
    link.listen(metrics.store)
    bulletin = Bulletin(link, shared=shared, replica=replica, epoch=Epoch(clock), tasks=tasks)
    registry = Registry(endpoints, clock=clock, stale_s=stale_s)
    planner = Planner(
        endpoints=endpoints,
        registry=registry,
        bulletin=bulletin,
        clock=clock,
        tasks=tasks,
        alarm=alarm,
        learning=learning,
        metrics=metrics,
        chance=chance,
    )
    fleet = Fleet(
        registry=registry,
        planner=planner,
        link=link,
        bulletin=bulletin,
        learning=learning,
        probe=probe,
        clock=clock,
        tasks=tasks,
        alarm=alarm,
        gone_s=gone_s,
    )
    endpoints.listen(lambda endpoint, here: None if here else fleet.closed(endpoint.name))
    experience = Experience(registry=registry, learning=learning, metrics=metrics, clock=clock)
    dispatcher = Dispatcher(
        endpoints=endpoints,
        registry=registry,
        planner=planner,
        fleet=fleet,
        learning=learning,
        experience=experience,
        link=link,
        bulletin=bulletin,
        metrics=metrics,
        clock=clock,
    )
    newsroom = Newsroom(
        planner=planner,
        fleet=fleet,
        learning=learning,
        experience=experience,
        link=link,
        bulletin=bulletin,
        replica=replica,
        clock=clock,
    )
    direct = DirectRequests(
        dispatcher=dispatcher, link=link, alarm=alarm, clock=clock, shared=shared, replay_timeout_s=replay_timeout_s
    )
    tasks.spawn(alarm.run(), name="moments", vital=True)
    return Core(dispatcher=dispatcher, newsroom=newsroom, link=link, metrics=metrics, learning=learning, direct=direct)
