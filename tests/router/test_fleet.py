"""The fleet's side of endpoints that come and go."""

from router.endpoint_settings import EndpointSettings
from router.planner import REMEMBERED_S
from router.registry import record_of
from tests.fakes.router_world import TOKEN, Replica


async def test_an_endpoint_that_is_removed_leaves_nothing_behind(router: Replica) -> None:
    """Neither its workers nor what they had been given, nor who waited for one."""
    endpoints, dispatcher = router.dispatcher.endpoints, router.dispatcher
    made = endpoints.add(EndpointSettings(name="new"), api_key="c" * 20, created_at=1.0)
    report = {
        "id": 5,
        "version": "1.1.0",
        "loadtime": 5.0,
        "max_perf": 100.0,
        "url": "http://10.0.0.5:3000",
        "slots": 1,
    }
    place, now = endpoints.place(5, token=TOKEN, prefix="new"), router.clock.now().timestamp()
    await dispatcher.heard(record_of(report, worker_id=5, place=place, now=now, previous=None))
    assert await router.give("77", endpoint="new") == "new/5"
    waiter = router.waiting("78", endpoint="new")
    await router.clock.advance(0.1)
    endpoints.remove(made)
    await router.clock.advance(0.1)
    assert (waiter.task.done(), waiter.worker) == (True, None)
    assert dispatcher.worker("new/5") is None
    await router.clock.advance(REMEMBERED_S)
    assert not dispatcher.has("77")
    assert not dispatcher.has("78")
