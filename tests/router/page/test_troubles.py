"""What went wrong lately is remembered, whether anybody looks or not."""

from collections.abc import Iterator

import pytest

from router.cases import Ending
from router.page.troubles import MOST, Mishap, Troubles
from router.refusals import Refusal
from tests.fakes.clock import settle
from tests.fakes.router_world import Replica


@pytest.fixture
def troubles(router: Replica) -> Iterator[Troubles]:
    found = Troubles(router.dispatcher, clock=router.clock)
    stop = router.dispatcher.changes.listen(found.hear)
    yield found
    stop()


def told(troubles: Troubles) -> list[tuple[Mishap, str, str]]:
    troubles.settle()
    return [(one.mishap, one.worker, one.request_id) for one in troubles.latest]


@pytest.mark.parametrize(
    ("reason", "mishap"),
    [(Refusal.FULL, Mishap.FULL), (Refusal.FAILED, Mishap.FAILED), (Refusal.UNREACHABLE, Mishap.FAILED)],
)
async def test_a_request_that_was_not_done(
    router: Replica, troubles: Troubles, reason: Refusal, mishap: Mishap
) -> None:
    """Turned away, or failed: which request, on which worker."""
    await router.report(1)
    await router.give("5")
    await router.dispatcher.refused("5", "ep/1", reason)
    assert (mishap, "ep/1", "5") in told(troubles)


async def test_a_job_that_failed_for_good(router: Replica, troubles: Troubles) -> None:
    """No other worker is tried, and it is told all the same."""
    await router.report(1)
    await router.give("5")
    await router.done("5", ending=Ending.ERROR)
    assert told(troubles) == [(Mishap.FAILED, "ep/1", "5")]


async def test_what_went_well_is_no_trouble(router: Replica, troubles: Troubles) -> None:
    """Nor is what its caller cancelled; also for a worker that failed before."""
    await router.report(1)
    await router.give("4")
    await router.done("4", ending=Ending.ERROR)
    for number, ending in enumerate((Ending.SUCCESS, Ending.CANCELLED)):
        await router.give(str(number))
        await router.done(str(number), ending=ending)
    assert told(troubles) == [(Mishap.FAILED, "ep/1", "4")]


async def test_workers_that_break_and_recover(router: Replica, troubles: Troubles) -> None:
    """Once for each turn, however often they say it."""
    await router.report(1)
    for _ in range(3):
        await router.report(1, error_msg="CUDA error\nat line 3")
    await router.report(1, error_msg=None)
    await router.dispatcher.drop("ep/1")
    await settle()
    assert told(troubles) == [(one, "ep/1", "") for one in (Mishap.ERROR, Mishap.RECOVERED, Mishap.GONE)]
    assert troubles.latest[0].text == "CUDA error at line 3"


async def test_silence_is_told(router: Replica, troubles: Troubles) -> None:
    """The worker itself can't."""
    await router.report(1)
    await router.clock.advance(26)
    await settle()
    assert told(troubles) == [(Mishap.SILENT, "ep/1", "")]


async def test_the_oldest_are_forgotten(router: Replica, troubles: Troubles) -> None:
    """All are counted."""
    await router.report(1)
    for number in range(MOST + 5):
        await router.give(str(number))
        await router.done(str(number), ending=Ending.ERROR)
    assert len(told(troubles)) == MOST
    assert (troubles.count, troubles.latest[0].request_id) == (MOST + 5, "5")
